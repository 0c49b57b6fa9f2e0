"""The command `rlkit`. Listing, describing and help import neither torch nor Hydra."""

import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import typer

from rlkit import __version__, catalogue, registry
from rlkit.images import command as images
from rlkit.launch import BAD_INPUT, FAILED, INTERRUPTED, OK, launch, limit_threads, report
from rlkit.lm import command as lm
from rlkit.validation import check_choice, check_integer, nearest

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
UsageError: Any = typer.BadParameter.__mro__[1]  # of the click that this typer uses
app = typer.Typer(
    name="rlkit",
    help="A reinforcement-learning research gym for RLHF and policy-alignment theory.",
    add_completion=True,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
app.add_typer(lm.app, name="lm")
app.add_typer(images.app, name="diffusion")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"rlkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """A reinforcement-learning research gym for RLHF and policy-alignment theory."""


@app.command("list")
def _list(
    what: Annotated[str, typer.Argument(help="envs, agents, experiments or figures")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List problems, agents, experiments or figures with one line each."""
    check_choice("list", what, catalogue.SECTIONS)
    catalogue.show_list(what, json)


@app.command("describe")
def _describe(
    name: Annotated[str, typer.Argument(help="a problem, agent, experiment or figure")],
) -> None:
    """Show the fields, defaults and documentation of one name, with an example."""
    catalogue.show_description(name.removeprefix("rlkit/"))


@app.command("run", context_settings=PASS_ON)
def _run(context: typer.Context) -> int:
    """Run an experiment, or with -m a sweep: rlkit run experiment=NAME key=value."""
    return launch(context.args)


@app.command("figure")
def _figure(
    name: Annotated[str | None, typer.Argument(help="see rlkit list figures")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every figure.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Smoke size; claims do not fail.")] = False,
    out: Annotated[str, typer.Option("--out", help="Folder for the files.")] = "runs/figures",
    jobs: Annotated[int, typer.Option("--jobs", help="Processes; 0: one a core.")] = 0,
) -> int:
    """Run what a figure needs, draw it, check its claims."""
    known = registry.figures()
    if every == (name is not None):
        raise ValueError(f"figure takes one name or --all{nearest(name, known)}")
    if name is not None and name not in known:
        raise ValueError(f"figure {name!r} unknown{nearest(name, known)}")
    check_integer("--jobs", jobs, 0)
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"--out {out!r} is a file; allowed: a folder")
    limit_threads()
    produce = import_module("rlkit.figures").produce
    run_error = import_module("rlkit.experiments.runner").RunError
    wanted = list(known) if name is None else [name]
    count = jobs or os.cpu_count() or 1
    try:
        return max(int(produce(each, quick=quick, out=Path(out), jobs=count)) for each in wanted)
    except run_error as error:
        report(str(error))
        return FAILED


@app.command("check")
def _check(
    env_id: Annotated[str, typer.Argument(help="a problem, rlkit/ may be left out")],
    fields: Annotated[list[str] | None, typer.Argument(help="field=value ...")] = None,
) -> int:
    """Check an environment: interfaces, replicas, determinism, regret, pickling."""
    name = re.sub(r"^(rlkit:)?(rlkit/)?", "", env_id)
    values = catalogue.parse_fields(fields or [])
    limit_threads()
    try:
        checked = import_module("rlkit.checker").check(name, **values)
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(f"{env_id}: {error}; allowed: what the environment accepts") from None
    print(checked)
    print(f"{name}: {len(checked.failures) or 'no'} failures")
    return FAILED if checked.failures else OK


@app.command("board")
def _board(
    experiment: Annotated[str | None, typer.Argument(help="a folder of runs/")] = None,
    port: Annotated[int, typer.Option(help="Local port.")] = 6006,
) -> None:
    """Open TensorBoard on the runs, on this machine only."""
    check_integer("--port", port, 1, 65535)
    runs = Path("runs")
    found = [p.name for p in runs.glob("[!.]*") if p.is_dir()]
    if experiment is not None and experiment not in found:
        raise ValueError(f"experiment {experiment!r} has no runs{nearest(experiment, found)}")
    if not found:
        raise ValueError("no folder runs here; allowed: after rlkit run experiment=NAME")
    folder = runs if experiment is None else runs / experiment
    command = ["-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    # In place of this process, so that a signal sent to it reaches the server.
    os.execv(sys.executable, [sys.executable, *command, "--host", "127.0.0.1"])


@app.command("doctor")
def _doctor() -> int:
    """Show versions and devices, and test that results are reproducible here."""
    limit_threads()
    return int(import_module("rlkit.doctor").examine())


def execute(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    0 is success, 1 a failed run or claim, 2 bad input, 75 interrupted and resumable.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        if list(arguments[:1]) == ["run"]:
            return launch(arguments[1:])
        result = app(args=list(arguments), prog_name="rlkit", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else OK
    except ValueError as error:
        report(" ".join(str(error).split()))
        return BAD_INPUT
    except UsageError as error:
        report(f"{error.format_message()} Allowed: see rlkit --help")
        return BAD_INPUT
    except BrokenPipeError:  # the reader, such as head, has enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return OK
    except OSError as error:
        report(f"{error.filename or 'system'}: {error.strerror}")
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        report("interrupted; the same command resumes")
        return INTERRUPTED


def main() -> None:
    """Entry point of the command `rlkit`."""
    sys.exit(execute(sys.argv[1:]))


if __name__ == "__main__":
    main()

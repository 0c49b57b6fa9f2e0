"""The command `rlkit diffusion`. Help imports neither torch nor diffusers."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from rlkit import catalogue
from rlkit.launch import limit_threads
from rlkit.tuning import command as shared

app = typer.Typer(help="Tune an image diffusion model from a local folder.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Tune an image diffusion model from a local folder."""


@app.command("train")
def _train(
    agent: Annotated[str, typer.Option("--agent", help="find or ddpo.")],
    model: Annotated[str, typer.Option("--model", help="Folder of a diffusers model.")],
    reward: Annotated[str, typer.Option("--reward", help="module:function of images, prompts.")],
    out: shared.Out,
    fields: shared.Fields = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="May be repeated.")] = None,
    prompts: Annotated[str | None, typer.Option("--prompts", help="File, one a line.")] = None,
    steps: shared.Steps = 100,
    denoising: Annotated[int, typer.Option("--denoising", help="Steps of a sample.")] = 20,
    eta: Annotated[
        float | None, typer.Option("--eta", help="Of DDIM; 0 for find, 1 for ddpo.")
    ] = None,
    spacing: Annotated[
        str, typer.Option("--spacing", help="leading, trailing, linspace; auto: the folder's.")
    ] = "auto",
    clip: Annotated[str, typer.Option("--clip", help="on, off; auto: the folder's.")] = "auto",
    floor: Annotated[float, typer.Option("--floor", help="Least deviation of a step.")] = 0.01,
    guidance: Annotated[float, typer.Option("--guidance", help="Of prompts; 1: none.")] = 1.0,
    lora: shared.Lora = 0,
    chunk: Annotated[int, typer.Option("--chunk", help="Most images at once.")] = 32,
    record: shared.Record = 10,
    save: shared.Save = 50,
    look: Annotated[int, typer.Option("--look", help="Images of a record.")] = 16,
    seed: shared.Seed = 0,
    device: shared.Device = "cpu",
) -> int:
    """Tune a diffusion model to a reward; the same command resumes."""
    limit_threads()
    values = catalogue.parse_fields(fields or [])
    training, tasks = import_module("rlkit.images.training"), import_module("rlkit.images.task")
    length = training.Length(steps=steps, record=record, save=save, look=look)
    shared.check_out(out)
    if prompt and prompts is not None:
        raise ValueError("--prompt and --prompts are both given; allowed: one of them")
    wanted = tuple(prompt or ()) if prompts is None else tasks.read_prompts(Path(prompts))
    trainer = prepare(
        agent, values, Path(model), reward, wanted, Path(out), lora=lora, seed=seed, clip=clip,
        device=device, sampling={"steps": denoising, "spacing": spacing, "floor": floor},
        eta=eta, batching={"guidance": guidance, "chunk": chunk},
    )  # fmt: skip
    return shared.complete(
        trainer, length, f"{agent} {out}", f"{out}: the run, with what was learned"
    )


def prepare(
    agent: str,
    values: dict[str, Any],
    model: Path,
    reward: str,
    prompts: tuple[str, ...],
    out: Path,
    *,
    lora: int,
    seed: int,
    clip: str,
    device: str,
    eta: float | None,
    sampling: dict[str, Any],
    batching: dict[str, Any],
) -> Any:
    """The trainer of a run, from the command's options.

    `sampling` and `batching` are further arguments of `make_sampler` and of `Task`.

    Raises:
        ValueError: anything that is not accepted, in one line.
    """
    shared.check_device(device)
    models, tasks = import_module("rlkit.images.model"), import_module("rlkit.images.task")
    learner = import_module("rlkit.images.training").make_agent(agent, values)
    scored = tasks.load_reward(reward)
    for name in ("diffusers", "transformers") if prompts else ("diffusers",):
        import_module("rlkit.images.folders").library(name).utils.logging.disable_progress_bar()
    loaded = models.load_model(model, device, clip)
    if lora and agent != "ddpo":
        raise ValueError(f"--lora {lora}: {agent} trains no weights; allowed: 0")
    if lora:
        loaded = models.with_adapters(loaded, lora, seed)
    chosen = learner.eta if eta is None else eta
    sampler = import_module("rlkit.images.sampler").make_sampler(
        loaded.noise, eta=chosen, **sampling
    )
    task = tasks.Task(loaded, sampler, prompts, scored, **batching)
    identity = shared.weights(model, "**/*.safetensors")
    about = {"agent": agent, "lora": lora, "model": identity, "reward": reward}
    return import_module("rlkit.images.training").Trainer(task, learner, out, seed, about)

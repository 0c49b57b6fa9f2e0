"""The command `rlkit lm`. Help imports neither torch nor transformers."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from rlkit import catalogue, files
from rlkit.launch import OK, limit_threads
from rlkit.validation import check_choice

app = typer.Typer(help="Train a language model from a local folder.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Train a language model from a local folder."""


@app.command("train")
def _train(
    agent: Annotated[str, typer.Option("--agent", help="dpo, ipo, kto, sft, rloo, ppo_rlhf ...")],
    model: Annotated[str, typer.Option("--model", help="Folder of a causal model.")],
    data: Annotated[str, typer.Option("--data", help="JSONL file of preferences.")],
    out: Annotated[str, typer.Option("--out", help="Folder of the run.")],
    fields: Annotated[list[str] | None, typer.Argument(help="field=value of the agent")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Steps in all.")] = 100,
    horizon: Annotated[int, typer.Option("--horizon", help="Most tokens of a response.")] = 64,
    form: Annotated[
        str, typer.Option("--form", help="Of the file; auto: as its keys say.")
    ] = "auto",
    reward_model: Annotated[
        str | None, typer.Option("--reward-model", help="Folder of a classifier with one label.")
    ] = None,
    lora: Annotated[int, typer.Option("--lora", help="Rank of adapters; 0: all weights.")] = 0,
    record: Annotated[int, typer.Option("--record", help="Steps between records.")] = 10,
    save: Annotated[int, typer.Option("--save", help="Steps between checkpoints.")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="Of every draw.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
) -> int:
    """Train a causal language model; the same command resumes."""
    limit_threads()
    values = catalogue.parse_fields(fields or [])
    training = import_module("rlkit.lm.training")
    length = training.Length(steps=steps, record=record, save=save)
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"--out {out!r} is a file; allowed: a folder")
    trainer = prepare(
        agent, values, Path(model), Path(data), Path(out), horizon=horizon, form=form, lora=lora,
        reward_model=reward_model, seed=seed, device=device,
    )  # fmt: skip
    if trainer.step:
        print(f"resumed after step {trainer.step}")
    last = trainer.run(length)
    for name, value in sorted(last.items()):
        print(f"{name:16} {value:.4g}")
    print(f"{Path(out) / 'model'}: the trained model")
    return OK


def prepare(
    agent: str,
    values: dict[str, Any],
    model: Path,
    data: Path,
    out: Path,
    *,
    horizon: int,
    form: str,
    lora: int,
    reward_model: str | None,
    seed: int,
    device: str,
) -> Any:
    """The trainer of a run.

    Args:
        agent: name of the agent.
        values: of its fields.
        model: folder of the model.
        data: file of preferences.
        out: folder of the run.
        horizon: most tokens of a response.
        form: of the file.
        lora: rank of adapters, 0 for none.
        reward_model: folder of the reward, or None.
        seed: of every draw.
        device: "cpu" or "cuda".

    Raises:
        ValueError: anything that is not accepted, in one line.
    """
    torch = import_module("torch")
    check_choice("--device", device, ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",))
    models, training = import_module("rlkit.lm.model"), import_module("rlkit.lm.training")
    preferences = import_module("rlkit.lm.data").read_preferences(data, form)
    models.transformers().utils.logging.disable_progress_bar()
    language = models.load_model(model, device)
    if lora:
        language = models.with_adapters(language, lora, seed)
    spec = import_module("rlkit.lm.knowledge").make_spec(language, preferences, horizon)
    learner = training.make_agent(agent, spec, values)
    reward = None if reward_model is None else models.load_reward(Path(reward_model), device)
    about = {
        "agent": agent,
        "data": files.fingerprint(data),
        "lora": lora,
        "model": weights(model),
        "reward_model": None if reward_model is None else weights(Path(reward_model)),
    }
    return training.Trainer(language, spec, learner, out, reward, seed, about)


def weights(folder: Path) -> list[dict[str, Any]]:
    """What identifies the weights in a folder: sizes and hashes of its files."""
    return [files.fingerprint(path) for path in sorted(folder.glob("*.safetensors"))]

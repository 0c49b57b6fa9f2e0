"""The command `rlkit lm`. Help imports neither torch nor transformers."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from rlkit import catalogue, files
from rlkit.launch import limit_threads
from rlkit.tuning import command as shared

app = typer.Typer(help="Train a language model from a local folder.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Train a language model from a local folder."""


@app.command("train")
def _train(
    agent: Annotated[str, typer.Option("--agent", help="dpo, ipo, kto, sft, rloo, ppo_rlhf ...")],
    model: Annotated[str, typer.Option("--model", help="Folder of a causal model.")],
    data: Annotated[str, typer.Option("--data", help="JSONL file of preferences.")],
    out: shared.Out,
    fields: shared.Fields = None,
    steps: shared.Steps = 100,
    horizon: Annotated[int, typer.Option("--horizon", help="Most tokens of a response.")] = 64,
    form: Annotated[
        str, typer.Option("--form", help="Of the file; auto: as its keys say.")
    ] = "auto",
    reward_model: Annotated[
        str | None, typer.Option("--reward-model", help="Folder of a classifier with one label.")
    ] = None,
    lora: shared.Lora = 0,
    record: shared.Record = 10,
    save: shared.Save = 50,
    seed: shared.Seed = 0,
    device: shared.Device = "cpu",
) -> int:
    """Train a causal language model; the same command resumes."""
    limit_threads()
    values = catalogue.parse_fields(fields or [])
    training = import_module("rlkit.lm.training")
    length = training.Length(steps=steps, record=record, save=save)
    shared.check_out(out)
    trainer = prepare(
        agent, values, Path(model), Path(data), Path(out), horizon=horizon, form=form, lora=lora,
        reward_model=reward_model, seed=seed, device=device,
    )  # fmt: skip
    return shared.complete(
        trainer, length, f"{agent} {out}", f"{Path(out) / 'model'}: the trained model"
    )


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
    """The trainer of a run, from the command's options.

    Raises:
        ValueError: anything that is not accepted, in one line.
    """
    shared.check_device(device)
    models, training = import_module("rlkit.lm.model"), import_module("rlkit.lm.training")
    preferences = import_module("rlkit.lm.data").read_preferences(data, form)
    models.library("transformers").utils.logging.disable_progress_bar()
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
        "model": shared.weights(model),
        "reward_model": None if reward_model is None else shared.weights(Path(reward_model)),
    }
    return training.Trainer(language, spec, learner, out, reward, seed, about)

"""What is measured of a language model in training, on the same draws at every record."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rlkit.alignment.agents import AlignmentAgent, Learner
from rlkit.alignment.knowledge import rows
from rlkit.alignment.policies import Policy
from rlkit.lm.knowledge import language_knowledge
from rlkit.lm.model import Reward, checked_rewards
from rlkit.protocol import Spec, Tree
from rlkit.tokens import Responses

FIRST = 64  # comparisons or demonstrations, from the top of the file, that are measured


class Sample(NamedTuple):
    """A response of the present policy."""

    prompt: str
    response: str
    reward: float | None  # None where there is none


def texts(spec: Spec, responses: Responses) -> tuple[list[str], list[str]]:
    """Prompts and responses as text."""
    known = language_knowledge(spec)
    asked = [known.prompts[number] for number in responses.prompt[0].tolist()]
    return asked, [known.language.decode(row) for row in responses.token[0].tolist()]


def rewarded(spec: Spec, responses: Responses, reward: Reward) -> Tensor:
    """Rewards of responses `[1, B]` float64.

    Raises:
        ValueError: one that is not finite; names its row and prompt.
    """
    asked, written = texts(spec, responses)
    scores = checked_rewards(reward(asked, written), asked)
    return torch.tensor([scores], dtype=torch.float64, device=responses.token.device)


def measured(
    spec: Spec, agent: AlignmentAgent, state: Learner, reward: Reward | None, count: int
) -> tuple[dict[str, float], list[Sample]]:
    """Present values by name, and the responses they were estimated from.

    Of `count` responses: `kl` and `entropy`, as conditional expectations at the states that were
    met, `length`, `reward` and `loss`, the negated objective `beta kl - reward`. Of the first
    comparisons of the file: `preference_loss`, `-log sigma` of `beta` times the margin, `margin`
    and `accuracy`; where there is no reward that is the `loss`. Of the first demonstrations:
    `imitation_loss`, nats a token.
    """
    model, parameters = agent.model, state.policy.parameters
    with torch.no_grad():
        seen = agent.samples(spec, state, count)
        values = divergence(spec, model, parameters, seen)
        values |= on_data(spec, model, parameters, agent.beta)
    scores: Sequence[float | None] = [None] * count
    if reward is not None:
        scores = rewarded(spec, seen, reward)[0].tolist()
        values["reward"] = sum(score or 0.0 for score in scores) / count
        values["loss"] = agent.beta * values["kl"] - values["reward"]
    else:
        values["loss"] = values.get("preference_loss", values["imitation_loss"])
    samples = [Sample(*each) for each in zip(*texts(spec, seen), scores, strict=True)]
    return values, samples


def divergence(spec: Spec, model: Policy, parameters: Tree, seen: Responses) -> dict[str, float]:
    """`kl` from the reference and `entropy` of responses in nats, and their `length` in tokens."""
    law, reference = model.laws(spec, parameters, seen), model.reference_laws(spec, seen)
    weight, mask = law.exp(), model.mask(spec, seen)

    def mean(score: Tensor) -> float:
        inner = torch.where(weight > 0, weight * score, torch.zeros_like(weight))
        return float((inner.sum(-1) * mask).sum(-1).mean())

    length = float(mask.sum(-1).mean())
    return {"kl": mean(law - reference), "entropy": mean(-law), "length": length}


def on_data(spec: Spec, model: Policy, parameters: Tree, beta: float) -> dict[str, float]:
    """Losses on the first rows of the file."""
    data = language_knowledge(spec).data
    shown = rows(data.demonstration, first(data.outcome))
    score = model.score(spec, parameters, shown).sum()
    values = {"imitation_loss": float(-score / model.mask(spec, shown).sum())}
    if data.preferred.shape[1]:
        index = first(data.preferred)
        ratio = [
            (model.score(spec, parameters, each) - model.reference(spec, each)).sum(-1)
            for each in (rows(data.first, index), rows(data.second, index))
        ]
        margin = ratio[0] - ratio[1]
        values["preference_loss"] = float(softplus(-beta * margin).mean())
        values["margin"] = float(margin.mean())
        values["accuracy"] = float((margin > 0).double().mean())
    return values


def first(values: Tensor) -> Tensor:
    """Numbers `[1, K]` of the first rows of `values` `[1, M]`."""
    return torch.arange(min(FIRST, values.shape[1]), device=values.device)[None]

"""Search at test time: beams and choices over continuations that a policy proposes.

A response is written step by step. Proposals are judged by a value of unfinished responses or by
their log-ratio, never by the reward.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.knowledge import knowledge, rows
from rlkit.alignment.policies import Policy
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.tokens import Responses
from rlkit.validation import check_integer, check_real

# Expected reward of a response before each token [N, B, H], or also at its end [N, B, H + 1].
Value = Callable[[Responses], Tensor]


class Found(NamedTuple):
    """What a search kept, the best first."""

    responses: Responses  # [N, P * B], those to one prompt in a row
    score: Tensor  # [N, P, B] their estimated rewards, -inf for one that is there already


def marked_steps(spec: Spec) -> tuple[int, ...]:
    """Times at which a step of reasoning begins, as the problem marks them.

    Raises:
        ValueError: replicas differ, or the first step does not begin with the response.
    """
    first = knowledge(spec).step_start
    if bool((first != first[:1]).any()) or bool((first[:, 0] == 0).any()):
        raise ValueError("step_start differs between replicas or is 0 at 0; accepted: one, from 0")
    return tuple(first[0].nonzero().squeeze(1).tolist())


def check_steps(steps: Sequence[int], horizon: int) -> None:
    """Refuse times that do not rise from 0 within a response.

    Raises:
        ValueError: naming them.
    """
    rising = all(a < b for a, b in pairwise([*steps, horizon]))
    if not steps or steps[0] != 0 or not rising:
        raise ValueError(f"steps = {tuple(steps)}; accepted: from 0 rising below {horizon}")


def value_beam(
    spec: Spec,
    policy: Policy,
    parameters: Tree,
    value: Value,
    prompt: Tensor,
    steps: Sequence[int],
    width: int,
    beta: float,
    rng: Rng,
) -> Found:
    """Value-guided step beam: keep `width` prefixes, propose as many continuations of each.

    Wang et al. (2024), test-time search. A prefix is worth its value. So is a finished response
    where `value` says what ends are worth; else the value before its last step plus `beta` times
    the log-ratio of that step, which is the reward where policy and value are optimal.

    Args:
        spec: of a token MDP.
        policy: that proposes.
        parameters: of the policy.
        value: of unfinished responses.
        prompt: `[N, P]`.
        steps: times at which a step begins, from 0.
        width: B, >= 1.
        beta: weight of the divergence, > 0.
        rng: of the proposals, a child for each step.

    Raises:
        ValueError: `width` or `beta` outside its range, `steps` that do not rise from 0.
    """
    check_integer("width", width, 1)
    check_real("beta", beta, 0, open_low=True)
    horizon = knowledge(spec).automaton.horizon
    check_steps(steps, horizon)
    token = torch.zeros(*prompt.shape, horizon, dtype=torch.int64, device=prompt.device)
    beam, score = policy.read(spec, prompt, token), torch.zeros_like(prompt, dtype=torch.float64)
    for start, end in pairwise([*steps, horizon]):
        kept = score.shape[1] // prompt.shape[1]
        count = width * width // kept  # all begin from the one empty prefix
        proposed, before = propose(spec, policy, parameters, beam, score, start, count, rng)
        worth = judge(spec, policy, parameters, value, proposed, before, (start, end), beta)
        grouped = worth.unflatten(1, (prompt.shape[1], -1))
        grouped = grouped.masked_fill(
            repeated(proposed.token[..., :end], prompt.shape[1]), -torch.inf
        )
        best, place = grouped.topk(width, -1)
        first = torch.arange(prompt.shape[1], device=prompt.device)[:, None] * grouped.shape[-1]
        index = (place + first).flatten(1)
        beam, score = rows(proposed, index), worth.gather(1, index)
    return Found(beam, best)


def best_of_actions(
    spec: Spec,
    policy: Policy,
    parameters: Tree,
    prompt: Tensor,
    steps: Sequence[int],
    count: int,
    rng: Rng,
) -> Responses:
    """At each step the best of `count` proposed continuations, by their log-ratio.

    `beta` times the log-ratio of a step estimates its advantage, so that neither dynamics nor the
    reward need be known. Returns `[N, P]` responses.

    Raises:
        ValueError: `count` below 1, `steps` that do not rise from 0.
    """
    check_integer("count", count, 1)
    horizon = knowledge(spec).automaton.horizon
    check_steps(steps, horizon)
    token = torch.zeros(*prompt.shape, horizon, dtype=torch.int64, device=prompt.device)
    chosen = policy.read(spec, prompt, token)
    nothing = torch.zeros_like(prompt, dtype=torch.float64)
    for start, end in pairwise([*steps, horizon]):
        proposed, _ = propose(spec, policy, parameters, chosen, nothing, start, count, rng)
        ratio = step_ratio(spec, policy, parameters, proposed, (start, end))
        place = ratio.unflatten(1, (-1, count)).argmax(-1)
        first = torch.arange(prompt.shape[1], device=prompt.device) * count
        chosen = rows(proposed, place + first)
    return chosen


def propose(
    spec: Spec,
    policy: Policy,
    parameters: Tree,
    beam: Responses,
    score: Tensor,
    start: int,
    count: int,
    rng: Rng,
) -> tuple[Responses, Tensor]:
    """`count` continuations in a row of each response from token `start` on, and its score."""
    wide = Responses(*(leaf.repeat_interleave(count, 1) for leaf in beam))
    given = torch.full_like(wide.prompt, start)
    with torch.no_grad():
        proposed = policy.write(
            spec, parameters, wide.prompt, rng.child(f"step {start}"), wide.token, given
        )
    return proposed, score.repeat_interleave(count, 1)


def judge(
    spec: Spec,
    policy: Policy,
    parameters: Tree,
    value: Value,
    proposed: Responses,
    before: Tensor,
    step: tuple[int, int],
    beta: float,
) -> Tensor:
    """Estimated rewards `[N, B]` of responses that are written up to the end of `step`.

    Those that were over before keep the score `before`.
    """
    start, end = step
    with torch.no_grad():
        now, mask = value(proposed), policy.mask(spec, proposed)
    if now.shape[-1] > mask.shape[-1]:
        return now[..., end]
    finished = now[..., start] + beta * step_ratio(spec, policy, parameters, proposed, step)
    finished = torch.where(mask[..., start] > 0, finished, before)
    if end == mask.shape[-1]:
        return finished
    return torch.where(mask[..., end] > 0, now[..., end], finished)


def step_ratio(
    spec: Spec, policy: Policy, parameters: Tree, proposed: Responses, step: tuple[int, int]
) -> Tensor:
    """`log pi / pi_ref` of the tokens of a step, `[N, B]`."""
    with torch.no_grad():
        ratio = policy.score(spec, parameters, proposed) - policy.reference(spec, proposed)
    return ratio[..., slice(*step)].sum(-1)


def repeated(token: Tensor, prompts: int) -> Tensor:
    """Which proposals `[N, P, K]` have the tokens of an earlier one to the same prompt.

    Args:
        token: `[N, P * K, T]` written so far.
        prompts: P.
    """
    grouped = token.unflatten(1, (prompts, -1))
    equal = (grouped[:, :, :, None] == grouped[:, :, None]).all(-1)
    return equal.tril(-1).any(-1)

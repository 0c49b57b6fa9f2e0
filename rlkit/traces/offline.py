"""Multistep targets of recorded sequences.

A sequence is one episode or a piece of one: step `t` leads from the pair `(S_t, A_t)` to a reward
and a successor with `discount` 0 where that is terminal. What lies beyond the last step is left to
the bootstrapped value of its successor.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlkit.traces.rules import powers, trace_weights
from rlkit.validation import check_integer, check_real


def expected_sarsa_targets(
    reward: Tensor, discount: Tensor, next_value: Tensor, gamma: float
) -> Tensor:
    """`R + gamma * V(S')` of one step, where `V` is the target policy's mean of Q.

    Args:
        reward: `[..., T]`.
        discount: 0 where the successor is terminal, else 1, `[..., T]`.
        next_value: `sum_a pi(a | S') Q(S', a)` of the successor, `[..., T]`.
        gamma: in [0, 1].

    Returns:
        `[..., T]`.
    """
    check_real("gamma", gamma, 0, 1)
    return reward + gamma * discount * next_value


def multistep_targets(
    rule: str,
    value: Tensor,
    error: Tensor,
    rho: Tensor,
    gamma: float,
    lambda_: float,
    target_probability: Tensor | None = None,
    greedy: Tensor | None = None,
) -> Tensor:
    """`Q(S_i, A_i) + sum_t gamma**t beta_t delta_(i + t)` of every step `i` of a sequence.

    A sample of the general operator (Daley et al., 2023, equation 4); takes `T**2` memory.

    Args:
        rule: one of `rlkit.traces.RULES`.
        value: `Q(S_t, A_t)`, `[..., T]`.
        error: `delta_t`, the one-step target of `expected_sarsa_targets` less `value`, `[..., T]`.
        rho: importance ratio of `A_t`, `[..., T]`; the first one never enters.
        gamma: in [0, 1].
        lambda_: in [0, 1].
        target_probability: of `A_t`, `[..., T]`, read by "tree_backup".
        greedy: whether `A_t` maximises Q, `[..., T]`, read by "watkins".

    Returns:
        `[..., T]`.

    Raises:
        ValueError: as `trace_weights`.
    """
    check_real("gamma", gamma, 0, 1)
    others = [None if x is None else windows(x)[..., 1:] for x in (target_probability, greedy)]
    beta = trace_weights(rule, windows(rho)[..., 1:], lambda_, *others)
    discounted = powers(gamma, rho.shape[-1] - 1, error) * beta
    return value + (discounted * windows(error)).sum(-1)


def windows(values: Tensor) -> Tensor:
    """`values[..., i + t]` of `[..., T]` as `[..., i, t]`, 0 beyond the end, `[..., T, T]`."""
    length = values.shape[-1]
    return pad(values, (0, length - 1)).unfold(-1, length, 1)


def lambda_returns(
    reward: Tensor, discount: Tensor, next_value: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """`G_t = R + gamma * ((1 - lambda) V(S') + lambda G_(t + 1))`, `V(S')` after the last step.

    With `next_value` the target policy's mean of Q this is Peng's Q(lambda) (Peng and Williams,
    1996); with a state value the lambda-return.

    Args:
        reward: `[..., T]`.
        discount: 0 where the successor is terminal, else 1, `[..., T]`.
        next_value: of the successor, `[..., T]`.
        gamma: in [0, 1].
        lambda_: in [0, 1].

    Returns:
        `[..., T]`.
    """
    check_real("gamma", gamma, 0, 1)
    check_real("lambda_", lambda_, 0, 1)
    following = next_value[..., -1]
    targets = []
    columns = (x.unbind(-1) for x in (reward, discount, next_value))
    for pay, goes_on, value in reversed(list(zip(*columns, strict=True))):
        following = pay + gamma * goes_on * ((1 - lambda_) * value + lambda_ * following)
        targets.append(following)
    return torch.stack(targets[::-1], -1)


def n_step_targets(
    reward: Tensor, discount: Tensor, next_value: Tensor, gamma: float, n: int
) -> Tensor:
    """Rewards of `n` steps and the value of the last successor, uncorrected; fewer at the end.

    Args:
        reward: `[..., T]`.
        discount: 0 where the successor is terminal, else 1, `[..., T]`.
        next_value: of the successor, `[..., T]`.
        gamma: in [0, 1].
        n: steps, >= 1.

    Returns:
        `[..., T]`.
    """
    check_real("gamma", gamma, 0, 1)
    check_integer("n", n, 1)
    following = target = next_value
    for _ in range(n):
        target = reward + gamma * discount * following
        following = torch.cat([target[..., 1:], next_value[..., -1:]], -1)
    return target

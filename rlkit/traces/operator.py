"""The multistep operator as a matrix, exact.

    M Q = Q + sum_t gamma**t B_t (T Q - Q),        M Q - Q^pi = Z (Q - Q^pi)
    B_t[x, y] = E[beta_t 1{(S_t, A_t) = y} | (S_0, A_0) = x]  under the behaviour policy

with `T Q = r + gamma P_pi Q` (Daley et al., 2023, section 4). Pairs are numbered `state * A +
action`. `B_t` comes from enumerating histories; those that agree on the pair they reached and on
the trace are carried on as one, which changes nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import check_rows
from rlkit.planning.policies import check_policy
from rlkit.traces.policies import importance_ratios
from rlkit.traces.rules import Past, Rule, Taken, check_decay, find
from rlkit.validation import check_integer

GRID = 1e12  # traces whose logarithms agree to about 1 / GRID are equal up to rounding
MANY = 1 << 23  # histories times starts up to which enumeration is tried


class Operator(NamedTuple):
    """Matrices of an operator cut after `T` steps."""

    z: Tensor  # [SA, SA] contraction
    b: Tensor  # [T + 1, SA, SA] credit, b[0] = I


def pair_kernel(kernel: Tensor, weight: Tensor) -> Tensor:
    """`P(s' | s, a) weight(s', a')`, `[..., SA, SA]`, of `[..., S, A, S]` and `[..., S, A]`."""
    product = kernel[..., None] * weight[..., None, None, :, :]
    states, actions = weight.shape[-2:]
    return product.reshape(*product.shape[:-4], states * actions, states * actions)


def operator_Z(
    kernel: Tensor,
    behaviour: Tensor,
    target: Tensor,
    rule: str,
    lambda_: float,
    gamma: float,
    steps: int,
) -> Operator:
    """Matrices of any rule's operator with the sum cut after `steps`, by enumeration.

    "watkins" takes the most probable actions of the target for greedy.

    Args:
        kernel: transition probabilities `[S, A, S]`.
        behaviour: `[S, A]`.
        target: `[S, A]`.
        rule: one of `RULES`.
        lambda_: decay, in [0, 1].
        gamma: discount, in [0, 1).
        steps: last `t` of the sum, >= 0.

    Returns:
        In float64; `z = I + sum_t gamma**t b[t] (gamma P_pi - I)`, whose fixed point is that of
        the whole sum.

    Raises:
        ValueError: tables that are no distributions, infinite ratios, arguments out of range, or
            too many distinct histories.
    """
    check_decay(gamma, lambda_)
    check_integer("steps", steps, 0)
    kernel, behaviour, target = (x.double() for x in (kernel, behaviour, target))
    check_rows(kernel, "kernel")
    taken = pairs_taken(behaviour, target, rule)
    b = credits(find(rule), lambda_, pair_kernel(kernel, behaviour), taken, steps)
    discounts = gamma ** torch.arange(steps + 1, dtype=torch.float64, device=b.device)
    total = (discounts[:, None, None] * b).sum(0)
    identity = torch.eye(b.shape[-1], dtype=torch.float64, device=b.device)
    return Operator(identity + total @ (gamma * pair_kernel(kernel, target) - identity), b)


def pairs_taken(behaviour: Tensor, target: Tensor, rule: str) -> Taken:
    """What a rule reads on taking each pair, `[..., SA]`."""
    rho = importance_ratios(target, behaviour, rule)
    greedy = target == target.amax(-1, keepdim=True)
    return Taken(*(x.flatten(-2) for x in (rho, target, greedy)))


def credits(rule: Rule, lambda_: float, kernel: Tensor, taken: Taken, steps: int) -> Tensor:
    """`B_0 .. B_steps`, `[steps + 1, SA, SA]`, of the behaviour's pair kernel `[SA, SA]`."""
    size = kernel.shape[0]
    pair = torch.arange(size, device=kernel.device)
    memory = torch.ones(size, dtype=kernel.dtype, device=kernel.device)
    mass = torch.eye(size, dtype=kernel.dtype, device=kernel.device)  # [histories, start]
    b = [mass]
    for t in range(1, steps + 1):
        if pair.shape[0] * size * size > MANY:
            raise ValueError(
                f"steps = {steps} makes {pair.shape[0] * size} histories after {t}; accepted: "
                "fewer steps, pairs or distinct ratios"
            )
        old, new = (kernel[pair] > 0).nonzero(as_tuple=True)
        mass = mass[old] * kernel[pair[old], new][:, None]
        memory, beta = follow(rule, lambda_, t, memory[old], Taken(*(x[new] for x in taken)))
        credit = torch.zeros_like(b[0]).index_add(0, new, mass * beta[:, None])
        b.append(credit.T)
        pair, memory, mass = merge(new, memory, mass)
    return torch.stack(b)


def follow(
    rule: Rule, lambda_: float, t: int, memory: Tensor, taken: Taken
) -> tuple[Tensor, Tensor]:
    """What is remembered after step `t` (trace or product of ratios), and the trace, `[M]` each."""
    if rule.recursion is None:
        beta = lambda_ * rule.factor(taken) * memory
        return beta, beta
    product = taken.rho * memory
    one = torch.ones_like(memory)
    beta = rule.recursion(Past(memory, product, 1.0, lambda_, one, lambda_**t * one), taken)
    return (product if rule.products else beta), beta


def merge(pair: Tensor, memory: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Histories of one pair and one memory as one; those of memory 0, which stays, left out."""
    alive = memory > 0
    pair, memory, mass = pair[alive], memory[alive], mass[alive]
    level = torch.round(torch.log(memory) * GRID).long()
    size = mass.shape[1]
    distinct, place = torch.unique(level * size + pair, return_inverse=True)
    total = mass.new_zeros(distinct.shape[0], size).index_add(0, place, mass)
    kept = memory.new_zeros(distinct.shape[0]).scatter_reduce(0, place, memory, "amax")
    return distinct % size, kept, total


def markov_Z(
    kernel: Tensor, behaviour: Tensor, target: Tensor, rule: str, lambda_: float, gamma: float
) -> Tensor:
    """`I - (I - gamma lambda P_{c mu})^{-1} (I - gamma P_pi)` of a Markov rule, not cut.

    Args:
        kernel: transition probabilities `[..., S, A, S]`.
        behaviour: `[..., S, A]`.
        target: `[..., S, A]`.
        rule: a Markov rule; its `B_t` is `(lambda P_{c mu})**t`.
        lambda_: decay, in [0, 1].
        gamma: discount, in [0, 1).

    Returns:
        `[..., SA, SA]` float64.

    Raises:
        ValueError: a rule that looks at the history, or as `operator_Z`.
    """
    check_decay(gamma, lambda_)
    chosen = find(rule)
    if not chosen.markov:
        raise ValueError(f"rule = {rule!r} looks at the history; accepted: Markov rules")
    kernel, behaviour, target = (x.double() for x in (kernel, behaviour, target))
    check_rows(kernel, "kernel")
    factor = chosen.factor(pairs_taken(behaviour, target, rule)).reshape(behaviour.shape)
    traced, after = (pair_kernel(kernel, x) for x in (factor * behaviour, target))
    identity = torch.eye(traced.shape[-1], dtype=torch.float64, device=traced.device)
    return identity - torch.linalg.solve(
        identity - gamma * lambda_ * traced, identity - gamma * after
    )


def peng_values(
    kernel: Tensor,
    reward: Tensor,
    behaviour: Tensor,
    target: Tensor,
    lambda_: float,
    gamma: float,
    q: Tensor,
) -> Tensor:
    """Peng's Q(lambda): `(I - gamma lambda P_mu)^{-1} (r + gamma (1 - lambda) P_pi q)`.

    Its fixed point is the value of the mixture `lambda mu + (1 - lambda) pi` (Harutyunyan et al.,
    2016, section 7).

    Args:
        kernel: `[..., S, A, S]`.
        reward: `[..., S, A]`.
        behaviour: `[..., S, A]`.
        target: `[..., S, A]`.
        lambda_: in [0, 1].
        gamma: in [0, 1).
        q: `[..., S, A]`.

    Returns:
        `[..., S, A]` float64.

    Raises:
        ValueError: policies that are no distributions, arguments out of range.
    """
    check_decay(gamma, lambda_)
    for name, policy in (("behaviour", behaviour), ("target", target)):
        check_policy(policy, (reward.shape[-2], reward.shape[-1]), name)
    kernel, flat = kernel.double(), reward.double().flatten(-2)
    traced, after = (pair_kernel(kernel, x.double()) for x in (behaviour, target))
    identity = torch.eye(traced.shape[-1], dtype=torch.float64, device=traced.device)
    following = (after @ q.double().flatten(-2)[..., None]).squeeze(-1)
    pay = flat + gamma * (1 - lambda_) * following
    return torch.linalg.solve(identity - gamma * lambda_ * traced, pay).reshape(reward.shape)


def infinity_norm(matrix: Tensor) -> Tensor:
    """Largest sum of absolute values in a row of `[..., n, n]`, `[...]`."""
    return matrix.abs().sum(-1).amax(-1)


def spectral_radius(matrix: Tensor) -> Tensor:
    """Largest modulus of an eigenvalue of `[..., n, n]`, `[...]`."""
    return torch.linalg.eigvals(matrix).abs().amax(-1)

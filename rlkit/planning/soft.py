"""Regularised planning: policies pay for their entropy or their divergence from a reference.

With a reference `mu` `[..., S, A]` the objective is the reward minus
`temperature * KL(policy | mu)` at every step; without one it is the reward plus
`temperature * entropy`. Maxima become `temperature * log sum_a mu exp(q / temperature)`; Geist,
Scherrer and Pietquin (2019) give the theory.
"""

import math

import torch
from torch import Tensor

from rlkit.models import Dense, Model
from rlkit.planning.discounted import Solution, iterate, valued
from rlkit.planning.finite_horizon import Plan, stages, sweep
from rlkit.planning.layout import leading, own
from rlkit.planning.policies import check_policy
from rlkit.validation import check_real


def soft_maximum(q: Tensor, temperature: float, reference: Tensor | None = None) -> Tensor:
    """`temperature * log sum_a mu(a) exp(q(a) / temperature)`, `[..., S]` of `[..., S, A]`.

    The maximum over the support of `mu` at temperature 0, the mean under `mu` at infinity. Without
    reference, `mu(a)` is 1, not `1 / A`.
    """
    mu, shift = measure(q, reference)
    if math.isinf(temperature):
        return (mu * q).sum(-1)
    best, scaled = relative(q, temperature, mu)
    if temperature == 0:
        return best.squeeze(-1)
    # log(1 + sum mu (e^x - 1)) keeps its digits where the temperature is large and all x small,
    # log(sum mu e^x) where mu rarely takes the best action and the others are far below it.
    excess, mass = (mu * torch.expm1(scaled)).sum(-1), (mu * torch.exp(scaled)).sum(-1)
    free = torch.where(excess > -0.5, torch.log1p(excess), torch.log(mass)) + shift
    return best.squeeze(-1) + temperature * free


def soft_policy(q: Tensor, temperature: float, reference: Tensor | None = None) -> Tensor:
    """The policy `mu exp(q / temperature)`, normalised, `[..., S, A]`.

    At temperature 0 it is `mu` on the best actions, at infinity `mu`.
    """
    mu, _ = measure(q, reference)
    if math.isinf(temperature):
        return mu.expand(q.shape)
    weight = mu * torch.exp(relative(q, temperature, mu)[1])
    return weight / weight.sum(-1, keepdim=True)


def measure(q: Tensor, reference: Tensor | None) -> tuple[Tensor, float]:
    """Probabilities `mu`, and the log of the total mass of the measure they normalise."""
    if reference is not None:
        return reference, 0.0
    actions = q.shape[-1]
    return torch.full_like(q[..., :1, :], 1 / actions), math.log(actions)


def relative(q: Tensor, temperature: float, mu: Tensor) -> tuple[Tensor, Tensor]:
    """Best `q` on the support of `mu`, `[..., S, 1]`, and `(q - best) / temperature`."""
    allowed = torch.where(mu > 0, q, -math.inf)
    best = allowed.amax(-1, keepdim=True)
    below = allowed - best
    if temperature == 0:
        return best, torch.where(below == 0, 0.0, -math.inf)
    return best, below / temperature


def regularisation(policy: Tensor, temperature: float, reference: Tensor | None) -> Tensor:
    """What a policy `[..., S, A]` pays a step, `[..., S]`; infinite off the reference's support."""
    mu = torch.ones_like(policy) if reference is None else reference
    terms = torch.special.xlogy(policy, policy) - torch.special.xlogy(policy, mu)
    total = terms.sum(-1)
    return torch.where(torch.isinf(total), total, temperature * total)


def check_soft(
    temperature: float, reference: Tensor | None, size: tuple[int, int], infinite: bool = True
) -> None:
    """Refuse a temperature out of range, or a reference that is no policy."""
    endless = infinite and reference is not None
    check_real("temperature", temperature, 0, infinite=endless)
    if reference is not None:
        check_policy(reference, size, "reference")


def soft_value_iteration(
    model: Model | Dense,
    gamma: float,
    temperature: float,
    reference: Tensor | None = None,
    tolerance: float = 1e-10,
) -> Solution:
    """Optimal regularised discounted values; `soft_policy(q, ...)` is the policy that has them.

    Args:
        model: shared or of `N` replicas.
        gamma: discount, in [0, 1).
        temperature: >= 0; infinity with a reference, whose values result.
        reference: policy `[S, A]` or `[N, S, A]`; None for entropy.
        tolerance: the largest error of a value, as in `value_iteration`.

    Raises:
        ValueError: an argument outside its range; a row that is no distribution.
    """
    check_soft(temperature, reference, model.size)
    lead = leading(model) if reference is None else leading(model, (reference, 2))

    def best(q: Tensor, rows: slice) -> Tensor:
        mu = None if reference is None else own(reference, rows, 2)
        return soft_maximum(q, temperature, mu)

    return iterate(model, gamma, tolerance, best, lead)


def soft_backward_induction(
    model: Model | Dense, horizon: int, temperature: float, reference: Tensor | None = None
) -> Plan:
    """Optimal regularised values of `horizon` steps; `soft_policy(q, ...)` is the policy.

    Args:
        model: shared or of `N` replicas.
        horizon: steps, >= 1.
        temperature: >= 0; infinity with a reference, whose values result.
        reference: policy `[S, A]` or `[N, S, A]` of all stages; None for entropy.

    Raises:
        ValueError: an argument outside its range; a row that is no distribution.
    """
    check_soft(temperature, reference, model.size)
    lead = leading(model) if reference is None else leading(model, (reference, 2))

    def best(q: Tensor, rows: slice, stage: int) -> Tensor:
        mu = None if reference is None else own(reference, rows, 2)
        return soft_maximum(q, temperature, mu)

    return sweep(model, horizon, best, lead)


def soft_policy_value(
    model: Model | Dense,
    policy: Tensor,
    gamma: float,
    temperature: float,
    reference: Tensor | None = None,
) -> Solution:
    """Regularised discounted values of any policy `[S, A]` or `[N, S, A]`, by a linear solve.

    `value = sum_a policy q - regularisation`, `q = r + gamma E value`.

    Raises:
        ValueError: an argument outside its range; a policy that leaves the reference's support.
    """
    check_policy(policy, model.size)
    check_soft(temperature, reference, model.size, infinite=False)
    cost = regularisation(policy, temperature, reference)
    check_support(cost)
    return valued(model, policy, gamma, cost)


def soft_finite_policy_value(
    model: Model | Dense,
    policy: Tensor,
    horizon: int,
    temperature: float,
    reference: Tensor | None = None,
) -> Plan:
    """Regularised values of a policy over `horizon` steps.

    Args:
        model: shared or of `N` replicas.
        policy: as in `finite_policy_value`.
        horizon: steps, >= 1.
        temperature: >= 0.
        reference: policy `[S, A]` or `[N, S, A]` of all stages; None for entropy.

    Raises:
        ValueError: an argument outside its range; a policy that leaves the reference's support.
    """
    check_soft(temperature, reference, model.size, infinite=False)
    staged = stages(policy, horizon, model.size)
    every = None if reference is None else reference[..., None, :, :]
    cost = regularisation(staged, temperature, every)
    check_support(cost)

    def best(q: Tensor, rows: slice, stage: int) -> Tensor:
        mine = own(staged, rows, 3)[..., stage, :, :]
        return (mine * q).sum(-1) - own(cost, rows, 2)[..., stage, :]

    return sweep(model, horizon, best, leading(model, (staged, 3), (cost, 2)))


def check_support(cost: Tensor) -> None:
    """Refuse an infinite regularisation, naming the state."""
    if bool(torch.isinf(cost).any()):
        state = torch.isinf(cost).nonzero()[0, -1].item()
        raise ValueError(
            f"policy of state {state} takes an action that reference never takes; accepted: "
            "policies on the support of reference"
        )

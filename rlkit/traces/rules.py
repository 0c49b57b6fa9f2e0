"""Trace rules: how much of a later temporal-difference error an earlier pair is credited with.

`beta_t` is the weight of the error `t` steps after a start, a function of the importance ratios
`rho_i = pi(A_i | S_i) / mu(A_i | S_i)` of the steps `1 .. t` between them, with `beta_0 = 1`
(Daley, White, Amato and Machado, 2023, "Trajectory-aware eligibility traces for off-policy
reinforcement learning"). Rules that look at the whole history are given twice: as a recursion, for
traces kept online, and as a closed form in logarithms, for recorded sequences.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rlkit.protocol import Tree
from rlkit.validation import check_choice, check_real


class Taken(NamedTuple):
    """The action just taken. Fields broadcast against the traces; unread ones may be ()."""

    rho: Tree  # pi / mu
    target_probability: Tree = ()  # pi
    greedy: Tree = ()  # whether the action maximises Q

    def columns(self, dtype: torch.dtype) -> "Taken":
        """Fields `[N]` as `[N, 1]` of `dtype`."""
        rho, *others = (x[:, None].to(dtype) if isinstance(x, Tensor) else () for x in self)
        return Taken(rho, *others)


class Past(NamedTuple):
    """Traces before a step, and powers of discount and decay after it; all broadcast.

    The discount is folded in, `weight = gamma**t * beta_t`: nothing else is ever used.
    """

    weight: Tensor  # gamma**(t - 1) * beta_(t - 1)
    product: Tree  # of gamma * rho, this step included; () unless the rule reads it
    gamma: float
    lambda_: float
    gamma_power: Tensor  # gamma**t
    lambda_power: Tensor  # lambda**t


class History(NamedTuple):
    """A sequence from its start in logarithms, `t = 0 .. T`."""

    ratio: Tensor  # [..., T + 1] sum of log rho (log factor) up to t, -inf after a zero
    decay: Tensor  # [T + 1] t * log lambda, finite


def _ratio(taken: Taken) -> Tensor:
    """The importance ratio itself."""
    return taken.rho


def _product(history: History) -> Tensor:
    """`log beta` of a Markov rule."""
    return history.decay + history.ratio


@dataclass(frozen=True)
class Rule:
    """One way to weigh later errors.

    Attributes:
        factor: of a Markov rule, `beta_t = lambda * factor * beta_(t - 1)`.
        recursion: of the others, the discounted weight after a step; None for a Markov rule.
        closed: `log beta` `[..., T + 1]`, of a Markov rule from the sums of log factors.
        reads: what it needs of the action taken.
        products: whether the recursion reads `Past.product`.
        bounded: whether `beta_t <= lambda**t` always.
        contracts: whether `beta_t <= rho_t * beta_(t - 1)` always, so that the operator contracts
            whatever the behaviour policy; with Watkins' rule, where the target is greedy.
    """

    factor: Callable[[Taken], Tensor] = _ratio
    recursion: Callable[[Past, Taken], Tensor] | None = None
    closed: Callable[[History], Tensor] = _product
    reads: Literal["rho", "target_probability", "greedy"] | None = "rho"
    products: bool = False
    bounded: bool = True
    contracts: bool = True

    @property
    def markov(self) -> bool:
        """Whether a step multiplies the trace by a number that the history does not change."""
        return self.recursion is None


def _truncated(past: Past, taken: Taken) -> Tensor:
    """`lambda**t min(1, prod rho)`."""
    return past.lambda_power * torch.minimum(past.gamma_power, past.product)


def _moretrace(past: Past, taken: Taken) -> Tensor:
    """`min(lambda**t, prod rho)`."""
    return torch.minimum(past.gamma_power * past.lambda_power, past.product)


def _recursive_retrace(past: Past, taken: Taken) -> Tensor:
    """`lambda min(1, rho beta)`."""
    grown = past.gamma * taken.rho * past.weight
    return past.lambda_ * torch.minimum(past.gamma_power, grown)


def _rbis(past: Past, taken: Taken) -> Tensor:
    """`min(lambda**t, rho beta)`."""
    grown = past.gamma * taken.rho * past.weight
    return torch.minimum(past.gamma_power * past.lambda_power, grown)


def _closed_truncated(history: History) -> Tensor:
    return history.decay + history.ratio.clamp(max=0)


def _closed_moretrace(history: History) -> Tensor:
    return torch.minimum(history.decay, history.ratio)


def _closed_recursive_retrace(history: History) -> Tensor:
    """`min(lambda**t rho_1 .. rho_t, min_{1 <= j <= t} lambda**(t-j+1) rho_(j+1) .. rho_t)`."""
    limit = history.decay[..., 1:2] - history.decay - history.ratio
    limit = torch.cat([torch.zeros_like(limit[..., :1]), limit[..., 1:]], -1)
    return history.decay + history.ratio + torch.cummin(limit, -1).values


def _closed_rbis(history: History) -> Tensor:
    """`min_{0 <= j <= t} lambda**j rho_(j+1) .. rho_t`."""
    return history.ratio + torch.cummin(history.decay - history.ratio, -1).values


REGISTRY = {
    "importance_sampling": Rule(bounded=False),
    "q_lambda": Rule(lambda taken: torch.ones_like(taken.rho), reads=None, contracts=False),
    "watkins": Rule(lambda taken: taken.greedy.to(taken.rho.dtype), reads="greedy"),
    "tree_backup": Rule(lambda taken: taken.target_probability, reads="target_probability"),
    "retrace": Rule(lambda taken: taken.rho.clamp(max=1)),
    "truncated_importance_sampling": Rule(
        recursion=_truncated, closed=_closed_truncated, products=True, contracts=False
    ),
    "recursive_retrace": Rule(
        recursion=_recursive_retrace, closed=_closed_recursive_retrace, bounded=False
    ),
    "moretrace": Rule(
        recursion=_moretrace, closed=_closed_moretrace, products=True, contracts=False
    ),
    "rbis": Rule(recursion=_rbis, closed=_closed_rbis),
}
RULES = tuple(REGISTRY)


def find(name: str) -> Rule:
    """The rule of that name.

    Raises:
        ValueError: there is none; lists the names.
    """
    check_choice("rule", name, RULES)
    return REGISTRY[name]


def take(
    rule: Rule,
    rho: Tensor,
    target_probability: Tensor | None = None,
    greedy: Tensor | None = None,
) -> Taken:
    """What a rule reads of the actions taken, shapes `[...]` as given.

    Raises:
        ValueError: it reads `target_probability` or `greedy`, which is None.
    """
    given = {"target_probability": target_probability, "greedy": greedy}
    if rule.reads in given and given[rule.reads] is None:
        raise ValueError(f"{rule.reads} is None; this rule needs it, in the shape of rho")
    return Taken(rho, *(() if value is None else value for value in given.values()))


def check_decay(gamma: float, lambda_: float) -> None:
    """Refuse a discount outside [0, 1) and a decay outside [0, 1].

    Raises:
        ValueError: names the argument, its value and the accepted range.
    """
    check_real("gamma", gamma, 0, 1, open_high=True)
    check_real("lambda_", lambda_, 0, 1)


def powers(base: float, count: int, like: Tensor) -> Tensor:
    """`base ** 0 .. base ** count`, `[count + 1]` in the dtype of `like`, multiplied in float64."""
    factors = torch.full((count + 1,), base, dtype=torch.float64, device=like.device)
    first = torch.arange(count + 1, device=like.device) == 0
    return torch.where(first, 1.0, factors).cumprod(0).to(like.dtype)


def trace_weights(
    rule: str,
    rho: Tensor,
    lambda_: float,
    target_probability: Tensor | None = None,
    greedy: Tensor | None = None,
) -> Tensor:
    """`beta_0 .. beta_T` of recorded sequences, by closed forms in logarithms (cumulative minima).

    Args:
        rule: one of `RULES`.
        rho: importance ratios of steps 1 .. T, `[..., T]`, finite, >= 0.
        lambda_: decay, in [0, 1].
        target_probability: `pi(A_t | S_t)` `[..., T]`, read by "tree_backup".
        greedy: whether `A_t` maximises Q `[..., T]`, read by "watkins".

    Returns:
        `[..., T + 1]`, exactly 0 where the rule says so.

    Raises:
        ValueError: an unknown rule, `lambda_` outside [0, 1], what the rule reads is missing, or a
            ratio that it reads is negative, infinite or NaN.
    """
    chosen = find(rule)
    check_real("lambda_", lambda_, 0, 1)
    taken = take(chosen, rho, target_probability, greedy)
    wrong = ~((rho >= 0) & torch.isfinite(rho))
    if chosen.reads == "rho" and bool(wrong.any()):
        place = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(f"rho of index {place} is {rho[place].item():.3g}; accepted: finite, >= 0")
    times = torch.arange(rho.shape[-1] + 1, dtype=torch.float64, device=rho.device)
    if lambda_ == 0 or rho.shape[-1] == 0:
        return (times == 0).to(rho.dtype).expand(*rho.shape[:-1], -1)
    factor = chosen.factor(taken).double()
    ratio = torch.cumsum(torch.nn.functional.pad(torch.log(factor), (1, 0)), -1)
    decay = times * torch.log(torch.tensor(lambda_, dtype=torch.float64, device=rho.device))
    return torch.exp(chosen.closed(History(ratio, decay))).to(rho.dtype)

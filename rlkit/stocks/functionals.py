"""What a policy may be asked to maximise: functionals of the law of stock plus return.

Stocks have a last dimension `m`, of size 1 for one reward. A `Utility` is an expectation `E f(X)`;
its properties decide where dynamic programming can optimise it. A `Statistic` is any other
functional, known here by name so that it can be refused with advice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlkit import distributions
from rlkit.distributions import Law
from rlkit.validation import check_choice, check_real

INFINITE = float("inf")
OVERFLOW = 700.0  # exponents not far beyond this give no finite number


@dataclass(frozen=True)
class Utility:
    """The functional `K law(X) = E f(X)`.

    Attributes:
        name: for messages.
        f: maps points `[..., m]` to numbers `[...]`.
        degree: `p` with `f(k x) = k^p f(x)` for all `k > 0`, None if there is none.
        lipschitz: Lipschitz constant of `f`, in the sum of absolute coordinates, where that sum
            is at most its argument; infinite if there is none.
        dimension: number of rewards `m`, None for any.
    """

    name: str
    f: Callable[[Tensor], Tensor]
    degree: float | None
    lipschitz: Callable[[float], float]
    dimension: int | None = 1

    def of(self, value: Tensor, probability: Tensor) -> Tensor:
        """`E f` `[...]` of points `[..., X, m]` with probabilities `[..., X]`."""
        return (probability * self.f(value)).sum(-1)


@dataclass(frozen=True)
class Statistic:
    """A functional of real laws that is no expectation: greedy steps do not optimise it.

    Attributes:
        name: for messages.
        functional: maps laws to numbers `[...]`.
        instead: what does optimise it.
    """

    name: str
    functional: Callable[[Law], Tensor]
    instead: str

    def of(self, value: Tensor, probability: Tensor) -> Tensor:
        """`[...]` of points `[..., X, 1]` with probabilities `[..., X]`."""
        scalar = value.squeeze(-1)
        return self.functional(Law(scalar.expand(probability.shape), probability))


Functional = Utility | Statistic


def _one(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: f(x[..., 0])


def _power(power: float) -> Callable[[float], float]:
    """Lipschitz constant of `|x|^power` on `|x| <= radius`."""
    if power < 1:
        return lambda radius: INFINITE
    return lambda radius: 1.0 if power == 1 else power * radius ** (power - 1)


def mean() -> Utility:
    """`x`: the expected return."""
    return Utility("mean", _one(lambda x: x), 1.0, lambda radius: 1.0)


def shortfall() -> Utility:
    """`min(x, 0)`: expected shortfall below `-c_0`."""
    return Utility("shortfall", _one(lambda x: x.clamp(max=0)), 1.0, lambda radius: 1.0)


def excess() -> Utility:
    """`max(x, 0)`: expected excess over `-c_0`."""
    return Utility("excess", _one(lambda x: x.clamp(min=0)), 1.0, lambda radius: 1.0)


def kinked(weight: float = 0.5) -> Utility:
    """`min(x, 0) + weight * max(x, 0)`: a trade-off of shortfall and excess.

    Raises:
        ValueError: `weight` not a finite number.
    """
    check_real("weight", weight)
    slope = max(1.0, abs(weight))
    return Utility(
        f"kinked({weight:g})",
        _one(lambda x: x.clamp(max=0) + weight * x.clamp(min=0)),
        1.0,
        lambda radius: slope,
    )


def distance(power: float = 1.0) -> Utility:
    """`-|x|^power`: closeness of the return to the target `-c_0`.

    Raises:
        ValueError: `power` not positive.
    """
    check_real("power", power, 0, open_low=True)
    return Utility(
        f"distance({power:g})", _one(lambda x: -(x.abs() ** power)), power, _power(power)
    )


def signed_power(power: float = 3.0) -> Utility:
    """`sign(x) |x|^power`.

    Raises:
        ValueError: `power` not positive.
    """
    check_real("power", power, 0, open_low=True)
    return Utility(
        f"signed_power({power:g})",
        _one(lambda x: x.sign() * x.abs() ** power),
        power,
        _power(power),
    )


def indicator(level: float = 0.0) -> Utility:
    """`1{x >= level}`: probability of reaching a level; homogeneous at 0 only.

    Raises:
        ValueError: `level` not a finite number.
    """
    check_real("level", level)
    return Utility(
        f"indicator({level:g})",
        _one(lambda x: (x >= level).to(x.dtype)),
        None if level else 0.0,
        lambda radius: INFINITE,
    )


def exponential(scale: float = 1.0) -> Utility:
    """`-exp(-x / scale)`: constant absolute risk aversion; not homogeneous.

    Constant where it would overflow, for `x` below `-700 scale`.

    Raises:
        ValueError: `scale` not positive.
    """
    check_real("scale", scale, 0, open_low=True)
    return Utility(
        f"exponential({scale:g})",
        _one(lambda x: -(-x / scale).clamp(max=OVERFLOW).exp()),
        None,
        lambda radius: INFINITE if radius / scale > OVERFLOW else math.exp(radius / scale) / scale,
    )


def quadratic(weight: float = 0.3) -> Utility:
    """`x - weight * x^2`: the inside of the search for mean minus variance; not homogeneous.

    Raises:
        ValueError: `weight` not a finite number.
    """
    check_real("weight", weight)
    return Utility(
        f"quadratic({weight:g})",
        _one(lambda x: x - weight * x * x),
        None if weight else 1.0,
        lambda radius: 1.0 + 2 * abs(weight) * radius if weight else 1.0,
    )


def norm(order: float = 1.0, power: float = 1.0) -> Utility:
    """`-||x||_order^power` of any number of rewards: homeostasis.

    Raises:
        ValueError: `order` below 1, or `power` not positive.
    """
    check_real("order", order, 1)
    check_real("power", power, 0, open_low=True)

    def f(x: Tensor) -> Tensor:
        total = (x.abs() ** order).sum(-1)
        return -(total ** (power / order))

    return Utility(f"norm({order:g}, {power:g})", f, power, _power(power), dimension=None)


def budget(weight: float = 1.0) -> Utility:
    """`x_1 + weight * min(x_2, 0)`: a gain, and a penalty for an overdrawn budget.

    Raises:
        ValueError: `weight` negative.
    """
    check_real("weight", weight, 0)
    return Utility(
        f"budget({weight:g})",
        lambda x: x[..., 0] + weight * x[..., 1].clamp(max=0),
        1.0,
        lambda radius: max(1.0, weight),
        dimension=2,
    )


def mean_variance(weight: float = 0.5) -> Statistic:
    """`E X - weight * Var X`."""

    def of(law: Law) -> Tensor:
        return distributions.expectation(law) - weight * distributions.variance(law)

    return Statistic(f"mean_variance({weight:g})", of, "rlkit.stocks.best_mean_variance")


def variance(weight: float = 1.0) -> Statistic:
    """`-weight * Var X`."""
    return Statistic(
        f"variance({weight:g})",
        lambda law: -weight * distributions.variance(law),
        "rlkit.stocks.best_mean_variance",
    )


def cvar_lower(tau: float = 0.25) -> Statistic:
    """Mean of the worst `tau` mass."""
    return Statistic(
        f"cvar_lower({tau:g})",
        lambda law: distributions.cvar_lower(law, tau),
        "rlkit.stocks.best_lower_cvar",
    )


def cvar_upper(tau: float = 0.25) -> Statistic:
    """Mean of the best `tau` mass."""
    return Statistic(
        f"cvar_upper({tau:g})",
        lambda law: distributions.cvar_upper(law, tau),
        "rlkit.stocks.best_upper_cvar",
    )


# Utilities by name, with the arguments that each takes.
UTILITIES: dict[str, tuple[Callable[..., Utility], tuple[str, ...]]] = {
    "mean": (mean, ()),
    "shortfall": (shortfall, ()),
    "excess": (excess, ()),
    "kinked": (kinked, ("weight",)),
    "distance": (distance, ("power",)),
    "signed_power": (signed_power, ("power",)),
    "indicator": (indicator, ("level",)),
    "exponential": (exponential, ("scale",)),
    "quadratic": (quadratic, ("weight",)),
    "norm": (norm, ("order", "power")),
    "budget": (budget, ("weight",)),
}


def utility(name: str, arguments: dict[str, Any]) -> Utility:
    """The utility called `name`; it takes of `arguments` what it knows.

    Raises:
        ValueError: an unknown name, or an argument out of range.
    """
    check_choice("utility", name, UTILITIES)
    build, known = UTILITIES[name]
    return build(**{key: value for key, value in arguments.items() if key in known})

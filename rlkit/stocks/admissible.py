"""Which functionals dynamic programming on stocks optimises, and a refusal of the others.

Avila Pires et al. (2025), section 4: a functional must be indifferent to mixtures and to scaling
by the discount, and Lipschitz where the horizon is infinite. A continuous functional that is
indifferent to mixtures orders laws as an expected utility does (von Neumann and Morgenstern), and
then the second condition asks for a homogeneous utility, up to a constant.
"""

import math

from rlkit.stocks.augmented import StockModel
from rlkit.stocks.functionals import Functional, Statistic, Utility


def check_admissible(
    functional: Functional, model: StockModel, timed: bool = False, radius: float = math.inf
) -> Utility:
    """Accept a utility that greedy steps on `(state, stock)` optimise.

    Args:
        functional: to be maximised.
        model: with discount and horizon.
        timed: whether policies also see the time and the functional applies to the total
            `gamma^t C_t`; then any utility is accepted.
        radius: the totals' coordinates never add up to more than this, in absolute value.

    Returns:
        The functional.

    Raises:
        ValueError: names the functional, the condition that fails and what to do instead.
    """
    name = functional.name
    if isinstance(functional, Statistic):
        raise ValueError(
            f"functional {name} is not indifferent to mixtures: greedy steps do not optimise it; "
            f"use {functional.instead}, which searches over the initial stock"
        )
    if functional.dimension not in (None, model.dimension):
        raise ValueError(
            f"functional {name} takes {functional.dimension} rewards, the model has "
            f"{model.dimension}"
        )
    if model.gamma < 1 and functional.degree is None and not timed:
        raise ValueError(
            f"functional {name} is not homogeneous, so it is not indifferent to the discount "
            f"gamma = {model.gamma}; accepted: gamma = 1, a homogeneous utility, or timed = True, "
            "where policies see the time"
        )
    if model.horizon is None and math.isinf(functional.lipschitz(radius)):
        raise ValueError(
            f"functional {name} is not Lipschitz, which an infinite horizon needs; accepted: a "
            "finite horizon, or a Lipschitz utility"
        )
    return functional

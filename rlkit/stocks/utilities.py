"""Objectives whose initial stock is given: target returns, constraints, homeostasis.

Avila Pires et al. (2025), section 5. A target `g` is the stock `-g`; a budget is the stock of the
second reward; deficits are negative stocks that actions are to bring to zero, where only the final
stock counts, not the way there.
"""

import torch
from torch import Tensor

from rlkit.distributions import Law
from rlkit.stocks.admissible import check_admissible
from rlkit.stocks.functionals import Utility, budget, distance, norm
from rlkit.stocks.search import Returns, policy, values


def best_utility(returns: Returns, utility: Utility, stock: Tensor, timed: bool = False) -> Tensor:
    """Best expected utility `[B]` of stock plus return, from each initial stock `[B, m]`.

    Args:
        returns: the problem.
        utility: an admissible one.
        stock: initial stocks.
        timed: opt in to utilities that are not homogeneous, for policies that see the time.

    Raises:
        ValueError: as `check_admissible`; or a stock of another dimension than the rewards.
    """
    return values(returns, shifted(returns, utility, stock, timed))


def shifted(returns: Returns, utility: Utility, stock: Tensor, timed: bool = False) -> Tensor:
    """The utilities `f(c_0 + G)` of the returns, `[B, X]`, with the errors of `best_utility`."""
    check_admissible(utility, returns.model, timed)
    if stock.dim() != 2 or stock.shape[1] != returns.model.dimension:
        raise ValueError(
            f"stock has shape {list(stock.shape)}; accepted: [B, {returns.model.dimension}], one "
            "number a reward"
        )
    return utility.f(returns.support + stock.double()[:, None])


def best_target(returns: Returns, target: Tensor, power: float = 1.0) -> Tensor:
    """Largest `-E |G - g|^power` for each target `[B]`, `[B]`.

    Raises:
        ValueError: `power` not positive, or several rewards.
    """
    return best_utility(returns, distance(power), -target[:, None])


def best_constrained(returns: Returns, budgets: Tensor, weight: float) -> Tensor:
    """Largest `E[G_1 + weight * min(k + G_2, 0)]` for each budget `k` `[B]`, `[B]`.

    The budget is one of the second reward; a large `weight` puts the constraint first.

    Raises:
        ValueError: `weight` negative, or not two rewards.
    """
    return best_utility(returns, budget(weight), torch.stack([0 * budgets, budgets], 1))


def best_homeostasis(
    returns: Returns, stock: Tensor, order: float = 1.0, power: float = 1.0
) -> Tensor:
    """Largest `-E ||c_0 + G||_order^power` for each initial stock `[B, m]`, `[B]`.

    Raises:
        ValueError: an exponent out of range, or a stock of another dimension than the rewards.
    """
    return best_utility(returns, norm(order, power), stock)


def policy_for(returns: Returns, utility: Utility, stock: tuple[float, ...]) -> tuple[object, Law]:
    """The policy from one initial stock, and the law of its return (for one reward)."""
    final = shifted(returns, utility, torch.tensor([stock], dtype=torch.float64))[0]
    action = policy(returns, final)
    return action, Law(returns.support.squeeze(-1), returns.law(action))

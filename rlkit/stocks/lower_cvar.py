"""The best mean of the worst returns: a search over the initial stock.

`max_pi CVaR = max_{c_0} { -c_0 + max_pi E min(c_0 + G, 0) / tau }`, Rockafellar and Uryasev (2000)
and Avila Pires et al. (2025), section 5. For each policy the bracket is concave and piecewise
linear in `c_0` with breakpoints `c_0 = -x` at the returns `x`, so they suffice; over policies it
need not be unimodal, so all of them are tried.
"""

from rlkit.distributions import Law, check_level, cvar_lower
from rlkit.stocks.admissible import check_admissible
from rlkit.stocks.functionals import shortfall
from rlkit.stocks.search import Optimum, Returns, breakpoints, one_reward, policy, values


def best_lower_cvar(returns: Returns, tau: float) -> Optimum:
    """Policy with the largest mean of the smallest returns, of mass `tau` in (0, 1].

    The initial stock is minus the `tau`-quantile of the return. No history-dependent or randomised
    policy does better: the lower tail mean is convex in the law.

    Raises:
        ValueError: `tau` outside its range, or several rewards.
    """
    check_level(tau)
    utility = check_admissible(shortfall(), returns.model)
    value, level = one_reward(returns), breakpoints(returns)
    final = utility.f((value - level[:, None])[..., None])
    objective = level + values(returns, final) / tau
    best = objective.amax()
    # The lowest of equally good levels, up to rounding.
    row = int((objective >= best - 1e-12 * (1 + best.abs())).long().argmax())
    action = policy(returns, final[row])
    law = Law(value, returns.law(action))
    return Optimum(float(cvar_lower(law, tau)), -float(level[row]), law, action)

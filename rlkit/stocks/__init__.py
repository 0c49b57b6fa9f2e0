"""Distributional dynamic programming with stocks: optimise functionals of the return's law."""

from rlkit.stocks.admissible import check_admissible as check_admissible
from rlkit.stocks.augmented import StockModel as StockModel
from rlkit.stocks.augmented import augment as augment
from rlkit.stocks.augmented import stock_edit as stock_edit
from rlkit.stocks.augmented import stock_next as stock_next
from rlkit.stocks.functionals import Statistic as Statistic
from rlkit.stocks.functionals import Utility as Utility
from rlkit.stocks.interpolate import solve_on_grid as solve_on_grid
from rlkit.stocks.lattice import Lattice as Lattice
from rlkit.stocks.lattice import on_lattice as on_lattice
from rlkit.stocks.lower_cvar import best_lower_cvar as best_lower_cvar
from rlkit.stocks.mean_variance import best_mean_variance as best_mean_variance
from rlkit.stocks.policy_iteration import (
    distributional_policy_iteration as distributional_policy_iteration,
)
from rlkit.stocks.reachable import Reachable as Reachable
from rlkit.stocks.reachable import reach as reach
from rlkit.stocks.search import Optimum as Optimum
from rlkit.stocks.upper_cvar import Mixed as Mixed
from rlkit.stocks.upper_cvar import best_upper_cvar as best_upper_cvar
from rlkit.stocks.utilities import best_constrained as best_constrained
from rlkit.stocks.utilities import best_homeostasis as best_homeostasis
from rlkit.stocks.utilities import best_target as best_target
from rlkit.stocks.utilities import best_utility as best_utility
from rlkit.stocks.value_iteration import (
    distributional_value_iteration as distributional_value_iteration,
)

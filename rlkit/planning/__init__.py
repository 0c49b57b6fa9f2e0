"""Exact dynamic programming, batched over models and replicas, in float64.

- Horizon `H`: `backward_induction`, `optimal_values`, `soft_backward_induction`; of a policy
  `finite_policy_value`, `soft_finite_policy_value` and `finite_occupancy`.
- Discount: `policy_iteration`, `value_iteration`, `soft_value_iteration`; of a policy
  `policy_value`, `soft_policy_value` and `discounted_occupancy`.
- Average reward: `gain_and_bias`, `span`, `diameter`; of a policy `policy_gain`,
  `average_occupancy` and `stationary_law`.

Models are shared by all replicas or lead with `N`, and so are policies; results lead with `N` where
anything does. On one machine's CPU, a replica's numbers are the same bits in any company.
"""

from rlkit.planning.average import Gain as Gain
from rlkit.planning.average import centred as centred
from rlkit.planning.average import gain_and_bias as gain_and_bias
from rlkit.planning.average import policy_gain as policy_gain
from rlkit.planning.average import span as span
from rlkit.planning.classes import is_communicating as is_communicating
from rlkit.planning.classes import is_weakly_communicating as is_weakly_communicating
from rlkit.planning.discounted import Solution as Solution
from rlkit.planning.discounted import policy_iteration as policy_iteration
from rlkit.planning.discounted import policy_value as policy_value
from rlkit.planning.discounted import value_iteration as value_iteration
from rlkit.planning.finite_horizon import Plan as Plan
from rlkit.planning.finite_horizon import backward_induction as backward_induction
from rlkit.planning.finite_horizon import finite_policy_value as finite_policy_value
from rlkit.planning.finite_horizon import optimal_values as optimal_values
from rlkit.planning.hitting import diameter as diameter
from rlkit.planning.hitting import hitting_times as hitting_times
from rlkit.planning.layout import successor_major as successor_major
from rlkit.planning.occupancy import average_occupancy as average_occupancy
from rlkit.planning.occupancy import discounted_occupancy as discounted_occupancy
from rlkit.planning.occupancy import finite_occupancy as finite_occupancy
from rlkit.planning.occupancy import stationary_law as stationary_law
from rlkit.planning.policies import Chain as Chain
from rlkit.planning.policies import chain as chain
from rlkit.planning.policies import check_policy as check_policy
from rlkit.planning.policies import deterministic as deterministic
from rlkit.planning.policies import greedy as greedy
from rlkit.planning.soft import soft_backward_induction as soft_backward_induction
from rlkit.planning.soft import soft_finite_policy_value as soft_finite_policy_value
from rlkit.planning.soft import soft_maximum as soft_maximum
from rlkit.planning.soft import soft_policy as soft_policy
from rlkit.planning.soft import soft_policy_value as soft_policy_value
from rlkit.planning.soft import soft_value_iteration as soft_value_iteration

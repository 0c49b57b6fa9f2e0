"""Exact dynamic programming, batched over models and replicas, in float64."""

from rlkit.planning.average import Gain as Gain
from rlkit.planning.average import gain_and_bias as gain_and_bias
from rlkit.planning.discounted import policy_iteration as policy_iteration
from rlkit.planning.finite_horizon import Plan as Plan
from rlkit.planning.finite_horizon import backward_induction as backward_induction

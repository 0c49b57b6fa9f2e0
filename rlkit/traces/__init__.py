"""Multistep off-policy operators with any eligibility trace: online, offline, as matrices."""

from rlkit.traces.offline import expected_sarsa_targets as expected_sarsa_targets
from rlkit.traces.offline import lambda_returns as lambda_returns
from rlkit.traces.offline import multistep_targets as multistep_targets
from rlkit.traces.offline import n_step_targets as n_step_targets
from rlkit.traces.online import Traces as Traces
from rlkit.traces.online import add_trace as add_trace
from rlkit.traces.online import capacity as capacity
from rlkit.traces.online import clear as clear
from rlkit.traces.online import credit as credit
from rlkit.traces.online import start_traces as start_traces
from rlkit.traces.online import step_traces as step_traces
from rlkit.traces.online import weights as weights
from rlkit.traces.operator import Operator as Operator
from rlkit.traces.operator import infinity_norm as infinity_norm
from rlkit.traces.operator import markov_Z as markov_Z
from rlkit.traces.operator import operator_Z as operator_Z
from rlkit.traces.operator import pair_kernel as pair_kernel
from rlkit.traces.operator import peng_values as peng_values
from rlkit.traces.operator import spectral_radius as spectral_radius
from rlkit.traces.policies import importance_ratios as importance_ratios
from rlkit.traces.rules import RULES as RULES
from rlkit.traces.rules import trace_weights as trace_weights

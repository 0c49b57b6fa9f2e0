"""Token MDPs: responses written token by token, with the optimum known.

Reward and reference policy see a prefix through the state of a finite automaton, so that every
oracle is a dynamic program over (time, state), whatever the number of responses.
"""

from rlkit.tokens.automaton import Automaton as Automaton
from rlkit.tokens.automaton import Rewards as Rewards
from rlkit.tokens.automaton import check_automaton as check_automaton
from rlkit.tokens.automaton import check_rewards as check_rewards
from rlkit.tokens.data import Data as Data
from rlkit.tokens.data import check_data as check_data
from rlkit.tokens.data import read_tokens as read_tokens
from rlkit.tokens.divergences import KLEstimates as KLEstimates
from rlkit.tokens.divergences import kl_estimates as kl_estimates
from rlkit.tokens.divergences import mixed_coverage as mixed_coverage
from rlkit.tokens.divergences import response_coverage as response_coverage
from rlkit.tokens.divergences import state_coverage as state_coverage
from rlkit.tokens.laws import best_of_law as best_of_law
from rlkit.tokens.laws import best_of_responses as best_of_responses
from rlkit.tokens.laws import pass_at_k as pass_at_k
from rlkit.tokens.laws import reward_law as reward_law
from rlkit.tokens.laws import win_rate as win_rate
from rlkit.tokens.oracle import Evaluation as Evaluation
from rlkit.tokens.oracle import Optimum as Optimum
from rlkit.tokens.oracle import by_prompt as by_prompt
from rlkit.tokens.oracle import evaluate as evaluate
from rlkit.tokens.oracle import expected_reward as expected_reward
from rlkit.tokens.oracle import occupancy as occupancy
from rlkit.tokens.oracle import sequence_kl as sequence_kl
from rlkit.tokens.oracle import soft_optimum as soft_optimum
from rlkit.tokens.oracle import state_values as state_values
from rlkit.tokens.references import best_policy as best_policy
from rlkit.tokens.references import counted_policy as counted_policy
from rlkit.tokens.references import policy_of_law as policy_of_law
from rlkit.tokens.search import Beams as Beams
from rlkit.tokens.search import beam_search as beam_search
from rlkit.tokens.search import greedy as greedy
from rlkit.tokens.sequences import Responses as Responses
from rlkit.tokens.sequences import every_response as every_response
from rlkit.tokens.sequences import first_error as first_error
from rlkit.tokens.sequences import generate as generate
from rlkit.tokens.sequences import log_probability as log_probability
from rlkit.tokens.sequences import returns as returns
from rlkit.tokens.sequences import walk as walk

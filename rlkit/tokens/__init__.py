"""Token MDPs: responses written token by token, with the optimum known.

Reward and reference policy see a prefix through the state of a finite automaton, so that every
oracle is a dynamic program over (time, state), whatever the number of responses.
"""

from rlkit.tokens.automaton import Automaton as Automaton
from rlkit.tokens.automaton import Rewards as Rewards
from rlkit.tokens.automaton import check_automaton as check_automaton
from rlkit.tokens.laws import best_of_law as best_of_law
from rlkit.tokens.laws import reward_law as reward_law
from rlkit.tokens.laws import win_rate as win_rate
from rlkit.tokens.oracle import Evaluation as Evaluation
from rlkit.tokens.oracle import Optimum as Optimum
from rlkit.tokens.oracle import evaluate as evaluate
from rlkit.tokens.oracle import occupancy as occupancy
from rlkit.tokens.oracle import sequence_kl as sequence_kl
from rlkit.tokens.oracle import soft_optimum as soft_optimum
from rlkit.tokens.sequences import Responses as Responses
from rlkit.tokens.sequences import generate as generate
from rlkit.tokens.sequences import log_probability as log_probability
from rlkit.tokens.sequences import returns as returns
from rlkit.tokens.sequences import walk as walk

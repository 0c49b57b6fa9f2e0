"""Models from the transition dictionaries that Gymnasium's toy-text environments carry."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlkit.models import Model, from_outcomes

Outcome = tuple[float, int, float, bool]  # probability, successor, reward, whether it terminates
Transitions = Mapping[int, Mapping[int, Sequence[Outcome]]]


def from_transitions(transitions: Transitions, start: Tensor, terminal: Tensor) -> Model:
    """The model of a Gymnasium environment's `P`.

    Args:
        transitions: outcomes of every state and action.
        start: `[S]`, sums to 1.
        terminal: `[S]` bool, states in which episodes end; their own rows are not read.

    Raises:
        ValueError: as `from_outcomes`; or an outcome that terminates in a state that is not
            terminal, or the other way round.
    """
    states, actions = len(transitions), len(transitions[0])
    longest = max(len(row) for rows in transitions.values() for row in rows.values())
    shape = (states, actions, longest)
    successor = torch.zeros(shape, dtype=torch.int64)
    probability = torch.zeros(shape, dtype=torch.float64)
    reward = torch.zeros(shape, dtype=torch.float64)
    for state, rows in transitions.items():
        for action, row in rows.items():
            for k, (weight, following, pay, ends) in enumerate(row):
                if not terminal[state] and bool(terminal[following]) != bool(ends):
                    raise ValueError(
                        f"state {state}, action {action} {'ends' if ends else 'does not end'} the "
                        f"episode in state {following}, which is "
                        f"{'not ' if ends else ''}terminal"
                    )
                successor[state, action, k] = following
                probability[state, action, k] = weight
                reward[state, action, k] = pay
    return from_outcomes(successor, probability, reward, start, terminal)

"""Reference policies made from responses."""

import torch
from torch import Tensor

from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.tokens.oracle import gaps
from rlkit.tokens.sequences import Responses
from rlkit.validation import check_real

TIE = 1e-9  # gap up to which a token counts as best


def token_counts(
    automaton: Automaton, responses: Responses, weight: Tensor | None = None
) -> Tensor:
    """How often each token was written in each state, `[N, H, Z, V]` float64.

    Args:
        automaton: the token MDP.
        responses: `[N, B]`.
        weight: of each response `[N, B]`; None: 1.
    """
    shape = automaton.reference.shape
    count = torch.zeros(shape, dtype=torch.float64, device=automaton.reference.device)
    place = responses.state[..., :-1] * automaton.vocabulary + responses.token
    share = torch.ones_like(place[..., 0], dtype=torch.float64) if weight is None else weight
    share = share[:, None].expand(-1, automaton.horizon, -1)
    return count.flatten(2).scatter_add(2, place.transpose(1, 2), share).reshape(shape)


def counted_policy(automaton: Automaton, responses: Responses, smoothing: float) -> Tensor:
    """Maximum likelihood on responses, smoothed: log-probabilities `[N, H, Z, V]`.

    `smoothing` pseudo-counts a state are spread as the automaton's reference spreads its tokens,
    so that illegal tokens stay illegal and states never seen follow that reference.

    Raises:
        ValueError: `smoothing` not positive.
    """
    check_real("smoothing", smoothing, 0, open_low=True)
    count = token_counts(automaton, responses)
    law = count + smoothing * automaton.reference.exp()
    return torch.log(law / law.sum(-1, keepdim=True))


def policy_of_law(automaton: Automaton, responses: Responses, law: Tensor) -> Tensor:
    """The policy with the token frequencies of a law on responses, `[N, H, Z, V]`.

    Its own law is the given one where every prefix is a state. States of no mass follow the
    reference.

    Args:
        automaton: the token MDP.
        responses: `[N, L]`.
        law: their probabilities, given the prompts' law or not, `[N, L]`.
    """
    count = token_counts(automaton, responses, law)
    total = count.sum(-1, keepdim=True)
    return torch.where(total > 0, torch.log(count / total), automaton.reference)


def best_policy(automaton: Automaton, rewards: Rewards) -> Tensor:
    """The best policy without regularisation; tokens that tie as the reference has them.

    Log-probabilities `[N, H, Z, V]`.
    """
    gap, _ = gaps(automaton, rewards)
    return torch.log_softmax(torch.where(gap <= TIE, automaton.reference, -torch.inf), -1)

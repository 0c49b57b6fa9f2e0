"""What was collected before the first step: demonstrations and comparisons, and their checks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.preferences import check_labels
from rlkit.tokens.automaton import Automaton
from rlkit.tokens.sequences import Responses, log_probability, look_up


class Data(NamedTuple):
    """What was collected beforehand. Responses with equal prompts can be compared."""

    demonstration: Responses  # [N, M] responses
    outcome: Tensor  # [N, M] their observed rewards
    first: Responses  # [N, P] of each pair
    second: Responses  # [N, P], to the same prompts
    preferred: Tensor  # [N, P] in [0, 1]: 1 where the first is preferred, 0, or 1/2 for a tie


def check_responses(automaton: Automaton, responses: Responses, name: str) -> None:
    """Refuse responses that the reference could not have written.

    Raises:
        ValueError: longer or shorter than the horizon; a prompt or token that does not exist; a
            token of zero reference probability. Names replica, row and position.
    """
    length, horizon = responses.token.shape[-1], automaton.horizon
    if length != horizon:
        raise ValueError(f"{name} have {length} tokens; accepted: the horizon, {horizon}")
    known = automaton.prompt.shape[1]
    wrong = (responses.prompt < 0) | (responses.prompt >= known)
    if bool(wrong.any()):
        replica, row = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name}: prompt {int(responses.prompt[replica, row])} of row {row}, replica "
            f"{replica}; accepted: 0 .. {known - 1}"
        )
    wrong = (responses.token < 0) | (responses.token >= automaton.vocabulary)
    refuse_token(name, responses, wrong, f"accepted: 0 .. {automaton.vocabulary - 1}")
    wrong = log_probability(automaton.reference, responses) == -torch.inf
    refuse_token(name, responses, wrong, "the reference never writes it there")


def refuse_token(name: str, responses: Responses, wrong: Tensor, why: str) -> None:
    """Refuse the first token at which `wrong` `[N, B, H]` holds."""
    if bool(wrong.any()):
        replica, row, position = wrong.nonzero()[0].tolist()
        token = int(responses.token[replica, row, position])
        raise ValueError(
            f"{name}: token {token} at position {position} of row {row}, replica {replica}; {why}"
        )


def check_data(automaton: Automaton, data: Data, nonempty: Sequence[str] = ()) -> None:
    """Refuse data that do not fit the automaton.

    Args:
        automaton: the token MDP.
        data: to be checked.
        nonempty: of "demonstrations" and "pairs", those of which one at least is required.

    Raises:
        ValueError: an empty set, a response the reference could not have written, two prompts in
            a pair, a label outside [0, 1], an outcome that is not finite. Names row and position.
    """
    counts = {"demonstrations": data.outcome.shape[1], "pairs": data.preferred.shape[1]}
    for name in nonempty:
        if counts[name] == 0:
            raise ValueError(f"{name} = 0; accepted: [1, inf)")
    check_responses(automaton, data.demonstration, "demonstrations")
    check_responses(automaton, data.first, "first responses of pairs")
    check_responses(automaton, data.second, "second responses of pairs")
    apart = data.first.prompt != data.second.prompt
    if bool(apart.any()):
        replica, row = apart.nonzero()[0].tolist()
        raise ValueError(f"pair {row} of replica {replica} answers two prompts; accepted: one")
    check_labels(data.preferred)
    wrong = ~torch.isfinite(data.outcome)
    if bool(wrong.any()):
        replica, row = wrong.nonzero()[0].tolist()
        value = data.outcome[replica, row].item()
        raise ValueError(
            f"outcome of row {row}, replica {replica} is {value}; accepted: finite numbers"
        )


def read_tokens(
    automaton: Automaton, prompt: Sequence[int], rows: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Listed tokens as a tensor `[N, B, H]`, the same in every replica, and their number `[N, B]`.

    Shorter rows are filled with token 0, which counts as not given.

    Args:
        automaton: the token MDP.
        prompt: of each row.
        rows: tokens of each row, at most `H`.

    Raises:
        ValueError: a prompt or token that does not exist, a row longer than the horizon, or a
            token of zero reference probability; names row and position.
    """
    n, prompts = automaton.prompt.shape
    horizon, device = automaton.horizon, automaton.prompt.device
    for row, (number, tokens) in enumerate(zip(prompt, rows, strict=True)):
        if not 0 <= number < prompts:
            raise ValueError(f"prompt {number} of row {row}; accepted: 0 .. {prompts - 1}")
        if len(tokens) > horizon:
            raise ValueError(
                f"row {row} has {len(tokens)} tokens; accepted: at most the horizon, {horizon}"
            )
    length = torch.tensor([len(tokens) for tokens in rows], dtype=torch.int64, device=device)
    padded = [[*tokens, *[0] * (horizon - len(tokens))] for tokens in rows]
    token = torch.tensor(padded, dtype=torch.int64, device=device)
    token = token.reshape(len(rows), horizon).expand(n, -1, -1)
    asked = torch.tensor(list(prompt), dtype=torch.int64, device=device).expand(n, -1)
    state = automaton.origin.gather(1, asked)
    for time in range(horizon):
        now, given = token[..., time], time < length
        outside = (now < 0) | (now >= automaton.vocabulary)
        at = now.clamp(0, automaton.vocabulary - 1)[..., None]
        law = look_up(automaton.reference[:, time], state).gather(-1, at).squeeze(-1)
        never = given & ~outside & (law == -torch.inf)
        for wrong, why in (
            (given & outside, f"accepted: 0 .. {automaton.vocabulary - 1}"),
            (never, "the reference never writes it there"),
        ):
            if bool(wrong.any()):
                replica, index = wrong.nonzero()[0].tolist()
                value = int(now[replica, index])
                raise ValueError(f"token {value} at position {time} of row {index}; {why}")
        state = look_up(automaton.successor[:, time], state).gather(-1, at).squeeze(-1)
    return token, length.expand(n, -1)

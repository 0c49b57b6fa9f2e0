"""Responses as lines of text."""

from collections.abc import Sequence

from rlkit.tokens.sequences import Responses, returns
from rlkit.tokens.task import TokenKnowledge


def transcripts(known: TokenKnowledge, responses: Responses, symbols: Sequence[str]) -> list[str]:
    """Lines `prompt | response | gold reward` for the responses of the first replica.

    Args:
        known: the token MDP.
        responses: `[N, B]`.
        symbols: one for each token; padding is left out.
    """
    gold, over = returns(known.rewards, responses)[0].tolist(), known.over[0].tolist()
    lines = []
    for row, (prompt, token, state) in enumerate(
        zip(*(leaf[0].tolist() for leaf in responses[:3]), strict=True)
    ):
        words = known.prompt_tokens[0, prompt].tolist()
        asked = " ".join(symbols[word] for word in words) if words else f"prompt {prompt}"
        ended = [over[before] for before in state[:-1]]
        text = " ".join(symbols[t] for t, done in zip(token, ended, strict=True) if not done)
        lines.append(f"{asked} | {text} | {gold[row]:.3f}")
    return lines

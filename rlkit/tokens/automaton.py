"""The tables of a token MDP.

Every tensor leads with the replica dimension `N`; a table that all replicas share is an expanded
view. A response has `H` tokens. One that ends early moves to a state where a padding token is the
only legal one: it then costs nothing, neither reward nor divergence.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 1e-6  # by how much the reference's probabilities may miss 1


class Automaton(NamedTuple):
    """What everybody knows: prompts, the automaton and the reference policy."""

    prompt: Tensor  # [N, X] probabilities of the prompts
    origin: Tensor  # [N, X] int64 state of the empty response to a prompt
    successor: Tensor  # [N, H, Z, V] int64 state after a token
    reference: Tensor  # [N, H, Z, V] log-probabilities, -inf where a token is illegal

    @property
    def horizon(self) -> int:
        """Tokens of a response."""
        return self.reference.shape[1]

    @property
    def states(self) -> int:
        """Number of automaton states."""
        return self.reference.shape[2]

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.reference.shape[3]

    @property
    def start(self) -> Tensor:
        """Law of the state of the empty response, `[N, Z]`."""
        law = torch.zeros_like(self.reference[:, 0, :, 0])
        return law.scatter_add(1, self.origin, self.prompt.to(law.dtype))


class Rewards(NamedTuple):
    """Reward of a response: the sum over its tokens and what its last state pays."""

    token: Tensor  # [N, H, Z, V]
    final: Tensor  # [N, Z]


def check_automaton(automaton: Automaton) -> None:
    """Refuse tables that are no token MDP.

    Raises:
        ValueError: shapes that disagree; a state outside `0 .. Z - 1`; prompt or reference
            probabilities that do not sum to 1, naming time and state.
    """
    n, horizon, states, size = automaton.reference.shape
    if automaton.successor.shape != automaton.reference.shape:
        raise ValueError(
            f"successor has shape {list(automaton.successor.shape)}, reference "
            f"{[n, horizon, states, size]}; accepted: equal shapes [N, H, Z, V]"
        )
    for name, table in (("successor", automaton.successor), ("origin", automaton.origin)):
        if int(table.min()) < 0 or int(table.max()) >= states:
            raise ValueError(
                f"{name} = {int(table.min())} .. {int(table.max())}; accepted: 0 .. {states - 1}"
            )
    total = automaton.prompt.sum(1)
    if bool((automaton.prompt < 0).any()) or bool(((total - 1).abs() > ROUNDING).any()):
        raise ValueError("prompt is no distribution; accepted: probabilities that sum to 1")
    mass = torch.logsumexp(automaton.reference, -1).exp()
    wrong = ~((mass - 1).abs() <= ROUNDING)
    if bool(wrong.any()):
        replica, time, state = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"reference at time {time}, state {state}, replica {replica} sums to "
            f"{mass[replica, time, state].item():.6g}; accepted: log-probabilities summing to 1"
        )


def check_rewards(automaton: Automaton, rewards: Rewards, name: str) -> None:
    """Refuse rewards of another shape than the automaton's, or that are not finite.

    Args:
        automaton: the token MDP.
        rewards: to be checked.
        name: "gold" or "proxy", for the message.

    Raises:
        ValueError: names time, state and token, or the state at the end, and the prompts that
            begin there.
    """
    shapes = {"token": automaton.reference.shape, "final": automaton.reference.shape[:3:2]}
    for part, shape in shapes.items():
        table: Tensor = getattr(rewards, part)
        if table.shape != shape:
            raise ValueError(
                f"{name} {part} rewards have shape {list(table.shape)}; accepted: {list(shape)}"
            )
        wrong = ~torch.isfinite(table)
        if bool(wrong.any()):
            replica, *place = wrong.nonzero()[0].tolist()
            names = ("time", "state", "token") if part == "token" else ("state",)
            where = ", ".join(f"{a} {b}" for a, b in zip(names, place, strict=True))
            value = table[replica, *place].item()
            begun = (automaton.origin[replica] == place[-2 if part == "token" else 0]).nonzero()
            prompt = f" (where prompt {int(begun[0])} begins)" if len(begun) else ""
            raise ValueError(
                f"{name} reward of {where}{prompt}, replica {replica} is {value}; accepted: finite"
            )


def ends(automaton: Automaton, rewards: tuple[Rewards, ...]) -> Tensor:
    """States `[N, Z]` that only a padding token follows, without reward, for good."""
    likely = automaton.reference.amax((1,))
    pad = likely.argmax(-1)[:, None, :, None].expand(-1, automaton.horizon, -1, 1)
    alone = (automaton.reference > -torch.inf).sum(-1) == 1
    chosen = automaton.reference.gather(-1, pad).squeeze(-1) > -torch.inf
    here = torch.arange(automaton.states, device=pad.device)
    stays = automaton.successor.gather(-1, pad).squeeze(-1) == here
    free = [reward.token.gather(-1, pad).squeeze(-1) == 0 for reward in rewards]
    every = alone & chosen & stays
    for one in free:
        every = every & one
    return every.all(1)

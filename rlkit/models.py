"""Finite Markov decision processes, as lists of outcomes or as dense kernels.

Both classes offer `lookahead`, which is all that the planners ask of a model. Leaves lead with `N`
where replicas have models of their own.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

ROUNDING = 1e-8  # by how much a row of probabilities may miss 1


class Planned(Protocol):
    """What a planner needs of a model."""

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of states and of actions."""

    def lookahead(self, value: Tensor, discount: float = 1.0) -> Tensor:
        """`r(s, a) + discount * E value(s')`, `[..., S, A]` of `value` `[..., S]`."""


class Model(NamedTuple):
    """A finite MDP as lists of `K` outcomes of every state and action.

    Entering a terminal state ends the episode; in the tables it is absorbing and pays nothing.
    """

    successor: Tensor  # [..., S, A, K] int64
    probability: Tensor  # [..., S, A, K] float64, rows sum to 1
    reward: Tensor  # [..., S, A, K], or [..., S, A, 1] where all outcomes pay the same
    start: Tensor  # [..., S] float64
    terminal: Tensor  # [..., S] bool

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of states and of actions."""
        states, actions = self.probability.shape[-3:-1]
        return states, actions

    @property
    def batched(self) -> bool:
        """Whether replicas have models of their own."""
        return self.probability.dim() == 4

    @property
    def mean_reward(self) -> Tensor:
        """`[..., S, A]`."""
        return (self.probability * self.reward).sum(-1)

    @property
    def kernel(self) -> Tensor:
        """Transition probabilities `[..., S, A, S]`."""
        shape = (*self.probability.shape[:-1], self.size[0])
        dense = torch.zeros(shape, dtype=self.probability.dtype, device=self.probability.device)
        return dense.scatter_add(-1, self.successor, self.probability)

    def lookahead(self, value: Tensor, discount: float = 1.0) -> Tensor:
        """`r(s, a) + discount * E value(s')`, `[..., S, A]` of `value` `[..., S]`."""
        if self.batched:
            flat = self.successor.reshape(self.successor.shape[0], -1)
            own = value.expand(flat.shape[0], -1)
            following = own.gather(1, flat).reshape(self.successor.shape)
        else:
            following = value[..., self.successor]
        return (self.probability * (self.reward + discount * following)).sum(-1)

    def dense(self) -> "Dense":
        """The same model as kernel and mean reward."""
        return Dense(self.kernel, self.mean_reward)


class Dense(NamedTuple):
    """A finite MDP as kernel and mean reward."""

    kernel: Tensor  # [..., S, A, S] float64
    reward: Tensor  # [..., S, A] float64

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of states and of actions."""
        states, actions = self.reward.shape[-2:]
        return states, actions

    def lookahead(self, value: Tensor, discount: float = 1.0) -> Tensor:
        """`r(s, a) + discount * E value(s')`, `[..., S, A]` of `value` `[..., S]`."""
        # Not a batched product: its bits depend on the number of replicas.
        following = (self.kernel * value[..., None, None, :]).sum(-1)
        return self.reward + discount * following


def from_outcomes(
    successor: Tensor,
    probability: Tensor,
    reward: Tensor,
    start: Tensor,
    terminal: Tensor | None = None,
) -> Model:
    """A checked model; rows of terminal states are made absorbing and free.

    Args:
        successor: `[..., S, A, K]` integers in `[0, S)`.
        probability: `[..., S, A, K]`, rows sum to 1.
        reward: `[..., S, A, K]` or `[..., S, A, 1]`.
        start: `[..., S]`, sums to 1.
        terminal: `[..., S]` bool, None where no state is terminal.

    Raises:
        ValueError: names the state and action of a row that is no distribution, of a successor
            that is no state or of a reward that is not finite; or the start.
    """
    if terminal is None:
        terminal = torch.zeros_like(start, dtype=torch.bool)
    states = probability.shape[-3]
    ended = terminal[..., None, None]
    own = torch.arange(states, device=successor.device)[:, None, None]
    first = torch.zeros_like(probability)
    first[..., 0] = 1.0
    model = Model(
        torch.where(ended, own, successor.long()),
        torch.where(ended, first, probability.double()),
        torch.where(ended, torch.zeros_like(reward), reward).double(),
        start.double(),
        terminal,
    )
    check_model(model)
    return model


def from_kernel(
    kernel: Tensor, reward: Tensor, start: Tensor, terminal: Tensor | None = None
) -> Model:
    """A checked model of transition probabilities `[..., S, A, S]` and mean reward `[..., S, A]`.

    Outcomes are cut to the longest row, so that a sparse kernel makes short lists; kernels of
    replicas are not, for the longest row of one must not depend on the others.

    Raises:
        ValueError: as `from_outcomes`.
    """
    states = kernel.shape[-1]
    longest = max(1, int((kernel != 0).sum(-1).max())) if kernel.dim() == 3 else states
    if longest == states:
        successor = torch.arange(states, device=kernel.device).expand(kernel.shape)
        return from_outcomes(successor, kernel, reward[..., None], start, terminal)
    order = torch.argsort((kernel == 0).long(), dim=-1, stable=True)[..., :longest]
    return from_outcomes(order, kernel.gather(-1, order), reward[..., None], start, terminal)


def check_model(model: Model) -> None:
    """Refuse tables that are no Markov decision process."""
    states, _actions = model.size
    check_rows(model.probability)
    total = model.start.sum(-1)
    if bool((model.start < 0).any()) or not bool(((total - 1).abs() <= ROUNDING).all()):
        raise ValueError(f"start sums to {worst(total)}; accepted: probabilities that sum to 1")
    outside = (model.successor < 0) | (model.successor >= states)
    if bool(outside.any()):
        place = where(outside)
        raise ValueError(
            f"successor of {place} is {int(model.successor[outside][0])}; accepted: 0 .. "
            f"{states - 1}"
        )
    strange = ~torch.isfinite(model.reward)
    if bool(strange.any()):
        raise ValueError(
            f"reward of {where(strange)} is {model.reward[strange][0].item()}; accepted: finite "
            "numbers"
        )


def check_rows(probability: Tensor, name: str = "probability") -> None:
    """Refuse `[..., S, A, K]` with a row that is not a distribution, naming state and action."""
    total = probability.sum(-1)
    wrong = ~((total - 1).abs() <= ROUNDING)
    if bool(wrong.any()):
        raise ValueError(
            f"{name} of {where(wrong[..., None])} sums to {total[wrong][0].item():.9g}; accepted: "
            "rows that sum to 1"
        )
    negative = probability < 0
    if bool(negative.any()):
        raise ValueError(
            f"{name} of {where(negative)} holds {probability[negative][0].item():.9g}; accepted: "
            "[0, 1]"
        )


def where(mask: Tensor) -> str:
    """State and action of the first true entry of `mask` `[..., S, A, K]`, in words."""
    *replica, state, action, _ = mask.nonzero()[0].tolist()
    text = f"state {state}, action {action}"
    return f"{text}, replica {replica[0]}" if replica else text


def worst(total: Tensor) -> float:
    """The sum that misses 1 most."""
    flat = total.reshape(-1)
    return float(flat[(flat - 1).abs().argmax()])

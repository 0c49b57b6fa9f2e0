"""Stock augmentation: the state carries a running total of what was earned so far.

Avila Pires et al. (2025), "Optimizing return distributions with distributional dynamic
programming", section 3. The stock obeys `C' = (C + R) / gamma`, so that
`C_0 + G_0 = gamma^t (C_t + G_t)` for the return `G_t` from time `t` on. Its multiple
`gamma^t C_t = C_0 + sum_{i<t} gamma^i R_{i+1}`, called the total here, stays bounded.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.models import Model
from rlkit.validation import check_integer, check_real


@dataclass(frozen=True)
class StockModel:
    """A finite MDP with `m` rewards, its discount and its time limit.

    Raises:
        ValueError: a discount outside (0, 1], an infinite horizon without discount, a batched
            model, or rewards that are not `[S, A, K, m]`.
    """

    model: Model  # one model for all replicas; its own scalar reward is not used
    reward: Tensor  # [S, A, K, m] float64, zero in terminal states
    gamma: float = 1.0  # in (0, 1]
    horizon: int | None = None  # steps, >= 1; None is infinite

    def __post_init__(self) -> None:
        check_real("gamma", self.gamma, 0, 1, open_low=True)
        if self.horizon is not None:
            check_integer("horizon", self.horizon, 1)
        elif self.gamma == 1:
            raise ValueError("horizon = None with gamma = 1: the return may be infinite")
        if self.model.batched:
            raise ValueError("the model is drawn per replica: stocks need one model for all")
        outcomes = tuple(self.model.probability.shape)
        if self.reward.dim() != 4 or tuple(self.reward.shape[:3]) != outcomes:
            raise ValueError(
                f"reward has shape {list(self.reward.shape)}; accepted: {[*outcomes, 'm']}"
            )
        if not bool(torch.isfinite(self.reward).all()):
            raise ValueError("reward is not finite everywhere")

    @property
    def dimension(self) -> int:
        """Number of rewards `m`."""
        return int(self.reward.shape[-1])

    @property
    def steps(self) -> int:
        """The time limit.

        Raises:
            ValueError: the horizon is infinite.
        """
        if self.horizon is None:
            raise ValueError("horizon = None: exact tables need a time limit; use solve_on_grid")
        return self.horizon

    @property
    def certain(self) -> Tensor:
        """Which outcomes can happen, `[S, A, K]` bool."""
        return self.model.probability > 0


def augment(
    model: Model, gamma: float = 1.0, horizon: int | None = None, reward: Tensor | None = None
) -> StockModel:
    """A model with stocks.

    Args:
        model: one model for all replicas.
        gamma: discount, in (0, 1].
        horizon: time limit, >= 1; None is infinite.
        reward: `[S, A, K, m]` rewards of every outcome, None for the model's own scalar reward.

    Raises:
        ValueError: as `StockModel`.
    """
    if reward is None:
        reward = model.reward.expand(model.probability.shape)[..., None]
    ended = model.terminal[..., None, None, None]
    return StockModel(model, torch.where(ended, 0.0, reward.double()), gamma, horizon)


def stock_next(stock: Tensor, reward: Tensor, gamma: float) -> Tensor:
    """Stock after a reward, `(C + R) / gamma`; both `[..., m]`.

    Raises:
        ValueError: `gamma` outside (0, 1].
    """
    check_real("gamma", gamma, 0, 1, open_low=True)
    return (stock + reward) / gamma


def stock_edit(stock: Tensor, time: Tensor, old: Tensor, new: Tensor, gamma: float) -> Tensor:
    """What the stock `[..., m]` at `time` `[...]` had been, had the first one been `new`.

    The rewards do not depend on the stock, so a stored transition may be relabelled in this way.

    Args:
        stock: as recorded.
        time: steps since the start of its episode, integers >= 0.
        old: first stock as recorded, `[..., m]`.
        new: first stock wanted instead, `[..., m]`.
        gamma: discount, in (0, 1].

    Raises:
        ValueError: `gamma` outside (0, 1].
    """
    check_real("gamma", gamma, 0, 1, open_low=True)
    growth = torch.full_like(stock[..., 0], gamma) ** -time
    return stock + growth[..., None] * (new - old)

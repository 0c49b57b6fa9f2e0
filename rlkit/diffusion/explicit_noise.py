"""Given noise in place of draws, so that two implementations can walk the same chain."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from rlkit.random import Rng


@dataclass(frozen=True)
class GivenNoise(Rng):
    """Draws that are looked up by name; a draw that nobody gave is refused.

    Attributes:
        given: tensors `[N, ...]` by the name of the draw.
        rows: `[N]` bool, replicas for which they count: the others draw as usual, as do names that
            are not given. None: all.
    """

    given: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    rows: Tensor | None = field(default=None, repr=False, compare=False)

    def normal(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The given numbers, `[N, *shape]`."""
        return self._take(name, shape, dtype, super().normal)

    def uniform(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The given numbers, `[N, *shape]`."""
        return self._take(name, shape, dtype, super().uniform)

    def _take(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, draw: Callable[..., Tensor]
    ) -> Tensor:
        if name not in self.given:
            return draw(name, *shape, dtype=dtype)
        value, accepted = self.given[name], (self.n, *shape)
        if tuple(value.shape) != accepted:
            raise ValueError(
                f"noise of draw {name!r} has shape {tuple(value.shape)}; accepted: {accepted}"
            )
        value = value.to(self.device, dtype)
        if self.rows is None:
            return value
        here = self.rows.reshape(-1, *[1] * len(shape))
        return torch.where(here, value, draw(name, *shape, dtype=dtype))

    def _claim(self, name: str) -> None:
        if self.rows is None:
            raise ValueError(f"draw {name!r} is not given; given: {sorted(self.given)}")
        super()._claim(name)


def given_noise(
    rng: Rng,
    steps: int,
    noise: Tensor | None = None,
    uniform: Tensor | None = None,
    name: str = "chain",
    rows: Tensor | None = None,
) -> GivenNoise:
    """What `run_reference`, `Kernel.chain` and `sample` draw in one chain, given beforehand.

    The step from x_t uses index t - 1, as log-probabilities of chains do.

    Args:
        rng: its replicas, and the draws of those that are not in `rows`.
        steps: T of the chain.
        noise: standard normal, `[N, T, B, d]`, of chains of points.
        uniform: in [0, 1): `[N, T, B]` chooses the component of the exact kernel on mixtures, or
            position and letter of the single masked chain; `[N, T, B, L]` the letters of the
            parallel one.
        name: of the draws.
        rows: as in `GivenNoise`.

    Raises:
        ValueError: other numbers of replicas or of steps.
    """
    given: dict[str, Tensor] = {}
    for kind, values, places in (
        ("noise", noise, ("/noise",)),
        ("uniform", uniform, ("", "/component")),
    ):
        if values is None:
            continue
        shape = tuple(values.shape)
        if len(shape) not in (3, 4) or shape[:2] != (rng.n, steps):
            raise ValueError(
                f"{kind} has shape {shape}; accepted: [N, T, B, ...] with N = {rng.n}, T = {steps}"
            )
        for t in range(1, steps + 1):
            given |= {f"{name}/{t}{place}": values[:, t - 1] for place in places}
    base = {part.name: getattr(rng, part.name) for part in fields(Rng)}
    return GivenNoise(**base, given=given, rows=rows)

"""Given noise in place of draws, so that two implementations can walk the same chain."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from rlkit.diffusion.checks import checking
from rlkit.random import Rng


@dataclass(frozen=True)
class GivenNoise(Rng):
    """Draws that are looked up by name; a draw that nobody gave is refused.

    Attributes:
        given: tensors `[N, ...]` by the kind ("normal" or "uniform") and the name of the draw.
        rows: `[N]` bool, replicas for which they count: the others draw as usual, as do names that
            are not given. None: all.
    """

    given: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False, compare=False)
    rows: Tensor | None = field(default=None, repr=False, compare=False)

    def normal(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The given numbers, `[N, *shape]`."""
        return self._take("normal", name, shape, dtype, super().normal)

    def uniform(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The given numbers, `[N, *shape]`."""
        return self._take("uniform", name, shape, dtype, super().uniform)

    def _take(
        self,
        kind: str,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        draw: Callable[..., Tensor],
    ) -> Tensor:
        value = self.given.get((kind, name))
        if value is None:
            return draw(name, *shape, dtype=dtype)
        accepted = (self.n, *shape)
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
            known = sorted(given for _, given in self.given)
            raise ValueError(f"draw {name!r} is not given; given: {known}")
        super()._claim(name)


def given_noise(
    rng: Rng,
    steps: int,
    noise: Tensor | None = None,
    uniform: Tensor | None = None,
    name: str = "chain",
    rows: Tensor | None = None,
) -> GivenNoise:
    """What `run_reference`, `Kernel.chain`, `sample` and policies draw in a chain, beforehand.

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
        ValueError: no tensors, other numbers of replicas or of steps, numbers that are not finite
            or, of `uniform`, not in [0, 1).
    """
    given: dict[tuple[str, str], Tensor] = {}
    for argument, kind, values, places in (
        ("noise", "normal", noise, ("", "/noise")),
        ("uniform", "uniform", uniform, ("", "/component")),
    ):
        if values is None:
            continue
        check_draws(argument, values, (rng.n, steps))
        for t in range(1, steps + 1):
            given |= {(kind, f"{name}/{t}{place}"): values[:, t - 1] for place in places}
    base = {part.name: getattr(rng, part.name) for part in fields(Rng)}
    return GivenNoise(**base, given=given, rows=rows)


def check_draws(argument: str, values: Tensor, lead: tuple[int, int]) -> None:
    """Accept draws `[N, T, B, ...]`.

    Raises:
        ValueError: as `given_noise`.
    """
    if not isinstance(values, Tensor):
        raise ValueError(f"{argument} is a {type(values).__name__}; accepted: a torch.Tensor")
    shape = tuple(values.shape)
    if len(shape) not in (3, 4) or shape[:2] != lead:
        raise ValueError(
            f"{argument} has shape {shape}; accepted: [N, T, B, ...] with N = {lead[0]}, "
            f"T = {lead[1]}"
        )
    if (
        checking(values)
        and argument == "uniform"
        and not bool(((values >= 0) & (values < 1)).all())
    ):
        raise ValueError("uniform holds a number outside [0, 1)")
    if checking(values) and not bool(torch.isfinite(values).all()):
        raise ValueError(f"{argument} holds a number that is not finite; accepted: (-inf, inf)")

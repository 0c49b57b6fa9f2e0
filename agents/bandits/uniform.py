"""The policy that learns nothing."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlkit.arms import arm_count
from rlkit.protocol import MultiDiscrete, Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent


@agent("uniform")
@dataclass(frozen=True)
class Uniform:
    """Every action with equal probability at every step: the baseline of all baselines."""

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = True

    def initial(self, spec: Spec, rng: Rng) -> tuple[()]:
        """No state.

        Raises:
            ValueError: the actions are neither at least two arms nor sequences of integers.
        """
        if not isinstance(spec.action, MultiDiscrete):
            arm_count(spec)
        return ()

    def act(
        self, spec: Spec, state: tuple[()], observation: Tree, rng: Rng
    ) -> tuple[Tensor, tuple[()]]:
        """A uniform arm `[N]`, or uniform entries `[N, length]` of a sequence."""
        if isinstance(spec.action, MultiDiscrete):
            return rng.integers("arm", spec.action.n, spec.action.length), state
        return rng.integers("arm", arm_count(spec)), state

    def learn(self, spec: Spec, state: tuple[()], batch: Transition, rng: Rng) -> tuple[()]:
        """Nothing to learn."""
        return state

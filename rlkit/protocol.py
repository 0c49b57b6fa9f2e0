"""The two interfaces of the gym: a problem produces experience, an agent consumes it.

Both are frozen dataclasses of numbers and strings. State is a tree of tensors that goes in and
comes out; every leaf has a leading replica dimension `N`. The engine owns the loop, the time
limit, autoreset, recording and devices.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from rlkit.random import Rng

Tree = Any  # nested NamedTuples, tuples and dicts of tensors, or None


@dataclass(frozen=True)
class Discrete:
    """Integers `0 .. n - 1`, as int64 tensors `[N]`."""

    n: int


@dataclass(frozen=True)
class Box:
    """Real arrays of one `shape` with one bound on each side, as tensors `[N, *shape]`."""

    shape: tuple[int, ...]
    low: float = float("-inf")
    high: float = float("inf")


@dataclass(frozen=True)
class MultiDiscrete:
    """Sequences of `length` integers `0 .. n - 1`, as int64 tensors `[N, length]`."""

    n: int
    length: int


@dataclass(frozen=True)
class Composite:
    """Several named observations at once, as a dict from name to tensor `[N, ...]`."""

    parts: tuple[tuple[str, Discrete | Box | MultiDiscrete], ...]  # names differ, at least one


ActionSpace = Discrete | Box | MultiDiscrete
ObservationSpace = Discrete | Box | MultiDiscrete | Composite


class BetaPrior(NamedTuple):
    """Independent Beta(`alpha`, `beta`) laws on the arm means."""

    alpha: float
    beta: float


class GaussianPrior(NamedTuple):
    """Gaussian law of the unknown parameter: `mean` `[d]` and `covariance` `[d, d]`."""

    mean: Tensor
    covariance: Tensor


class Demonstrations(NamedTuple):
    """Offline pulls of an expert, seen before the first step.

    The expert of Hao et al. (2023): it acts by a softmax with inverse temperature `competence`
    (deliberateness, 0 is uniform) on a parameter known up to noise of standard deviation
    `1 / knowledgeability` (infinite: it knows the truth).
    """

    arm: Tensor  # [N, n] int64
    reward: Tensor  # [N, n]
    competence: float
    knowledgeability: float


class Features(Protocol):
    """Features `[N, d]` of an observation and an action.

    A NamedTuple with this method lets compiled code see its tensors; in a closure they are
    constants, and a run of several groups is then not compiled.
    """

    def __call__(self, observation: Tree, action: Tensor, /) -> Tensor:
        """Features `[N, d]`."""


class Known(NamedTuple):
    """What a problem discloses to the agent beside its spaces. Every field is optional."""

    reward: Tensor | None = None  # [S, A] or [N, S, A] mean reward
    emission: Tensor | None = None  # [S, O] or [N, S, O] observation probabilities
    features: Features | None = None
    reference: Any = None  # .log_prob(observation, action) -> [N]
    prior: Tree = None  # law of the unknown parameter, never the parameter
    score: Callable[[Tensor], Tensor] | None = None  # sequences [N, H] -> [N]
    noise: float | None = None  # standard deviation of the reward noise
    demonstrations: Demonstrations | None = None
    model: Any = None  # rlkit.models.Model, for agents that plan
    tokens: Any = None  # rlkit.tokens.TokenKnowledge, for agents that write responses
    diffusion: Any = None  # rlkit.diffusion.task.DiffusionTask, for agents that sample chains
    rewards: Tensor | None = (
        None  # [S, A, K, m] of every outcome of `model`, where there are several
    )


@dataclass(frozen=True)
class Spec:
    """What the agent may know: spaces, time limit, total number of steps, disclosed knowledge."""

    observation: ObservationSpace
    action: ActionSpace
    horizon: int | None = None  # episode length; None is a continuing task
    known: Known = field(default_factory=Known)
    total_steps: int | None = None  # length of the run, for agents that need it in advance
    reward_range: tuple[float, float] = (float("-inf"), float("inf"))


class Instance(NamedTuple):
    """A drawn problem. Leaves of `replica` lead with `N`; leaves of `shared` serve all replicas."""

    shared: Tree = ()
    replica: Tree = ()


class Step(NamedTuple):
    """Outcome of one transition, before any autoreset."""

    state: Tree
    reward: Tensor  # [N] what the agent may see (zeros where hidden)
    discount: Tensor  # [N] 0 where terminated, else 1; truncation is the engine's business
    feedback: Tree = None  # labels, clicks: None or leaves [N, ...]


class Transition(NamedTuple):
    """What an agent learns from in the online protocol."""

    observation: Tree
    action: Tree
    reward: Tensor  # [N]
    discount: Tensor  # [N] the only bootstrap factor
    next_observation: Tree  # the successor before autoreset
    last: Tensor  # [N] bool: the episode ended here; cut traces and beliefs, never bootstrap on it
    feedback: Tree = None


@runtime_checkable
class Problem(Protocol):
    """A frozen dataclass of parameters with pure batched functions."""

    @property
    def horizon(self) -> int | None:
        """Time limit in steps, owned by the engine; None for a continuing task."""

    def instance(self, rng: Rng) -> Instance:
        """Draw the run's fixed quantities once: means, tables, features."""

    def reset(self, instance: Instance, rng: Rng) -> Tree:
        """Draw the state at the start of an episode; all leaves `[N, ...]`."""

    def transition(self, instance: Instance, state: Tree, action: Tree, rng: Rng) -> Step:
        """Advance every replica by one step."""

    def observe(self, instance: Instance, state: Tree) -> Tree:
        """Observation of a state. Pure: noisy observations are drawn in `transition`."""

    def spec(self, instance: Instance) -> Spec:
        """Spaces and what the agent may know."""

    def diagnostics(self, instance: Instance, state: Tree, action: Tree) -> dict[str, Tensor]:
        """Exact per-step quantities `[N]` (regret first), from the state before the step."""


class Agent(Protocol):
    """A frozen dataclass of hyper-parameters with pure batched functions.

    An agent may also define `diagnostics(spec, state) -> dict[str, Tensor]`, read at record
    points only; and `episodic = True` where `learn` depends on data only in that it plans when an
    episode ends, so that the other steps of an episode may be compiled. If it then also defines
    `renew(spec, state, batch, rng)`, which is `learn` for a step that ends every replica's episode
    and depends on data nowhere, such steps are compiled too, plans and all.
    """

    needs: ClassVar[tuple[str, ...]]  # names of `Known` fields without which it cannot run
    compilable: ClassVar[bool]  # False where control flow depends on data

    def initial(self, spec: Spec, rng: Rng) -> Tree:
        """State before the first step; all leaves `[N, ...]`."""

    def act(self, spec: Spec, state: Tree, observation: Tree, rng: Rng) -> tuple[Tree, Tree]:
        """Choose an action `[N, ...]`; returns it with the new state."""

    def learn(self, spec: Spec, state: Tree, batch: Any, rng: Rng) -> Tree:
        """Update on a `Transition`, or on preference pairs or trajectories offline."""

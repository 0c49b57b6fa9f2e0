"""One step of the loop between a problem and an agent, and problems as vector environments.

`step` is the single definition of what happens at time `t`; the rollout runs it eagerly, inside a
compiled scan or inside a CUDA graph. `BatchedEnv` is the same transition without the agent.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves, tree_map

from rlkit.blocks import BlockRng, Blocks, Prefetch
from rlkit.legality import begin_at, check_legal, legal_actions
from rlkit.protocol import Agent, Instance, Problem, Spec, Step, Transition, Tree
from rlkit.random import Kernels, Rng, Word, WordSource, words_at
from rlkit.spaces import check_action, to_gymnasium, to_observation

STREAMS = ("instance", "reset", "env", "initial", "act", "learn")


class Carry(NamedTuple):
    """The whole truth of a run besides (config, replica numbers)."""

    state: Tree  # the problem's state, leaves [N, ...]
    elapsed: Tree  # [N] int32 steps since the episode began, () for continuing tasks
    agent: Tree  # the agent's state, leaves [N, ...]
    action: Tree  # the last action [N, ...]
    totals: dict[str, Tensor]  # [N] float64 sums of reward and of the problem's diagnostics


@dataclass(frozen=True)
class Streams:
    """Makes the `Rng` of a stream at a step."""

    seed: Word
    replica: Tensor  # [N] int64
    source: WordSource = words_at
    rounds: int | None = None
    rejected: list[Tensor] | None = None
    used: set[tuple[str, str]] | None = None
    kernels: Kernels | None = None

    def at(self, stream: str, step: Word) -> Rng:
        """Draws of `stream` at `step`."""
        return Rng(
            self.seed,
            stream,
            self.replica,
            step,
            self.rounds,
            self.rejected,
            self.source,
            self.used,
            self.kernels,
        )


def select(mask: Tensor, where_true: Tree, where_false: Tree) -> Tree:
    """Leaf by leaf: rows of `where_true` where `mask` `[N]` holds, else of `where_false`."""

    def leaf(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.reshape(-1, *[1] * (a.dim() - 1)), a, b)

    return tree_map(leaf, where_true, where_false)


def begin(
    problem: Problem, agent: Agent, spec: Spec, instance: Instance, streams: Streams, limit: Any
) -> Carry:
    """The carry before the first step."""
    replica = streams.replica
    state = problem.reset(instance, streams.at("reset", 0))
    check_leaves("the problem's state", state, replica.shape[0])
    agent_state = agent.initial(spec, streams.at("initial", 0))
    check_leaves("the agent's state", agent_state, replica.shape[0])
    quiet = Streams(streams.seed, replica)
    action, _ = agent.act(spec, agent_state, problem.observe(instance, state), quiet.at("act", 0))
    check_leaves("the agent's action", action, replica.shape[0])
    gains = problem.diagnostics(instance, state, action)
    if "reward" in gains:
        raise ValueError("a diagnostic is named 'reward', the total of what the agent sees")
    names = ["reward", *gains]
    zero = torch.zeros(replica.shape[0], dtype=torch.float64, device=replica.device)
    elapsed = () if limit is None else torch.zeros_like(replica, dtype=torch.int32)
    idle = tree_map(torch.zeros_like, action)
    return Carry(state, elapsed, agent_state, idle, {name: zero.clone() for name in names})


def step(
    problem: Problem,
    agent: Agent,
    spec: Spec,
    instance: Instance,
    limit: Any,
    carry: Carry,
    time: Word,
    streams: Streams,
    renew: bool = False,
) -> Carry:
    """Advance every replica by one step: observe, act, transition, learn, autoreset.

    With `renew` the agent's method of that name takes the place of `learn`: the step is to end
    every replica's episode.
    """
    observation = problem.observe(instance, carry.state)
    action, agent_state = agent.act(spec, carry.agent, observation, streams.at("act", time))
    out = problem.transition(instance, carry.state, action, streams.at("env", time))
    following = problem.observe(instance, out.state)
    if limit is None:
        last, elapsed, state = torch.zeros_like(out.discount, dtype=torch.bool), (), out.state
    else:
        count = carry.elapsed + 1
        last = (out.discount == 0) | (count >= limit)
        if quiet(last):
            elapsed, state = count, out.state
        else:
            elapsed = count * ~last
            fresh = problem.reset(instance, streams.at("reset", time + 1))
            state = select(last, fresh, out.state)
    batch = Transition(observation, action, out.reward, out.discount, following, last, out.feedback)
    learn = agent.renew if renew else agent.learn  # type: ignore[attr-defined]
    agent_state = learn(spec, agent_state, batch, streams.at("learn", time))
    gains = {"reward": out.reward, **problem.diagnostics(instance, carry.state, action)}
    totals = {name: carry.totals[name] + gain.double() for name, gain in gains.items()}
    return Carry(state, elapsed, agent_state, action, totals)


def quiet(last: Tensor) -> bool:
    """Whether no episode ended, where that can be asked at little cost.

    Named draws: leaving out the resets nobody needs changes no number.
    """
    return not torch.compiler.is_compiling() and last.is_cpu and not bool(last.any())


class Advance(NamedTuple):
    """What one step of `BatchedEnv` did, every field dense."""

    observation: Tree  # [N, ...] of the next episode where one ended
    reward: Tensor  # [N]
    discount: Tensor  # [N]
    terminated: Tensor  # [N] bool
    truncated: Tensor  # [N] bool
    ended: Tensor  # [N] bool, either of the two
    final: Tree  # [N, ...] successor before autoreset
    feedback: Tree
    successor: Tree  # the problem's state that `final` observes


class BatchedEnv(gymnasium.vector.VectorEnv[Tree, Tensor, Tensor]):
    """A problem as a Gymnasium vector environment on torch tensors.

    Observations are tensors `[N, ...]`, or dicts of such where the space is a `Composite`.
    Same-step autoreset: the returned observation is already the next episode's where one ended;
    `info["final_obs"]` holds the successor before autoreset, for every row. Row `i` depends on
    (seed, `first_replica + i`) alone.

    Args:
        problem: what to simulate.
        num_envs: rows, >= 1.
        seed: in `[0, 2**32)`, until `reset(seed=...)` gives another.
        first_replica: global number of row 0, >= 0.
        device: torch device of every tensor.
        max_episode_steps: time limit in place of the problem's own.
        check_actions: refuse actions outside the space; costs one synchronisation a step.

    Raises:
        ValueError: an argument outside its range.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
        "torch": True,
    }

    def __init__(
        self,
        problem: Problem,
        num_envs: int = 1,
        *,
        seed: int = 0,
        first_replica: int = 0,
        device: str | torch.device = "cpu",
        max_episode_steps: int | None = None,
        check_actions: bool = True,
    ) -> None:
        check_count("num_envs", num_envs, 1)
        check_count("first_replica", first_replica, 0)
        if max_episode_steps is not None:
            check_count("max_episode_steps", max_episode_steps, 1)
        self.problem, self.num_envs, self.first_replica = problem, num_envs, first_replica
        self.limit = problem.horizon if max_episode_steps is None else max_episode_steps
        self.replica = torch.arange(first_replica, first_replica + num_envs, device=device)
        self.check_actions = check_actions
        self._prefetch = Prefetch()
        self._on_host = self.replica.device.type == "cpu"
        self._never = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self._seed(seed)
        self.single_observation_space = to_gymnasium(self.spec_.observation)
        self.single_action_space = to_gymnasium(self.spec_.action)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _seed(self, seed: int) -> None:
        check_seed(seed)
        self._prefetch.clear()
        self.streams = Streams(seed, self.replica, self._prefetch)
        self._rng = BlockRng(seed, "env", self.replica, source=self._prefetch, blocks=Blocks())
        with torch.no_grad():
            self.instance = self.problem.instance(Streams(seed, self.replica).at("instance", 0))
            self.spec_ = self.problem.spec(self.instance)
        self.time = 0
        self.state: Tree = None
        self.elapsed: Any = None
        self.just_reset = False

    @torch.no_grad()
    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tree, dict[str, Any]]:
        """Start episodes in all rows, or in those of `options["reset_mask"]` `[N]`.

        A seed draws a new instance and goes back to step 0. Without one the instance stays and
        the randomness goes on. Further options, and legal actions in `info`, are those of
        `rlkit.legality`.

        Raises:
            ValueError: a seed outside `[0, 2**32)`, or a list of seeds: rows are told apart by
                their replica number, so one seed serves all; options the problem refuses.
        """
        if isinstance(seed, list):
            raise ValueError("seed is a list: give one integer, rows differ by replica number")
        if seed is not None:
            self._seed(seed)
        if self.just_reset:
            self.time += 1  # so that a second reset draws another start
        self.just_reset = True
        fresh = self.problem.reset(self.instance, self._rng.at("reset", self.time))
        zero = torch.zeros_like(self.replica, dtype=torch.int32)
        fresh, elapsed = begin_at(self.problem, self.instance, options or {}, fresh, zero)
        mask = (options or {}).get("reset_mask")
        if mask is None or self.state is None:
            self.state, self.elapsed = fresh, elapsed
        else:
            mask = torch.as_tensor(mask, device=self.replica.device)
            self.state = select(mask, fresh, self.state)
            self.elapsed = torch.where(mask, elapsed, self.elapsed)
        return self._observe(self.state), self.masks()

    def masks(self) -> dict[str, Tensor]:
        """The legal actions `[N, ..., A]` under "action_mask", where the problem tells them."""
        return legal_actions(self.problem, self.instance, self.state)

    def _observe(self, state: Tree) -> Tree:
        return to_observation(self.spec_.observation, self.problem.observe(self.instance, state))

    @torch.no_grad()
    def step(self, actions: Any) -> tuple[Tree, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Advance every row; returns observation, reward, terminated, truncated, info, all dense.

        Raises:
            ValueError: an action outside the action space.
            RuntimeError: `reset` was never called.
        """
        if self.state is None:
            raise RuntimeError("call reset() before step()")
        action = torch.as_tensor(actions, device=self.replica.device)
        if self.check_actions:
            check_action(self.spec_.action, action, self.num_envs)
            check_legal(self.problem, self.instance, self.state, action, self.elapsed)
        gains = self.problem.diagnostics(self.instance, self.state, action)
        done = self.advance(action)
        info = {"final_obs": done.final, "_final_obs": done.ended.clone()}
        info |= {"discount": done.discount, **gains}
        if done.feedback is not None:
            info["feedback"] = done.feedback
        info |= self.masks()
        return (
            done.observation,
            done.reward,
            done.terminated.clone(),
            done.truncated.clone(),
            info,
        )

    def advance(self, action: Tensor) -> Advance:
        """`step` for trusted actions on the right device, without diagnostics.

        Flags of a step without an end are one constant tensor: not to be written to.
        """
        out = self.problem.transition(
            self.instance, self.state, action, self._rng.at("env", self.time)
        )
        final = self._observe(out.state)
        self.time += 1
        self.just_reset = False
        if self.limit is None:
            return self._carry_on(out, final)
        terminated = out.discount == 0
        self.elapsed = self.elapsed + 1
        ended = terminated | (self.elapsed >= self.limit)
        if self._on_host and not bool(ended.any()):
            # Named draws: leaving out the resets nobody needs changes no number.
            return self._carry_on(out, final)
        fresh = self.problem.reset(self.instance, self._rng.at("reset", self.time))
        self.state = select(ended, fresh, out.state)
        self.elapsed = self.elapsed * ~ended
        return Advance(
            self._observe(self.state),
            out.reward,
            out.discount,
            terminated,
            ended & ~terminated,
            ended,
            final,
            out.feedback,
            out.state,
        )

    def _carry_on(self, out: Step, final: Tree) -> Advance:
        """No episode ended."""
        self.state, no = out.state, self._never
        return Advance(final, out.reward, out.discount, no, no, no, final, out.feedback, out.state)


def check_count(name: str, value: int, low: int) -> None:
    """Refuse what is not an integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} = {value!r} is not an integer >= {low}")


def check_seed(seed: int) -> None:
    """Refuse seeds outside `[0, 2**32)`."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed = {seed!r} is not an integer in [0, 2**32)")


def check_leaves(owner: str, tree: Tree, n: int) -> None:
    """Refuse state whose leaves are not tensors with leading dimension `n`."""
    for leaf in tree_leaves(tree):
        if not isinstance(leaf, Tensor):
            raise ValueError(f"{owner} holds {leaf!r}: every leaf must be a tensor [N, ...]")
        if leaf.dim() == 0 or leaf.shape[0] != n:
            raise ValueError(f"{owner} holds a leaf {tuple(leaf.shape)}, not [N = {n}, ...]")


def check_static(before: Carry, after: Carry) -> None:
    """Refuse a step that changes the structure, shape or dtype of the state."""
    pairs = (tree_flatten_with_path(before), tree_flatten_with_path(after))
    if pairs[0][1] != pairs[1][1]:
        raise ValueError(f"a step changes the structure of the state to {pairs[1][1]}")
    for (path, old), (_, new) in zip(pairs[0][0], pairs[1][0], strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(
                f"a step turns {keystr(path)[1:]} from {list(old.shape)} {old.dtype} "
                f"into {list(new.shape)} {new.dtype}"
            )

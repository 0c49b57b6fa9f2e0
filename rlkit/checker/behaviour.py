"""Checks of many steps: finite numbers, randomness, replicas, regret."""

import inspect
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rlkit.adapters.single import SingleEnv
from rlkit.checker.report import Check, Fault
from rlkit.checker.spaces import check_bounds
from rlkit.checker.trace import (
    ROWS,
    SEED,
    Trace,
    choose_actions,
    first_difference,
    generator_states,
    leaves_by_name,
    named_leaves,
    record,
)
from rlkit.engine import BatchedEnv
from rlkit.protocol import Discrete, Problem
from rlkit.spaces import parts_of

STEPS = 1000
FEW = 100  # steps where several batches are compared
MANY = 64  # replicas of the largest batch
SLACK = 1e-5  # of regrets, which are differences of float32 means


class Behaviour:
    """Steps the problem under random actions and looks at the trajectories."""

    def __init__(self, problem: Problem, steps: int = STEPS) -> None:
        self.problem, self.steps = problem, steps

    def checks(self) -> list[Check]:
        """In an order where each may rely on those before."""
        return [
            ("stable shapes", self.stable_shapes),
            ("finite", self.finite),
            ("discount", self.discount),
            ("ranges", self.ranges),
            ("regret", self.regret),
            ("optimal policy", self.optimal_policy),
            ("fixed instance", self.fixed_instance),
            ("global generators", self.global_generators),
            ("determinism", self.determinism),
            ("replica invariance", self.replica_invariance),
            ("vector = scalar", self.vector_is_scalar),
        ]

    @cached_property
    def trace(self) -> Trace:
        """The long trajectory of a few replicas."""
        return record(self.problem, ROWS, steps=self.steps)

    def stable_shapes(self) -> None:
        """The long trajectory can be recorded at all."""
        _ = self.trace

    def finite(self) -> None:
        """No NaN, no infinity; feedback may hold the logarithm of zero."""
        for name, value in self.trace.values.items():
            bad = torch.isnan(value) if name.startswith("feedback") else ~torch.isfinite(value)
            if bool(bad.any()):
                where = bad.nonzero()[0].tolist()
                raise Fault(
                    f"{name} is {float(value[tuple(where)])} at step {where[0]} of replica "
                    f"{where[1]}: every number must be finite"
                )

    def discount(self) -> None:
        """Between 0 and 1, and never 0 in a continuing task."""
        value = self.trace.values["discount"]
        bad = (value < 0) | (value > 1)
        if bool(bad.any()):
            step, row = bad.nonzero()[0].tolist()
            raise Fault(
                f"discount is {float(value[step, row]):.6g} at step {step} of replica {row}: "
                "return 0 where the task terminated and 1 elsewhere"
            )
        if self.problem.horizon is None and bool((value == 0).any()):
            step = int((value == 0).nonzero()[0, 0])
            raise Fault(
                f"discount is 0 at step {step}, but horizon is None, which means that the task "
                "never ends: give a horizon"
            )

    def ranges(self) -> None:
        """Observations inside their space, rewards inside their range, all the way."""
        spec = self.problem.spec(self.trace.before)
        for name in ("observation", "final_obs"):
            for path, part in parts_of(spec.observation, name):
                told = path.replace("final_obs", "observation", 1)
                check_bounds(self.trace.values[path], part, told)
        low, high = spec.reward_range
        reward = self.trace.values["reward"]
        reward = reward[~torch.isnan(reward)]
        for extreme in (reward.min(), reward.max()) if reward.numel() else ():
            if not low <= float(extreme) <= high:
                raise Fault(
                    f"reward {float(extreme):.6g} outside the reward_range [{low}, {high}] of "
                    "the spec: correct one of them"
                )

    def regret(self) -> str | None:
        """Never negative, and zero where the action is said to be optimal."""
        values = self.trace.values
        if "regret" not in values:
            return "no regret among the diagnostics"
        regret = torch.nan_to_num(values["regret"])
        slack = SLACK * (1 + float(regret.abs().max()))
        if float(regret.min()) < -slack:
            step, row = (regret < -slack).nonzero()[0].tolist()
            raise Fault(
                f"regret is {float(regret[step, row]):.6g} at step {step} of replica {row}: no "
                "action beats the optimal one, compute it from means and not from rewards"
            )
        if "optimal" in values:
            wrong = (values["optimal"] == 1) & (regret > slack)
            if bool(wrong.any()):
                step, row = wrong.nonzero()[0].tolist()
                raise Fault(
                    f"regret is {float(regret[step, row]):.6g} at step {step} of replica {row}, "
                    "where optimal is 1: the two contradict each other"
                )
        return None

    def optimal_policy(self) -> str | None:
        """The optimal action has no regret; where none is given, some action has none."""
        if "regret" not in self.trace.values:
            return "no regret among the diagnostics"
        if hasattr(self.problem, "optimal_action"):
            self._regret_of_optimal_action()
            return None
        space = self.problem.spec(self.trace.before).action
        if self.problem.horizon is None and isinstance(space, Discrete):
            self._some_action_without_regret(space.n)
            return None
        return "the problem has no optimal_action"

    def _regret_of_optimal_action(self) -> None:
        env = self._fresh()
        for step in range(FEW):
            action = optimal_action(env)
            info = env.step(action)[-1]
            worst = float(info["regret"].abs().max())
            if worst > SLACK * (1 + float(self.trace.values["regret"].abs().max())):
                raise Fault(
                    f"regret of optimal_action() is {worst:.6g} at step {step}: it must be 0"
                )

    def _some_action_without_regret(self, count: int) -> None:
        env = self._fresh()
        least = torch.full((ROWS,), float("inf"))
        for number in range(min(count, 1000)):
            action = torch.full((ROWS,), number)
            gains = self.problem.diagnostics(env.instance, env.state, action)
            least = torch.minimum(least, gains["regret"].float())
        if count <= 1000 and float(least.max()) > SLACK:
            raise Fault(
                f"every action has regret in replica {int(least.argmax())}, at least "
                f"{float(least.max()):.6g}: the best one must have 0"
            )

    def _fresh(self) -> BatchedEnv:
        env = BatchedEnv(self.problem, ROWS, check_actions=False)
        env.reset(seed=SEED)
        return env

    def fixed_instance(self) -> None:
        """The instance is the same after many steps and resets."""
        short = record(self.problem, ROWS, steps=FEW, limit=5)
        for trace, what in ((self.trace, f"{self.steps} steps"), (short, "some resets")):
            pairs = zip(
                named_leaves(trace.before, "instance"),
                named_leaves(trace.after, "instance"),
                strict=True,
            )
            for (path, old), (_, new) in pairs:
                if not (isinstance(old, Tensor) and isinstance(new, Tensor)):
                    continue
                if not torch.equal(torch.nan_to_num(old), torch.nan_to_num(new)):
                    raise Fault(f"{path} changed during {what}: the instance is drawn once a run")

    @cached_property
    def again(self) -> tuple[Trace, list[str]]:
        """The long trajectory once more, and which global generators were used when."""
        states, used = generator_states(), []

        def watch(step: int) -> None:
            for owner, state in generator_states().items():
                if state != states[owner]:
                    states[owner] = state
                    used.append(f"{owner} was used at step {step}")

        return record(self.problem, ROWS, steps=self.steps, watch=watch), used

    def global_generators(self) -> None:
        """No global generator is read or seeded."""
        _, used = self.again
        if used:
            raise Fault(
                f"the global generator of {used[0]}: draw from the rng that the method is given"
            )

    def determinism(self) -> None:
        """Two copies with one seed agree bit for bit, early and late."""
        found = first_difference(self.trace.values, self.again[0].values, exact=True)
        if found:
            step, row, what = found
            raise Fault(
                f"two copies with the same seed differ from step {step} on, in {what} of replica "
                f"{row}: all randomness must come from the given rng"
            )

    def replica_invariance(self) -> None:
        """A replica does not depend on how many others there are, nor on its place."""
        steps = min(FEW, self.steps)
        whole = record(self.problem, MANY, steps=steps)
        for first, rows in ((0, 1), (37, 1), (0, 7), (20, 9)):
            part = record(self.problem, rows, first, steps)
            same = {name: value[:, first : first + rows] for name, value in whole.values.items()}
            found = first_difference(part.values, same, exact=False)
            if found:
                step, row, what = found
                raise Fault(
                    f"replica {first + row} in a batch of {rows} differs from itself in one of "
                    f"{MANY} from step {step} on, in {what}: a row must not depend on other rows "
                    "nor on its place"
                )

    def vector_is_scalar(self) -> None:
        """Row 4 of the vector environment is the single environment of replica 4."""
        limit = min(self.problem.horizon or 7, 7)
        rows = record(self.problem, ROWS, steps=FEW, limit=limit).values
        single = record_single(self.problem, 4, limit)
        found = first_difference(single, {name: rows[name][:, 4:5] for name in single}, exact=False)
        if found:
            step, _, what = found
            raise Fault(
                f"the single environment of replica 4 differs from row 4 of the vector "
                f"environment from step {step} on, in {what}"
            )


def optimal_action(env: BatchedEnv) -> Tensor:
    """The problem's optimal action in the present state; some need the state, some do not."""
    method: Any = env.problem.optimal_action  # type: ignore[attr-defined]
    arguments = (env.instance, env.state)[: len(inspect.signature(method).parameters)]
    chosen: Tensor = method(*arguments)
    return chosen


def record_single(problem: Problem, replica: int, limit: int) -> dict[str, Tensor]:
    """Trajectory `[T, 1, ...]` of the single environment, reset at every end."""
    env = SingleEnv(problem, first_replica=replica, max_episode_steps=limit, check_legality=False)
    env.reset(seed=SEED)
    space = env.batch.spec_.action
    rows: dict[str, list[Any]] = {}
    for step in range(FEW):
        action = choose_actions(space, torch.tensor([replica]), step)[0].numpy()
        observation, reward, terminated, truncated, info = env.step(action)
        seen = {"final_obs": observation, "reward": reward, **info}
        seen |= {"terminated": terminated, "truncated": truncated}
        seen["observation"] = observation
        if terminated or truncated:  # rows of the vector environment have begun anew
            seen["observation"], begun = env.reset()
            seen |= begun
        for name, value in leaves_by_name(seen).items():
            rows.setdefault(name, []).append(torch.as_tensor(value))
    return {name: torch.stack(values)[:, None] for name, values in rows.items()}

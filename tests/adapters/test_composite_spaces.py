"""Several observations at once, and sequences of integers, through every kind of environment."""

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from rlkit import registry
from rlkit.adapters import SingleEnv, make_single, make_vector
from rlkit.checker import check_problem
from rlkit.engine import BatchedEnv
from rlkit.protocol import Box, Composite, Discrete, Instance, MultiDiscrete, Spec, Step
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run


class Flight(NamedTuple):
    point: Tensor  # [N, 2]
    left: Tensor  # [N] int64 steps to go


class StepScores(NamedTuple):
    reward: Tensor  # [N]
    log_reference: Tensor  # [N]
    shift: Tensor  # [N, 2]


@dataclass(frozen=True)
class Drift:
    """A point that goes where it is told, plus noise, for two to four steps; dict observations."""

    bound: float = float("inf")  # of actions

    horizon: ClassVar[int] = 4

    def instance(self, rng: Rng) -> Instance:
        return Instance()

    def reset(self, instance: Instance, rng: Rng) -> Flight:
        return Flight(rng.normal("point", 2), 2 + rng.integers("left", 3))

    def transition(self, instance: Instance, state: Flight, action: Tensor, rng: Rng) -> Step:
        shift = action - state.point
        point = action + 0.1 * rng.normal("noise", 2)
        left = state.left - 1
        reward = -(point * point).sum(1)
        scores = StepScores(reward, -0.5 * (shift * shift).double().sum(1), shift)
        return Step(Flight(point, left), reward, (left > 0).float(), scores)

    def observe(self, instance: Instance, state: Flight) -> dict[str, Tensor]:
        return {"x": state.point, "t": state.left}

    def spec(self, instance: Instance) -> Spec:
        seen = Composite((("x", Box((2,))), ("t", Discrete(5))))
        return Spec(seen, Box((2,), -self.bound, self.bound), self.horizon)

    def diagnostics(self, instance: Instance, state: Flight, action: Tensor) -> dict[str, Tensor]:
        return {"power": action.abs().sum(1)}


class Word(NamedTuple):
    token: Tensor  # [N, 3] int64
    left: Tensor  # [N] int64 steps to go


@dataclass(frozen=True)
class Letters:
    """Three letters of four, overwritten by the action; one is then drawn anew."""

    plain: bool = False  # show the letters alone

    horizon: ClassVar[int] = 6

    def instance(self, rng: Rng) -> Instance:
        return Instance()

    def reset(self, instance: Instance, rng: Rng) -> Word:
        return Word(rng.integers("token", 4, 3), 3 + rng.integers("left", 3))

    def reset_to(self, instance: Instance, options: dict[str, Any], usual: Word) -> Any:
        if set(options) != {"token"}:
            raise ValueError(f"options hold {sorted(options)}; accepted: 'token'")
        token = torch.as_tensor(options["token"])
        return usual._replace(token=token.expand_as(usual.token)), torch.zeros_like(usual.left)

    def transition(self, instance: Instance, state: Word, action: Tensor, rng: Rng) -> Step:
        drawn, place = rng.integers("drawn", 4), rng.integers("place", 3)
        token = torch.where(torch.arange(3) == place[:, None], drawn[:, None], action)
        left = state.left - 1
        reward = (token == 0).float().sum(1)
        return Step(Word(token, left), reward, (left > 0).float(), (token == 1).log())

    def observe(self, instance: Instance, state: Word) -> Any:
        return state.token if self.plain else {"x": state.token, "t": state.left}

    def spec(self, instance: Instance) -> Spec:
        word = MultiDiscrete(4, 3)
        seen = word if self.plain else Composite((("x", word), ("t", Discrete(6))))
        return Spec(seen, word, self.horizon)

    def diagnostics(self, instance: Instance, state: Word, action: Tensor) -> dict[str, Tensor]:
        return {"kept": (action == state.token).float().sum(1)}


@dataclass(frozen=True)
class Guarded(Letters):
    """Letter 3 may be written only where it stands, and not all letters may be the same."""

    def action_mask(self, instance: Instance, state: Word) -> Tensor:
        return (torch.arange(4) < 3) | (state.token[:, :, None] == 3)

    def check_action(self, instance: Instance, state: Word, action: Tensor) -> None:
        same = (action == action[:, :1]).all(1)
        if bool(same.any()):
            row = int(same.nonzero()[0, 0])
            raise ValueError(f"action of row {row} holds {action[row].tolist()}: one letter only")


PROBLEMS = [Drift(), Letters(), Letters(plain=True)]
BOUNDED = [Drift(1.0), *PROBLEMS[1:]]


def actions(problem: Any, rows: int, steps: int) -> Any:
    rng = np.random.default_rng(rows)
    if isinstance(problem, Drift):
        return rng.uniform(-1, 1, size=(steps, rows, 2)).astype(np.float32)
    if isinstance(problem, Arms):
        return rng.integers(2, size=(steps, rows))
    return rng.integers(4, size=(steps, rows, 3))


def parts(observation: Any) -> dict[str, np.ndarray]:
    """The arrays of an observation by name."""
    seen = observation if isinstance(observation, dict) else {"": observation}
    return {name: np.asarray(part) for name, part in seen.items()}


def same(a: Any, b: Any, row: int | None = None) -> bool:
    """Whether two observations agree, the second one or its row."""
    left, right = parts(a), parts(b)
    right = right if row is None else {name: part[row] for name, part in right.items()}
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


def test_the_spaces_are_those_of_gymnasium() -> None:
    env = make_single(problem=Letters())
    word = spaces.MultiDiscrete([4, 4, 4])
    assert env.observation_space == spaces.Dict({"x": word, "t": spaces.Discrete(6)})
    assert env.action_space == word
    assert make_single(problem=Letters(plain=True)).observation_space == word
    vector = make_vector(problem=Drift(), num_envs=3)
    assert vector.single_observation_space["x"] == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert vector.observation_space["t"] == spaces.MultiDiscrete([5, 5, 5])
    assert vector.action_space.shape == (3, 2)


@pytest.mark.filterwarnings("ignore:.*infinity")
@pytest.mark.filterwarnings("ignore:.*not having a spec")
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_gymnasium_accepts_the_single_environment(problem: Any, flatten: bool) -> None:
    check_env(SingleEnv(problem, flatten=flatten))


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_row_i_is_the_single_environment_of_replica_i(problem: Any, rows: int) -> None:
    """Observation, reward, ends, diagnostics and feedback, over several autoresets."""
    vector = make_vector(problem=problem, num_envs=rows, first_replica=10)
    row = rows // 2
    single = make_single(problem=problem, first_replica=10 + row)
    assert same(single.reset(seed=5)[0], vector.reset(seed=5)[0], row)
    ends = 0
    for action in actions(problem, rows, 40):
        following, reward, terminated, truncated, info = vector.step(action)
        observation, *rest, own = single.step(action[row])
        assert single.observation_space.contains(observation)
        assert same(observation, info["final_obs"], row)
        assert rest == [float(reward[row]), bool(terminated[row]), bool(truncated[row])]
        feedback = own.pop("feedback")
        pairs = [(feedback, info["feedback"])]
        if isinstance(feedback, tuple):
            pairs = list(zip(feedback, info["feedback"], strict=True))
        assert all(np.array_equal(a, b[row]) for a, b in pairs)
        assert own == {k: float(info[k][row]) for k in own}
        if rest[1] or rest[2]:
            ends += 1
            observation, _ = single.reset()
        assert same(observation, following, row)
    assert ends >= 7


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_autoreset_is_that_of_gymnasium_on_single_environments(problem: Any) -> None:
    """Same observations, and in the rows that ended the same last ones."""
    made = [lambda r=r: SingleEnv(problem, first_replica=r) for r in range(5)]
    rows = SyncVectorEnv(made, autoreset_mode=AutoresetMode.SAME_STEP)
    vector = BatchedEnv(problem, 5)
    assert same(rows.reset(seed=[3] * 5)[0], vector.reset(seed=3)[0])
    ends = 0
    for action in actions(problem, 5, 20):
        observation, reward, terminated, truncated, info = rows.step(action)
        following, rewards, over, cut, told = vector.step(action)
        assert same(observation, following)
        assert np.array_equal(reward, rewards)
        assert np.array_equal(terminated, over)
        assert np.array_equal(truncated, cut)
        ended = (terminated | truncated).tolist()
        assert told["_final_obs"].tolist() == ended
        for row in np.flatnonzero(ended):
            assert same(info["final_obs"][row], told["final_obs"], row)
            ends += not same(info["final_obs"][row], following, row)
    assert ends >= 15


def test_the_steps_follow_the_plain_functions() -> None:
    """Oracle: methods called one by one with plain draws."""
    problem, replica = Drift(), torch.arange(4)
    env = BatchedEnv(problem, 4)
    env.reset(seed=9)
    state = problem.reset(Instance(), Rng(9, "reset", replica, 0))
    for step, action in enumerate(actions(problem, 4, 12)):
        out = problem.transition(
            Instance(), state, torch.as_tensor(action), Rng(9, "env", replica, step)
        )
        observation, reward, _, _, info = env.step(action)
        assert torch.equal(reward, out.reward)
        assert torch.equal(info["final_obs"]["x"], out.state.point)
        assert torch.equal(info["final_obs"]["t"], out.state.left)
        assert all(map(torch.equal, info["feedback"], out.feedback))
        fresh = problem.reset(Instance(), Rng(9, "reset", replica, step + 1))
        state = Flight(
            torch.where(out.discount[:, None] == 0, fresh.point, out.state.point),
            torch.where(out.discount == 0, fresh.left, out.state.left),
        )
        assert torch.equal(observation["x"], state.point)
        assert torch.equal(observation["t"], state.left)


def test_feedback_of_one_replica_is_numbers_and_arrays() -> None:
    env = SingleEnv(Drift())
    start = env.reset(seed=0)[0]["x"]
    action = np.array([0.5, -0.25], dtype=np.float32)
    _, reward, _, _, info = env.step(action)
    told = info["feedback"]
    assert isinstance(told, StepScores)
    assert [type(told.reward), type(told.log_reference)] == [float, float]
    assert told.reward == reward
    np.testing.assert_allclose(told.shift, action - start, rtol=1e-6)
    assert told.log_reference == pytest.approx(-0.5 * ((action - start) ** 2).sum(), rel=1e-6)


def test_options_set_a_part_of_the_start_and_leave_the_rest_drawn() -> None:
    vector = BatchedEnv(Letters(), 40)
    usual, _ = vector.reset(seed=4)
    asked, _ = vector.reset(seed=4, options={"token": [3, 1, 2]})
    assert (asked["x"] == torch.tensor([3, 1, 2])).all()
    assert torch.equal(asked["t"], usual["t"])
    assert len(set(asked["t"].tolist())) == 3
    single = SingleEnv(Letters(), first_replica=7)
    observation, _ = single.reset(seed=4, options={"token": [3, 1, 2]})
    assert same(observation, asked, 7)
    mask = torch.arange(40) < 20
    part, _ = vector.reset(options={"token": [0, 0, 0], "reset_mask": mask})
    assert (part["x"][:20] == 0).all()
    assert (part["x"][20:] == asked["x"][20:]).all()
    with pytest.raises(ValueError, match="'word'"):
        single.reset(options={"word": 1})


REFUSED = [
    (Letters(), [[0.0, 1.0, 2.0]] * 2, r"\[\[0.0, 1.0, 2.0\].* has data type float.*not integers"),
    (Letters(), [[True, True, False]] * 2, "data type bool, not integers"),
    (Letters(), [[0, 1, 4], [0, 0, 0]], r"action 0 .. 4 outside 0 .. 3"),
    (Letters(), [[0, -1, 2], [0, 0, 0]], r"action -1 .. 2 outside 0 .. 3"),
    (Letters(), [[0, 1], [0, 0]], r"shape \[2, 2\], not \[2, 3\]"),
    (Letters(), [[0, 1, 2]], r"shape \[1, 3\], not \[2, 3\]"),
    (Letters(), [0, 1], r"shape \[2\], not \[2, 3\]"),
    (Drift(), [[0.0, 1.0, 2.0]] * 2, r"shape \[2, 3\], not \[2, 2\]"),
    (Drift(), [[0.0, np.nan], [0.0, 0.0]], "not finite"),
    (Drift(), [[0.0, -np.inf], [0.0, 0.0]], "not finite"),
    (Drift(), [[False, True], [True, True]], "data type bool, not real numbers"),
    (
        Guarded(),
        [[3, 1, 2], [0, 1, 2]],
        r"entry 0 of the action \[3, 1, 2\] .* row 0 ",
    ),
    (Guarded(), [[0, 1, 2], [0, 1, 3]], r"entry 2 of the action \[0, 1, 3\] .* of row 1"),
    (Guarded(), [[0, 1, 2], [2, 2, 2]], r"row 1 holds \[2, 2, 2\]: one letter only"),
]


@pytest.mark.parametrize(("problem", "action", "part"), REFUSED)
def test_bad_actions_are_refused_by_value_and_range(problem: Any, action: Any, part: str) -> None:
    env = BatchedEnv(problem, 2)
    options = {"options": {"token": [0, 0, 0]}} if isinstance(problem, Letters) else {}
    env.reset(seed=0, **options)
    with pytest.raises(ValueError, match=part):
        env.step(np.array(action))


@pytest.mark.parametrize(
    ("problem", "action", "part"),
    [
        (Letters(), np.array([0.0, 1.0, 2.0]), r"\[0., 1., 2.\]\) outside MultiDiscrete"),
        (Letters(), np.array([0, 1, 4]), "outside MultiDiscrete"),
        (Letters(), np.array([0, 1]), "outside MultiDiscrete"),
        (Letters(), 0, "outside MultiDiscrete"),
        (Drift(), np.zeros(3, dtype=np.float32), "outside Box"),
        (Drift(), np.array([np.nan, 0], dtype=np.float32), "nan, .* outside Box"),
        (Drift(), np.array([np.inf, 0], dtype=np.float32), "not finite"),
        (Guarded(), np.array([0, 3, 1]), "entry 1 of the action"),
        (Guarded(), np.array([0, 0, 0]), "one letter only"),
    ],
)
def test_bad_actions_of_one_replica_are_refused_too(problem: Any, action: Any, part: str) -> None:
    env = SingleEnv(problem)
    options = {"token": [0, 0, 0]} if isinstance(problem, Letters) else None
    env.reset(seed=0, options=options)
    with pytest.raises(ValueError, match=part):
        env.step(action)


def test_masks_of_sequences_are_sampled_from_by_gymnasium() -> None:
    env = SingleEnv(Guarded())
    env.action_space.seed(0)
    _, info = env.reset(seed=0, options={"token": [3, 0, 3]})
    assert info["action_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]
    drawn = np.array([env.action_space.sample(mask=tuple(info["action_mask"])) for _ in range(99)])
    assert drawn.max(0).tolist() == [3, 2, 3]
    assert env.step(np.array([3, 0, 1]))[4]["action_mask"].shape == (3, 4)


def test_actions_outside_a_bounded_box_are_refused() -> None:
    env = BatchedEnv(Drift(1.0), 2)
    env.reset()
    env.step(np.array([[-1.0, 1.0], [0.0, 0.0]], dtype=np.float32))
    with pytest.raises(ValueError, match=r"action 0 .. 1.5 outside -1.0 .. 1.0"):
        env.step(np.array([[0.0, 1.5], [0.0, 0.0]], dtype=np.float32))


@pytest.mark.parametrize("problem", [*PROBLEMS, Drift(1.0)], ids=repr)
def test_the_checker_passes_them(problem: Any) -> None:
    assert check_problem(problem, steps=120, spawn=False).failures == {}


@dataclass(frozen=True)
class Forgetful(Drift):
    """Shows one of the two things it declares."""

    def observe(self, instance: Instance, state: Flight) -> Any:
        return {"x": state.point}


@dataclass(frozen=True)
class Beyond(Letters):
    """Shows a letter that its space does not have."""

    def observe(self, instance: Instance, state: Word) -> Any:
        return {"x": state.token + 1, "t": state.left}


@dataclass(frozen=True)
class Real(Letters):
    """Shows letters as real numbers."""

    def observe(self, instance: Instance, state: Word) -> Any:
        return {"x": state.token.float(), "t": state.left}


@dataclass(frozen=True)
class Twice(Letters):
    """Has two parts of one name."""

    def spec(self, instance: Instance) -> Spec:
        part = ("x", MultiDiscrete(4, 3))
        return replace(super().spec(instance), observation=Composite((part, part)))


@dataclass(frozen=True)
class Endless(Letters):
    """Acts with sequences of no entry."""

    def spec(self, instance: Instance) -> Spec:
        return replace(super().spec(instance), action=MultiDiscrete(4, 0))


@dataclass(frozen=True)
class Leaky(Drift):
    """Lets replicas see each other, in the feedback only."""

    def transition(self, instance: Instance, state: Flight, action: Tensor, rng: Rng) -> Step:
        out = super().transition(instance, state, action, rng)
        scores = out.feedback._replace(log_reference=out.reward.mean().expand_as(out.reward))
        return out._replace(feedback=scores)


@pytest.mark.parametrize(
    ("problem", "name", "part"),
    [
        (Forgetful(), "observation", "['x']: return a dict of ['x', 't']"),
        (Beyond(), "observation", "observation['x'] 4 outside [0, 3]"),
        (Real(), "observation", "observation['x'] is float32 [7, 3]"),
        (Twice(), "spec", "names differ"),
        (Endless(), "spec", "n >= 1 and length >= 1"),
        (Leaky(), "replica invariance", "feedback.log_reference"),
    ],
)
def test_the_checker_says_what_is_wrong(problem: Any, name: str, part: str) -> None:
    assert part in check_problem(problem, steps=40, spawn=False).failures[name]


def dict_env(problem: Any, rows: int) -> Any:
    sb3 = pytest.importorskip("stable_baselines3")
    assert sb3
    from rlkit.adapters import SB3VecEnv

    return SB3VecEnv(BatchedEnv(problem, rows))


@pytest.mark.parametrize("problem", BOUNDED, ids=repr)
def test_stable_baselines_sees_the_steps_of_the_engine(problem: Any) -> None:
    adapted, plain = dict_env(problem, 5), BatchedEnv(problem, 5)
    assert same(adapted.reset(), plain.reset()[0])
    ends = 0
    for action in actions(problem, 5, 30):
        observation, reward, done, infos = adapted.step(action)
        following, rewards, terminated, truncated, info = plain.step(action)
        assert same(observation, following)
        assert all(type(part) is np.ndarray for part in parts(observation).values())
        assert np.array_equal(reward, rewards)
        assert np.array_equal(done, terminated | truncated)
        for row in range(5):
            assert ("terminal_observation" in infos[row]) == bool(done[row])
            if done[row]:
                assert same(infos[row]["terminal_observation"], info["final_obs"], row)
                assert infos[row]["TimeLimit.truncated"] is bool(truncated[row])
                ends += 1
    assert ends >= 25


@dataclass(frozen=True)
class Arms:
    """Two arms and nothing that changes, seen as a dict: steps are then looked up in a table."""

    horizon: ClassVar[int] = 5

    def instance(self, rng: Rng) -> Instance:
        return Instance(replica=rng.uniform("mean", 2))

    def reset(self, instance: Instance, rng: Rng) -> Any:
        return ()

    def transition(self, instance: Instance, state: Any, action: Tensor, rng: Rng) -> Step:
        reward = instance.replica.gather(1, action[:, None]).squeeze(1) + rng.normal("noise")
        return Step((), reward, torch.ones_like(reward))

    def observe(self, instance: Instance, state: Any) -> dict[str, Tensor]:
        return {"x": instance.replica, "t": torch.ones(instance.replica.shape[0]).long()}

    def spec(self, instance: Instance) -> Spec:
        seen = Composite((("x", Box((2,), 0.0, 1.0)), ("t", Discrete(2))))
        return Spec(seen, Discrete(2), self.horizon)

    def diagnostics(self, instance: Instance, state: Any, action: Tensor) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize("problem", [Arms(), Letters()], ids=repr)
def test_writing_into_what_was_returned_changes_nothing(problem: Any) -> None:
    env, twin = (dict_env(problem, 4) for _ in range(2))
    observation = env.reset()
    twin.reset()
    for action in actions(problem, 4, 15):
        for part in observation.values():
            part[:] = 7
        observation, reward, done, infos = env.step(action)
        expected, rewards, _, told = twin.step(action)
        assert same(observation, expected)
        assert np.array_equal(reward, rewards)
        for info, other in zip(infos, told, strict=True):
            assert ("terminal_observation" in info) == ("terminal_observation" in other)
            if "terminal_observation" in info:
                assert same(info["terminal_observation"], other["terminal_observation"])
        done[:] = True


def test_steps_that_are_looked_up_are_the_steps_of_the_engine() -> None:
    adapted, plain = dict_env(Arms(), 4), BatchedEnv(Arms(), 4)
    adapted.seed(3)
    assert same(adapted.reset(), plain.reset(seed=3)[0])
    for action in actions(Arms(), 4, 12):
        observation, reward, done, infos = adapted.step(action)
        following, rewards, _, truncated, _ = plain.step(action)
        assert same(observation, following)
        assert np.array_equal(reward, rewards)
        assert np.array_equal(done, truncated)
        if done.any():
            assert all(same(infos[row]["terminal_observation"], following, row) for row in range(4))


@pytest.mark.parametrize(
    ("action", "part"),
    [
        (np.zeros((3, 3)), "not integers"),
        (np.full((3, 3), 4), "outside 0 .. 3"),
        (np.full((3, 3), -1), "outside 0 .. 3"),
        (np.zeros((3, 2), dtype=np.int64), r"not \[3, ...\] of MultiDiscrete"),
        (np.zeros((2, 3), dtype=np.int64), r"not \[3, ...\] of MultiDiscrete"),
    ],
)
def test_stable_baselines_may_not_act_outside_the_space(action: Any, part: str) -> None:
    env = dict_env(Letters(), 3)
    env.reset()
    with pytest.raises(ValueError, match=part):
        env.step(action)


def test_stable_baselines_cannot_act_without_bounds() -> None:
    """It would say so itself, but only when a model is made."""
    with pytest.raises(ValueError, match="cannot act in Box.* without bounds"):
        dict_env(Drift(), 2)


@pytest.mark.parametrize("problem", [Drift(1.0), Letters()], ids=repr)
def test_a_multi_input_policy_learns_on_them(problem: Any) -> None:
    """The optimal policy of `Letters` writes three zeros, of which 2.25 are kept on average."""
    env = dict_env(problem, 16)
    sb3 = pytest.importorskip("stable_baselines3")
    with torch.random.fork_rng():
        model = sb3.PPO(
            "MultiInputPolicy", env, n_steps=16, batch_size=256, n_epochs=4, learning_rate=1e-2,
            gamma=0.0, seed=1, device="cpu",
        )  # fmt: skip
        model.learn(16 * 16 * (2 if isinstance(problem, Drift) else 24))
        seen = env.reset()
        action, _ = model.predict(seen, deterministic=True)
    assert action.shape == ((16, 2) if isinstance(problem, Drift) else (16, 3))
    if isinstance(problem, Letters):
        assert (action == 0).mean() > 0.9


def runs(problem: Any, agent: str) -> bool:
    """Whether the agent runs 24 steps, rather than refuse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            loop = Rollout(Run(problem, registry.load("agent", agent)(), 24, replicas=3, group=64))
        except ValueError:
            return False
        loop.advance(24)
    return True


@pytest.mark.parametrize("agent", list(registry.entries("agent")))
def test_every_agent_runs_or_refuses(agent: str) -> None:
    """Only the one that needs no value of anything can act with sequences."""
    ran = [runs(problem, agent) for problem in PROBLEMS]
    assert ran == ([False, True, True] if agent == "uniform" else [False] * 3)


def test_uniform_actions_on_sequences_are_uniform() -> None:
    """Every letter at every place, within four standard errors."""
    uniform, spec = registry.load("agent", "uniform")(), Letters().spec(Instance())
    action, _ = uniform.act(spec, (), None, Rng(0, "act", torch.arange(20_000)))
    share = torch.nn.functional.one_hot(action, 4).double().mean(0)
    assert (share - 0.25).abs().max() < 4 * (0.25 * 0.75 / 20_000) ** 0.5
    pairs = torch.nn.functional.one_hot(4 * action[:, 0] + action[:, 1], 16).double().mean(0)
    assert (pairs - 1 / 16).abs().max() < 4 * (15 / 256 / 20_000) ** 0.5


@dataclass(frozen=True)
class Choice(Letters):
    """Two arms beside a dict of observations: what agents that learn tables must refuse."""

    def transition(self, instance: Instance, state: Word, action: Tensor, rng: Rng) -> Step:
        return super().transition(instance, state, action[:, None].expand(-1, 3), rng)

    def diagnostics(self, instance: Instance, state: Word, action: Tensor) -> dict[str, Tensor]:
        return {"zero": (action == 0).float()}

    def spec(self, instance: Instance) -> Spec:
        return replace(super().spec(instance), action=Discrete(2), reward_range=(0.0, 3.0))


@pytest.mark.parametrize("agent", list(registry.entries("agent")))
def test_agents_with_arms_ignore_dict_observations_and_others_refuse(agent: str) -> None:
    """Running or refusing with ValueError are the only two outcomes; bandits' agents run."""
    ran = runs(Choice(), agent)
    assert ran or agent not in ("uniform", "epsilon_greedy", "ucb1")
    assert not ran or agent not in ("q_learning", "psrl", "trace_control", "lsvi_ucb", "lin_ucb")

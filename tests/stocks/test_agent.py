"""The planning agent on the engine: its simulated returns have the law that was planned."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from rlkit.engine import Streams
from rlkit.models import from_outcomes
from rlkit.protocol import Transition
from rlkit.random import Rng
from rlkit.registry import load
from rlkit.rollout import Rollout, Run, simulate
from rlkit.stocks import augment, best_lower_cvar, best_target, best_upper_cvar, on_lattice
from rlkit.stocks.problem import VectorTabularProblem
from rlkit.tabular import TabularProblem

REPLICAS = 4000
ERRORS = 4.5  # standard errors; some hundred frequencies are compared


def problem(name, **fields):
    return load("problem", name)(**fields)


def agent(**fields):
    return load("agent", "distributional_vi")(**fields)


def lattice(task):
    spec = task.spec(task.instance(Rng(0, "instance", torch.arange(1))))
    return on_lattice(augment(spec.known.model, 1.0, spec.horizon, spec.known.rewards))


def returns(task, planner, episodes=1, **options):
    steps = task.horizon * episodes
    history = simulate(task, planner, steps, REPLICAS, group=REPLICAS, **options)
    return history.metrics["reward"][-1].numpy()


def check_law(sample, law):
    value, mass = law.value.numpy(), law.probability.numpy()
    assert set(np.unique(sample)) <= set(value[mass > 1e-12])
    for x in np.unique(value):
        expected = mass[value == x].sum()
        error = np.sqrt(max(expected * (1 - expected), 1e-9) / len(sample))
        assert abs((sample == x).mean() - expected) <= ERRORS * error


@pytest.mark.parametrize("name", ["DoubleOrQuit-v0", "StockGrid-v0"])
@pytest.mark.parametrize("tau", [0.25, 0.75])
def test_simulated_returns_have_the_planned_law_of_the_lower_tail(name, tau):
    task = problem(name)
    found = best_lower_cvar(lattice(task), tau)
    check_law(returns(task, agent(tau=tau)), found.law)


@pytest.mark.parametrize("goal", [8.0, 12.0])
def test_simulated_returns_meet_the_target_as_planned(goal):
    task = problem("DoubleOrQuit-v0")
    loss = -np.abs(returns(task, agent(objective="target", target=goal)) - goal)
    planned = float(best_target(lattice(task), torch.tensor([goal])))
    error = loss.std() / np.sqrt(REPLICAS)
    assert abs(loss.mean() - planned) <= ERRORS * error and error > 0


def test_the_lower_quarter_of_simulated_returns_is_above_every_fixed_choice(tail_mean):
    sample = returns(problem("DoubleOrQuit-v0"), agent(tau=0.25), seed=3)
    achieved = tail_mean(sample, np.full(REPLICAS, 1 / REPLICAS), 0.25, lower=True)
    assert achieved >= 6.3  # of 6.625; both constant choices give 6


@dataclass(frozen=True)
class Mixing(TabularProblem):
    """A problem whose best upper tail needs a policy drawn at the start."""

    horizon: int = 1

    def model(self, rng):
        return from_outcomes(
            torch.zeros(1, 2, 2, dtype=torch.int64),
            torch.tensor([[[0.8, 0.2], [0.5, 0.5]]], dtype=torch.float64),
            torch.tensor([[[0.0, 9.0], [0.0, 4.0]]]),
            torch.ones(1),
        )


def test_a_policy_is_drawn_for_each_episode_where_that_is_better():
    found = best_upper_cvar(lattice(Mixing()), 0.4)
    # CVaR of a mixture with weight w of the first action: (9 * .2 w + 4 * min(.5 (1 - w), .4 -
    # .2 w)) / .4 has its kink at w = 1 / 3.
    assert found.value == pytest.approx((9 * 0.2 / 3 + 4 / 3) / 0.4)
    assert found.deterministic.value == pytest.approx(4.5)
    assert sorted(found.weight) == pytest.approx([1 / 3, 2 / 3])

    planner = agent(objective="upper_cvar", tau=0.4)
    check_law(returns(Mixing(), planner), found.law)
    ten = returns(Mixing(), planner, episodes=10) / 10  # the policy is drawn anew
    variance = float((found.law.probability * found.law.value**2).sum())
    mean = float((found.law.probability * found.law.value).sum())
    assert abs(ten.mean() - mean) <= ERRORS * ten.std() / np.sqrt(REPLICAS)
    assert ten.std() == pytest.approx(np.sqrt((variance - mean**2) / 10), rel=0.06)
    single = agent(objective="upper_cvar", tau=0.4, randomise=False)
    check_law(returns(Mixing(), single), found.deterministic.law)


def test_the_stock_starts_anew_with_every_episode():
    task, planner = problem("DoubleOrQuit-v0"), agent(objective="target", target=6.0)
    assert (returns(task, planner, episodes=3) == 18).all()
    loop = Rollout(Run(task, agent(objective="mean"), 40, 16, group=16))
    loop.advance(8)  # two choices into the second episode
    carry = loop.groups[0].carry
    won = carry.totals["reward"]
    loop.advance(12)
    assert (loop.groups[0].carry.agent.stage == 0).all()
    assert (loop.groups[0].carry.agent.stock == 0).all()
    assert (carry.agent.stage == 2).all() and (won >= carry.agent.stock).all()


@pytest.mark.parametrize(
    ("name", "fields", "value"),
    [
        ("Homeostasis-v0", {"utility": "norm", "stock": (-4.0, -1.0)}, -0.375),
        ("Homeostasis-v0", {"utility": "norm", "power": 2.0, "stock": (2.0, -3.0)}, -2.0),
        ("BudgetChain-v0", {"utility": "budget", "weight": 3.0, "stock": (0.0, 1.0)}, 10.40625),
    ],
)
def test_several_rewards_are_kept_track_of(name, fields, value):
    task, planner = problem(name), agent(objective="utility", **fields)
    replica = torch.arange(REPLICAS)
    streams = Streams(7, replica)
    instance = task.instance(streams.at("instance", 0))
    spec = task.spec(instance)
    state = task.reset(instance, streams.at("reset", 0))
    memory = planner.initial(spec, streams.at("initial", 0))
    total = torch.tensor(fields["stock"]).expand(REPLICAS, 2)
    for time in range(task.horizon):
        place = task.observe(instance, state)
        action, memory = planner.act(spec, memory, place, streams.at("act", time))
        step = task.transition(instance, state, action, streams.at("env", time))
        last = torch.zeros(REPLICAS, dtype=torch.bool)
        batch = Transition(place, action, step.reward, step.discount, place, last, step.feedback)
        memory = planner.learn(spec, memory, batch, streams.at("learn", time))
        total, state = total + step.feedback, step.state
    if name == "BudgetChain-v0":
        sample = total[:, 0] + 3 * total[:, 1].clamp(max=0)
    else:
        sample = -total.abs().sum(1)
    error = float(sample.std()) / REPLICAS**0.5
    assert abs(float(sample.mean()) - value) <= ERRORS * error


def test_vector_problems_disclose_their_rewards():
    for name, m in (("Homeostasis-v0", 2), ("BudgetChain-v0", 2)):
        task = problem(name)
        streams = Streams(1, torch.arange(6000))
        instance = task.instance(streams.at("instance", 0))
        spec = task.spec(instance)
        rewards, probability = spec.known.rewards, spec.known.model.probability
        assert rewards.shape == (*probability.shape, m)
        state = task.reset(instance, streams.at("reset", 0))
        for action in range(spec.action.n):
            chosen = torch.full((6000,), action)
            step = task.transition(instance, state, chosen, streams.at("env", action))
            assert step.feedback.shape == (6000, m)
            mean = (probability[0, action, :, None] * rewards[0, action]).sum(0)
            error = 4.5 * step.feedback.std(0) / 6000**0.5
            assert ((step.feedback.mean(0) - mean).abs() <= error + 1e-9).all()
            scalar = step.feedback.sum(1) if name == "Homeostasis-v0" else step.feedback[:, 0]
            assert torch.equal(step.reward, scalar)


@dataclass(frozen=True)
class Uneven(VectorTabularProblem):
    """Three unlikely outcomes with rewards of their own; ends after the third."""

    horizon: int = 5

    def model(self, rng):
        return from_outcomes(
            torch.tensor([[[0, 0, 1]], [[1, 1, 1]]]),
            torch.tensor([[[0.1, 0.6, 0.3]], [[1.0, 0.0, 0.0]]], dtype=torch.float64),
            torch.tensor([[[1.0]], [[0.0]]]),
            torch.tensor([1.0, 0.0]),
            torch.tensor([False, True]),
        )

    def rewards(self, model):
        table = torch.tensor([[1.0, -1.0], [2.0, 0.0], [4.0, 5.0]])
        return torch.stack([table[None], torch.zeros(1, 3, 2)])


def test_rewards_belong_to_the_outcome_that_was_drawn():
    task, many = Uneven(), 20_000
    streams = Streams(2, torch.arange(many))
    instance = task.instance(streams.at("instance", 0))
    state = task.reset(instance, streams.at("reset", 0))
    zero = torch.zeros(many, dtype=torch.int64)
    step = task.transition(instance, state, zero, streams.at("env", 0))
    for index, share in enumerate((0.1, 0.6, 0.3)):
        hit = (step.feedback == instance.shared.rewards[0, 0, index]).all(1)
        assert abs(hit.double().mean() - share) < 4.5 * (share * (1 - share) / many) ** 0.5
        assert (step.discount[hit] == float(index < 2)).all()
        assert (step.state.state[hit] == int(index == 2)).all()
    assert (step.reward == 1).all()
    with pytest.raises(NotImplementedError, match="Bare gives no rewards"):
        type("Bare", (VectorTabularProblem,), {})().rewards(instance.shared.model)


@pytest.mark.parametrize(
    ("name", "task", "fields", "word"),
    [
        ("RiverSwim-v0", {}, {}, r"0.005.*multiple of unit = 1"),
        ("RiverSwim-v0", {"horizon": None}, {}, "horizon"),
        ("Homeostasis-v0", {}, {}, "takes 1 rewards, the model has 2"),
        ("StockGrid-v0", {}, {"largest": 1000}, "accepted: up to"),
        ("GaussianBandit-v0", {}, {}, "known.model"),
        ("Garnet-v0", {}, {}, "drawn per replica|reward_range"),
        ("DoubleOrQuit-v0", {}, {"objective": "utility", "stock": (0.0, 0.0)}, "stock has shape"),
    ],
)
def test_unsuitable_problems_are_refused(name, task, fields, word):
    with pytest.raises(ValueError, match=word):
        simulate(problem(name, **task), agent(**fields), 2, 2, group=2)


@pytest.mark.parametrize(
    "fields",
    [
        {"tau": 0.0},
        {"objective": "cvar"},
        {"utility": "variance"},
        {"weight": -1.0},
        {"power": 0.0},
        {"unit": 0.0},
        {"largest": 0},
        {"target": float("nan")},
        {"stock": (float("inf"),)},
    ],
    ids=str,
)
def test_fields_out_of_range_are_refused(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=name):
        agent(**fields)

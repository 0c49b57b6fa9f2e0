"""Compiled tiers give the eager results, and are refused where they do not."""

import warnings
from dataclasses import replace

import pytest
import torch
from chain import Chain, Recorder
from torch.utils._pytree import tree_leaves

from rlkit import tiers
from rlkit.agents.bandits.kl_ucb import KLUCB
from rlkit.agents.bandits.thompson_beta import ThompsonBeta
from rlkit.agents.bandits.thompson_linear import ThompsonLinear
from rlkit.agents.bandits.ucb1 import UCB1
from rlkit.agents.tabular.psrl import PSRL
from rlkit.agents.tabular.rlsvi import RLSVI
from rlkit.agents.tabular.ucbvi import UCBVI
from rlkit.envs.bandits.bernoulli import BernoulliBandit
from rlkit.envs.bandits.linear import LinearBandit
from rlkit.envs.tabular.gridworld import GridWorld
from rlkit.envs.tabular.river_swim import RiverSwim
from rlkit.rollout import Rollout, Run

needs_compiler = pytest.mark.skipif(not tiers.has_compiler(), reason="no C++ compiler")


def differing(a: Rollout, b: Rollout) -> float:
    pairs = zip(a.groups, b.groups, strict=True)
    return max(tiers.disagreement(x.carry, y.carry, a.run.group) for x, y in pairs)


@needs_compiler
@pytest.mark.parametrize(
    ("problem", "agent", "allowed"),
    [
        (BernoulliBandit(), UCB1(), 0.0),
        (BernoulliBandit(), ThompsonBeta(), 0.0),
        (Chain(), Recorder(steps=200), 0.0),
        pytest.param(BernoulliBandit(), KLUCB(), 0.01, marks=pytest.mark.slow),
        pytest.param(LinearBandit(), ThompsonLinear(), 0.01, marks=pytest.mark.slow),
    ],
)
def test_the_compiled_scan_gives_the_eager_results(problem, agent, allowed):
    run = Run(problem, agent, 200, 100, group=64)
    eager = Rollout(run)
    compiled = Rollout(replace(run, tier="compiled"), chunk=32)
    for loop in (eager, compiled):
        loop.advance(190)
    assert compiled.tier == "compiled"
    assert differing(eager, compiled) <= allowed
    states = eager.state(), compiled.state()
    assert all(states[0][k].stride() == states[1][k].stride() for k in states[0])


@needs_compiler
def test_compiled_words_with_eager_dynamics_give_the_same_bits():
    run = Run(BernoulliBandit(), UCB1(), 100, 64, group=64)
    eager, words = Rollout(run), Rollout(replace(run, tier="words"))
    for loop in (eager, words):
        loop.advance(100)
    for a, b in zip(
        tree_leaves(eager.groups[0].carry), tree_leaves(words.groups[0].carry), strict=True
    ):
        assert torch.equal(a, b)


class Spoilt:
    """A fast tier that returns what it is told to."""

    def __init__(self, loop, share=0.0, given_up=False):
        self.loop, self.share, self.given_up, self.calls = loop, share, given_up, 0
        self.trusted = False

    def __call__(self, fixed, carry, time, replica):
        self.calls += 1
        after = self.loop.groups[0].eager(carry, time, self.loop.chunk)
        wrong = torch.arange(len(replica)) < self.share * len(replica)
        pulls = after.agent.pulls + wrong[:, None]
        after = after._replace(agent=after.agent._replace(pulls=pulls))
        return after, torch.tensor(self.given_up)


def spoilt_run(**fault):
    run = Run(BernoulliBandit(), UCB1(), 200, 100, group=100)
    reference, loop = Rollout(run), Rollout(replace(run, tier="compiled"), chunk=8)
    loop._fast = Spoilt(loop, **fault)
    reference.advance(100)
    return reference, loop, loop._fast


def test_a_miscompiled_chunk_is_refused_with_its_size_and_the_run_goes_on_eagerly():
    reference, loop, _ = spoilt_run(share=0.4)
    with pytest.warns(RuntimeWarning, match=r"40.0% of replicas differ from the eager tier"):
        loop.advance(100)
    assert loop.tier == "eager" and differing(reference, loop) == 0


def test_near_ties_do_not_cost_the_fast_tier():
    _, loop, fast = spoilt_run(share=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.advance(100)
    assert loop.tier == "compiled" and fast.calls > 1


def test_a_chunk_that_gave_a_draw_up_is_run_again_eagerly():
    reference, loop, fast = spoilt_run(share=1.0, given_up=True)
    loop.advance(100)
    assert loop.tier == "compiled" and fast.calls > 1 and differing(reference, loop) == 0


def test_an_agent_that_cannot_be_compiled_runs_eagerly():
    class Branching(UCB1):
        compilable = False

    loop = Rollout(Run(BernoulliBandit(), Branching(), 200, 4, group=4, tier="compiled"))
    assert loop.tier == "eager"


def test_a_tier_of_another_device_is_refused():
    with pytest.raises(ValueError, match="tier 'graph' does not run on 'cpu'"):
        Rollout(Run(BernoulliBandit(), UCB1(), 200, 4, group=4, tier="graph"))


@needs_compiler
@pytest.mark.parametrize("agent", [UCBVI("stage", scale=0.1), RLSVI(), PSRL()], ids=repr)
def test_compiled_steps_within_episodes_leave_the_eager_results(agent):
    def regret(tier):
        loop = Rollout(Run(RiverSwim(horizon=7), agent, 210, 200, seed=4, group=200, tier=tier))
        loop.advance(210)
        assert loop.tier == tier
        closes = tier == "compiled" and hasattr(agent, "renew")
        assert (loop._close is not None) == closes
        assert not closes or (loop._fast.trusted and loop._close.trusted)
        return loop.record()["regret"]

    differ = (regret("compiled") - regret("eager")).abs() > 1e-6
    assert differ.double().mean() <= 0.02  # decisions at a near tie


@needs_compiler
@pytest.mark.usefixtures("warm_compiler")
def test_episodes_that_end_at_different_times_are_left_to_the_eager_tier():
    def run(tier):
        problem = GridWorld(layout="S..|...|..G", horizon=12)
        loop = Rollout(Run(problem, UCBVI("stage", scale=0.1), 120, 60, group=60, tier=tier))
        loop.advance(120)
        return loop

    with pytest.warns(RuntimeWarning, match="episodes end at different times"):
        fast = run("compiled")
    assert fast.tier == "eager"
    assert torch.equal(fast.record()["regret"], run("eager").record()["regret"])

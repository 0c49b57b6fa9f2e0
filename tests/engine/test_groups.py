"""Groups of a run share code and little memory, and never each other's numbers."""

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rlkit import rollout, tiers
from rlkit.agents.bandits.thompson_beta import ThompsonBeta
from rlkit.agents.bandits.ucb1 import UCB1
from rlkit.blocks import BlockRng, Blocks, Prefetch
from rlkit.envs.bandits.bernoulli import BernoulliBandit
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run

ARMS = 10


class Means(NamedTuple):
    """Arm means as features."""

    table: Tensor  # [N, K]

    def __call__(self, observation: object, action: Tensor) -> Tensor:
        return self.table.gather(1, action[:, None])[:, 0]


@dataclass(frozen=True)
class Telling(BernoulliBandit):
    """Discloses the means of its arms, as a NamedTuple or in a closure."""

    closed: bool = False

    def spec(self, instance):
        told, spec = Means(instance.replica.mean), BernoulliBandit.spec(self, instance)
        features = functools.partial(told) if self.closed else told
        return replace(spec, known=spec.known._replace(features=features))


@dataclass(frozen=True)
class Knowing(UCB1):
    """Pulls the arm of largest disclosed mean."""

    def act(self, spec, state, observation, rng):
        arms = [torch.full_like(rng.replica, arm) for arm in range(ARMS)]
        return torch.stack([spec.known.features(None, arm) for arm in arms], 1).argmax(1), state


def uncompiled_scan(one, length):
    """A fast tier of ordinary operations, which takes its inputs as the compiled ones do."""

    def run(leaves, start, key, replica, inputs):
        for offset in range(length):
            leaves = one(leaves, start + offset, key, replica, inputs)
        return leaves

    return run


@pytest.mark.parametrize("closed", [False, True])
def test_a_later_group_does_not_act_on_what_the_first_was_told(closed, monkeypatch, recwarn):
    monkeypatch.setattr(tiers, "scan_chunk", uncompiled_scan)
    run = Run(Telling(closed=closed), Knowing(), 200, 128, group=64, tier="compiled")
    loop = Rollout(run)
    loop.advance(200)
    assert not loop.record()["regret"].any()
    assert loop.tier == ("eager" if closed else "compiled")
    assert any("differs between groups" in str(w.message) for w in recwarn) == closed


def test_one_group_may_be_told_anything(monkeypatch):
    monkeypatch.setattr(tiers, "scan_chunk", uncompiled_scan)
    loop = Rollout(Run(Telling(closed=True), Knowing(), 200, 64, group=64, tier="compiled"))
    loop.advance(200)
    assert loop.tier == "compiled" and not loop.record()["regret"].any()


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("change", ["some rows", "another order", "another seed"])
def test_cached_draws_belong_to_their_seed_and_rows(blocks, change):
    replica = torch.arange(10)
    other = {
        "some rows": {"replica": replica[[7, 2]]},
        "another order": {"replica": replica.flip(0)},
        "another seed": {"seed": 4},
    }[change]
    if blocks:
        cached: Rng = BlockRng(3, "env", replica, 5, blocks=Blocks())
    else:
        cached = Rng(3, "env", replica, 5, source=Prefetch())
    cached.uniform("x")
    plain = replace(Rng(3, "env", replica, 5), **other)
    assert torch.equal(replace(cached, **other).uniform("x"), plain.uniform("x"))
    assert torch.equal(cached.uniform("x"), Rng(3, "env", replica, 5).uniform("x"))


def test_many_groups_keep_few_words(monkeypatch):
    monkeypatch.setattr(rollout, "CACHED", 1 << 14)
    run = Run(BernoulliBandit(), UCB1(), 40, 512, group=64)
    loop = Rollout(run)
    loop.advance(40)
    monkeypatch.undo()
    reference = Rollout(run)
    reference.advance(40)
    assert torch.equal(loop.record()["regret"], reference.record()["regret"])
    caches = [group.prefetch._blocks.values() for group in loop.groups]
    assert max(block.numel() for cache in caches for _, block, _ in cache) <= (1 << 14) // 8


def test_the_number_of_saved_leaves_does_not_grow_with_the_groups():
    few, many = (Run(BernoulliBandit(), UCB1(), 40, 128, group=group) for group in (128, 16))
    states = []
    for run in (few, many):
        loop = Rollout(run)
        loop.advance(20)
        states.append(loop.state())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    again = Rollout(many)
    again.restore(states[1], 20)
    assert all(torch.equal(leaf, states[1][name]) for name, leaf in again.state().items())


def test_an_advance_cut_short_between_groups_is_finished_not_repeated(monkeypatch):
    run = Run(BernoulliBandit(), UCB1(), 40, 128, group=64)
    loop, reference = Rollout(run), Rollout(run)
    whole = rollout.Group.eager
    calls = []

    def stopped(self, carry, time, count):
        calls.append(time)
        if len(calls) == 27:
            raise KeyboardInterrupt
        return whole(self, carry, time, count)

    with monkeypatch.context() as patch:
        patch.setattr(rollout.Group, "eager", stopped)
        with pytest.raises(KeyboardInterrupt):
            loop.advance(20)
    for each in (loop, reference):
        each.advance(20)
    assert all(torch.equal(leaf, reference.state()[name]) for name, leaf in loop.state().items())


@dataclass(frozen=True)
class Turning(UCB1):
    """Turns the memory layout of its state, over which it sums, in its first step."""

    def initial(self, spec, rng):
        return torch.zeros(rng.n, 9)

    def act(self, spec, state, observation, rng):
        return (state.sum(-1) * 1e4).long().remainder(ARMS), state

    def learn(self, spec, state, batch, rng):
        return (state + rng.uniform("step", 9) * 1.37).T.contiguous().T


def test_a_resumed_run_has_the_memory_layout_of_one_under_way():
    run = Run(BernoulliBandit(), Turning(), 40, 64, group=64)
    whole, resumed = Rollout(run), Rollout(run)
    whole.advance(13)
    resumed.restore(whole.state(), 13)
    for loop in (whole, resumed):
        loop.advance(40)
    assert all(torch.equal(leaf, resumed.state()[name]) for name, leaf in whole.state().items())


@pytest.mark.parametrize(
    "limit", [0, -3, True, 2.5, torch.tensor([3]), torch.zeros(8).long(), torch.ones(8)]
)
def test_a_time_limit_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match="time_limit"):
        Run(BernoulliBandit(), UCB1(), 20, 8, time_limit=limit)


def test_a_diagnostic_of_the_agent_does_not_hide_one_of_the_problem():
    @dataclass(frozen=True)
    class Masking(UCB1):
        def diagnostics(self, spec, state):
            return {"regret": torch.zeros(state.pulls.shape[0])}

    with pytest.raises(ValueError, match="diagnostic 'regret' of the agent is one of the problem"):
        Rollout(Run(BernoulliBandit(), Masking(), 20, 4)).record()


def test_an_action_of_another_length_is_refused():
    class Short(UCB1):
        def act(self, spec, state, observation, rng):
            action, state = super().act(spec, state, observation, rng)
            return action[:1], state

    with pytest.raises(ValueError, match="the agent's action holds a leaf"):
        Rollout(Run(BernoulliBandit(), Short(), 20, 4))


@pytest.mark.usefixtures("warm_compiler")
def test_wrong_or_failing_compiled_words_are_replaced_by_eager_ones():
    def wrong(*arguments):
        return torch.zeros(arguments[4], arguments[6], 64, dtype=torch.int64)

    def failing(*arguments):
        raise RuntimeError

    run = Run(BernoulliBandit(), ThompsonBeta(), 40, 64, group=64)
    reference = Rollout(run)
    reference.advance(40)
    for draw, reason in ((wrong, "differ from the eager ones"), (failing, "RuntimeError")):
        loop = Rollout(replace(run, tier="words"))
        loop.groups[0].prefetch._draw._draw = draw
        with pytest.warns(RuntimeWarning, match=f"compiled words are not used: .*{reason}"):
            loop.advance(40)
        assert torch.equal(loop.record()["regret"], reference.record()["regret"])

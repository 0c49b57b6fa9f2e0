"""Counts, reward sums and ends of episodes are those of a plain loop over replicas and steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlkit import experience as ex
from rlkit.model_posteriors import absorbing
from rlkit.models import Dense
from rlkit.protocol import Box, Discrete, Spec, Transition
from rlkit.random import Rng

N, S, A, H = 5, 4, 3, 6
SPEC = Spec(Discrete(S), Discrete(A), H)
RNG = Rng(0, "test", torch.arange(N))


def stream(steps, seed=0, synchronous=False):
    """Random transitions: episodes end by termination in state 3, by chance, or at the limit."""
    rng = np.random.default_rng(seed)
    state, clock = rng.integers(0, S - 1, N), np.zeros(N, int)
    for _ in range(steps):
        action, reward = rng.integers(0, A, N), rng.normal(size=N).astype(np.float32)
        following = rng.integers(0, S - 1 if synchronous else S, N)
        clock += 1
        over = following == 3
        last = over | (clock == H)
        yield Transition(
            torch.tensor(state), torch.tensor(action), torch.tensor(reward),
            torch.tensor(1.0 - over).float(), torch.tensor(following), torch.tensor(last),
        )  # fmt: skip
        state = np.where(last, rng.integers(0, S - 1, N), following)
        clock[last] = 0


def counted(batches, staged):
    """Tables of finished episodes, by loops."""
    rows = H * S if staged else S
    visits, reward, square = (
        np.zeros((N, rows, A, S)),
        np.zeros((N, rows, A)),
        np.zeros((N, rows, A)),
    )
    ended, pending = np.zeros((N, S), bool), [[] for _ in range(N)]
    for b in batches:
        for n in range(N):
            row = len(pending[n]) * S * staged + int(b.observation[n])
            pending[n].append(
                (row, int(b.action[n]), int(b.next_observation[n]), float(b.reward[n]))
            )
            if b.discount[n] == 0:
                ended[n, b.next_observation[n]] = True
            if b.last[n]:
                for s, a, following, r in pending[n]:
                    visits[n, s, a, following] += 1
                    reward[n, s, a] += r
                    square[n, s, a] += r * r
                pending[n] = []
    return visits, reward, square, ended


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("synchronous", [False, True])
def test_finished_episodes_are_counted_as_by_a_loop(staged, synchronous):
    batches = list(stream(61, synchronous=synchronous))
    seen = ex.empty(SPEC, RNG, H if staged else 1)
    episode = ex.start_episode(SPEC, RNG)
    for b in batches:
        episode = ex.extend(SPEC, episode, b, staged)
        seen = ex.absorb(seen, episode, b)
        episode = ex.restart(episode, b.last)
    visits, reward, square, ended = counted(batches, staged)
    assert visits.sum() > 0 and (ended.any() or synchronous)
    np.testing.assert_array_equal(seen.visits, visits)
    np.testing.assert_array_equal(seen.count, visits.sum(-1))
    np.testing.assert_allclose(seen.reward, reward, rtol=0, atol=1e-12)
    np.testing.assert_allclose(seen.square, square, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(seen.ended, ended)


def test_single_transitions_are_counted_as_they_come():
    batches = list(stream(40, seed=1))
    seen = ex.empty(SPEC, RNG)
    for b in batches:
        seen = ex.record(SPEC, seen, b)
    each = [b._replace(last=torch.ones(N, dtype=torch.bool)) for b in batches]
    visits, reward, square, ended = counted(each, staged=False)
    np.testing.assert_array_equal(seen.visits, visits)
    np.testing.assert_allclose(seen.reward, reward, rtol=0, atol=1e-12)
    np.testing.assert_allclose(seen.square, square, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(seen.ended, ended)


def test_learning_leaves_its_inputs_alone():
    seen, episode = ex.empty(SPEC, RNG), ex.start_episode(SPEC, RNG)
    for b in stream(H, synchronous=True):
        before = [leaf.clone() for leaf in (*seen, *episode)]
        longer = ex.extend(SPEC, episode, b)
        ex.absorb(seen, longer, b), ex.restart(longer, b.last), ex.record(SPEC, seen, b)
        assert all(torch.equal(x, y) for x, y in zip(before, (*seen, *episode), strict=True))
        episode = longer


def test_means_and_frequencies_are_ratios_and_zero_where_nothing_was_seen():
    seen = ex.empty(SPEC, RNG)
    for b in stream(30):
        seen = ex.record(SPEC, seen, b)
    count = seen.visits.sum(-1)
    tried = count > 0
    assert 0 < int(tried.sum()) < tried.numel()
    np.testing.assert_allclose(seen.kernel.sum(-1), tried.double(), rtol=1e-15)
    expected = np.where(tried, seen.reward / count.clamp(min=1), 0)
    np.testing.assert_allclose(seen.mean_reward, expected, rtol=1e-15)


def test_states_that_end_episodes_become_absorbing_and_free():
    kernel = torch.full((1, 3, 2, 3), 1 / 3, dtype=torch.float64)
    reward = torch.ones(1, 3, 2, dtype=torch.float64)
    ended = torch.tensor([[False, True, False]])
    model = absorbing(kernel, reward, ended)
    assert isinstance(model, Dense)
    assert model.kernel[0, 1].tolist() == [[0, 1, 0], [0, 1, 0]] and not model.reward[0, 1].any()
    for state in (0, 2):
        assert torch.equal(model.kernel[0, state], kernel[0, state])
        assert torch.equal(model.reward[0, state], reward[0, state])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (replace(SPEC, observation=Box((2,))), "Discrete states"),
        (replace(SPEC, action=Box((2,))), "Discrete actions"),
        (replace(SPEC, observation=Discrete(2000)), "12000000 numbers"),
    ],
)
def test_tables_that_cannot_be_are_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        ex.empty(spec, RNG)


def test_a_task_without_episodes_is_refused():
    with pytest.raises(ValueError, match="horizon = None"):
        ex.start_episode(replace(SPEC, horizon=None), RNG)

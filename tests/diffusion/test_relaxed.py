"""Relaxed masked diffusion: agreement with hard states, exact laws of draws, divergences."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

from rlkit.diffusion.masked import MASK, MarkovMask, MaskTable, sequences
from rlkit.diffusion.masked_hmm import HMMMask
from rlkit.diffusion.masked_oracles import parallel_law
from rlkit.diffusion.masked_tasks import preset
from rlkit.diffusion.masked_training import NetworkDenoiser
from rlkit.diffusion.relaxed import (
    RelaxedChain,
    gumbel,
    harden,
    keep,
    path_divergence,
    relax,
    relaxed_logs,
    relaxed_step,
    released_divergence,
    straighten,
)
from rlkit.networks.convolution import start_tagger
from rlkit.random import Rng

M = MASK


def rng(n=1, seed=0, stream="test"):
    return Rng(seed, stream, torch.arange(n))


def laws(*shape, seed=0):
    random = np.random.default_rng(seed)
    return torch.tensor(random.dirichlet(np.ones(shape[-1]), size=shape[:-1]))


def hard_states(length, n=1):
    return sequences(length, 5).expand(n, -1, -1)


def tables():
    start, step = laws(2, 4, seed=1), laws(2, 4, 4, seed=2)
    network = NetworkDenoiser(start_tagger(rng(), 5, 6, 4), 4)
    return {
        "table": MaskTable.of(laws(2, 4**4, seed=3)),
        "markov": MarkovMask(start, step, 4),
        "network": network,
    }


@pytest.fixture(params=("table", "markov", "network"))
def denoiser(request):
    return tables()[request.param]


def test_relaxed_laws_of_hard_states_are_the_denoisers(denoiser):
    tokens = hard_states(4, 2)
    found = relaxed_logs(denoiser, relax(tokens)).exp()
    masked = tokens == M
    torch.testing.assert_close(
        found[masked], denoiser.conditional(tokens)[masked], rtol=1e-5, atol=1e-7
    )


def brute_extension(law, x):
    """Marginals of hard states mixed by the relaxed letters elsewhere, by numpy loops."""
    length = x.shape[0]
    everything = list(itertools.product(range(4), repeat=length))
    answer = np.zeros((length, 4))
    for state in itertools.product(range(5), repeat=length):
        for i in (i for i in range(length) if state[i] != M):
            weight = np.prod([x[j, state[j]] for j in range(length) if j != i])
            mass = sum(
                p
                for p, word in zip(law, everything, strict=True)
                if all(s in (M, a) for s, a in zip(state, word, strict=True))
            )
            answer[i, state[i]] += weight * mass
    return answer / answer.sum(1, keepdims=True)


def test_relaxed_laws_of_a_table_extend_its_marginals_multilinearly():
    law, x = laws(1, 4**3, seed=4), laws(1, 2, 3, 5, seed=5)
    found = relaxed_logs(MaskTable.of(law), x).exp()
    for chain in range(2):
        expected = brute_extension(law[0].numpy(), x[0, chain].numpy())
        np.testing.assert_allclose(found[0, chain], expected, rtol=1e-12)


def test_relaxed_laws_of_a_markov_chain_and_of_its_table_agree():
    markov = MarkovMask(laws(2, 4, seed=6), laws(2, 4, 4, seed=7), 5)
    x = laws(2, 3, 5, 5, seed=8)
    torch.testing.assert_close(relaxed_logs(markov, x), relaxed_logs(markov.table(), x))


@pytest.mark.parametrize("name", ["table", "markov"])
def test_relaxed_laws_have_the_gradients_of_differences(name):
    x = laws(2, 1, 4, 5, seed=9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: relaxed_logs(tables()[name], x), x)


def test_the_denoiser_is_tight_along_any_order():
    task = preset("MS5")
    tokens, table = torch.tensor([[[1, 2, 0, 3, 3]]]), task.denoiser.table()
    expected = task.denoiser.log_probability(tokens).item()
    for order in itertools.permutations(range(5)):
        state, total = torch.full_like(tokens, M), 0.0
        for i in order:
            letter = int(tokens[0, 0, i])
            total += relaxed_logs(table, relax(state))[0, 0, i, letter].item()
            state[0, 0, i] = letter
        assert total == pytest.approx(expected, abs=1e-12)


# ------------------------------------------------------------------------- steps


@pytest.mark.parametrize("temperature", [1e-4, 0.5, 3.0])
def test_hard_draws_follow_the_law_of_the_step_exactly(temperature):
    law, t, count = laws(4, seed=10), 3, 40_000
    x = relax(torch.full((1, count, 1), M))
    noise = gumbel(rng(), "noise", count, 1, 5)
    after = relaxed_step(x, law.log().expand(1, count, 1, 4), t, noise, temperature, hard=True)
    seen = torch.bincount(harden(after).flatten(), minlength=5).numpy()
    expected = count * np.append(law.numpy() / t, 1 - 1 / t)
    assert scipy.stats.chisquare(seen, expected).pvalue > 1e-3
    assert set(after.unique().tolist()) == {0.0, 1.0}


def test_a_cold_draw_is_the_largest_perturbed_log_probability():
    law, noise = laws(1, 50, 2, 4, seed=11), gumbel(rng(), "noise", 50, 2, 5)
    x = relax(torch.full((1, 50, 2), M))
    soft = relaxed_step(x, law.log(), 4, noise, 1e-3, hard=False)
    score = torch.cat([law.log() - math.log(4), torch.full_like(law[..., :1], math.log(0.75))], -1)
    top = relax((score + noise).argmax(-1))
    assert ((soft - top).abs() < 1e-6).double().mean() > 0.98  # near ties stay soft
    warm = relaxed_step(x, law.log(), 4, noise, 1.0, hard=False)
    torch.testing.assert_close(warm, torch.softmax(score + noise, -1))


def test_letters_stay_and_no_mask_is_left_at_the_end():
    tokens = torch.tensor([[[0, M, 3, M, M]]])
    noise = gumbel(rng(), "noise", 1, 5, 5)
    log_law = keep(laws(1, 1, 5, 4, seed=12).log(), relax(tokens))
    for t, hard in itertools.product((1, 2, 9), (True, False)):
        after = relaxed_step(relax(tokens), log_law, t, noise, 1.0, hard)
        assert after[0, 0, 0, 0] == 1 and after[0, 0, 2, 3] == 1
        torch.testing.assert_close(after.sum(-1), torch.ones(1, 1, 5).double())
    last = relaxed_step(relax(tokens), log_law, 1, noise, 1.0, hard=False)
    assert (last[..., M] == 0).all()
    # A soft state whose largest entry is a letter becomes that letter where it is still masked.
    soft = torch.tensor([[[[0.1, 0.6, 0.0, 0.0, 0.3]]]], dtype=torch.float64)
    own = keep(laws(1, 1, 1, 4, seed=13).log(), soft)
    ends = {"kept": [0.1, 0.9, 0, 0, 0], "released": [0.07, 0.72, 0, 0, 0.21]}
    for blend, end in ends.items():
        after = relaxed_step(soft, own, 1, noise[:, :, :1], 1.0, hard=False, blend=blend)
        torch.testing.assert_close(after[0, 0, 0], torch.tensor(end, dtype=torch.float64))


def test_both_blends_agree_on_hard_states():
    x = relax(hard_states(3))
    noise, law = gumbel(rng(), "noise", 125, 3, 5), laws(1, 125, 3, 4, seed=21).log()
    one, other = (
        relaxed_step(x, keep(law, x), 3, noise, 1.0, True, blend) for blend in ("kept", "released")
    )
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_straight_through_is_hard_with_the_gradient_of_the_soft():
    x = laws(1, 2, 3, 5, seed=14).requires_grad_()
    slope = laws(1, 2, 3, 5, seed=15)
    value = straighten(x)
    torch.testing.assert_close(value.detach(), relax(x.detach().argmax(-1)), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad((slope * value).sum(), x)
    torch.testing.assert_close(gradient, slope)


def test_hard_chains_follow_the_enumerated_law():
    start, step = laws(1, 4, seed=16), laws(1, 4, 4, seed=17)
    table = MarkovMask(start, step, 3).table()
    exact = parallel_law(table.conditionals(), table.conditionals(), 4)
    count = 20_000
    chain = RelaxedChain(4, 2, temperature=0.7)

    def run(x, t):
        return relaxed_logs(table, x)

    found = chain.run(relax(torch.full((1, count, 3), M)), run, run, rng())
    code = (harden(found.point) * torch.tensor([16, 4, 1])).sum(-1)
    seen = torch.bincount(code.flatten(), minlength=64).numpy()
    assert scipy.stats.chisquare(seen, count * exact.law[0].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("passing", [0, 1, 3])
def test_gradients_pass_the_last_steps_only(passing):
    logits = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)  # of each time

    def ours(x, t):
        return torch.log_softmax(logits[t - 1], -1).expand(*x.shape[:-1], 4)

    ending = RelaxedChain(3, passing, kl="none").run(
        relax(torch.full((1, 64, 2), M)), ours, ours, rng()
    )
    if passing == 0:
        assert not ending.point.requires_grad
        return
    reward = straighten(ending.point)[..., 0].sum()
    (gradient,) = torch.autograd.grad(reward, logits)
    assert ((gradient != 0).any(1) == (torch.arange(1, 4) <= passing)).all()


# ------------------------------------------------------------------------- divergences


def test_path_divergence_of_two_positions_is_the_hand_computed_number():
    rows = [[[[0.5, 0.25, 0.125, 0.125], [0.4, 0.3, 0.2, 0.1]]]]
    p = torch.tensor(rows, dtype=torch.float64)
    q = torch.full_like(p, 0.25)
    x = relax(torch.tensor([[[M, 2]]]))
    expected = (0.5 * math.log(2) + 0.25 * math.log(0.5)) / 4  # 0.125 log(1/2) twice, at t = 4
    assert path_divergence(p.log(), q.log(), x, 4).item() == pytest.approx(expected, abs=1e-15)
    half = torch.tensor([0.5, 0, 0, 0, 0.5]).double().expand_as(x)
    entropy = sum(-v * math.log(v) for v in (0.4, 0.3, 0.2, 0.1))
    both = 0.5 * (0.25 * math.log(2)) + 0.5 * (math.log(4) - entropy)
    found = path_divergence(p.log(), q.log(), half, 1).item()
    assert found == pytest.approx(both, abs=1e-12)


def test_released_divergence_of_a_soft_position_is_the_hand_computed_number():
    p, q = torch.tensor([0.5, 0.25, 0.125, 0.125]).double(), torch.full((4,), 0.25).double()
    x = torch.tensor([[[[0.3, 0.1, 0.0, 0.0, 0.6]]]], dtype=torch.float64)
    inner = 0.3 * (-0.5 + 0.25 + 0.5 * math.log(2))  # the second letter has p = q
    found = released_divergence(p.log().expand(1, 1, 1, 4), q.log().expand(1, 1, 1, 4), x, 0.5)
    assert found.item() == pytest.approx(0.4 * inner / 0.5, abs=1e-15)


def test_released_divergence_is_zero_on_all_hard_states_where_the_path_one_is_not():
    x = relax(hard_states(4, 2))
    ours = keep(laws(2, 625, 4, 4, seed=18).log(), x)
    base = keep(relaxed_logs(tables()["table"], x), x)
    assert (released_divergence(ours, base, x, 0.25) == 0).all()
    path = path_divergence(ours, base, x, 2)
    assert ((path > 0) == (harden(x) == M).any(-1)).all()


def test_released_divergence_of_straight_through_chains_is_zero_and_of_soft_ones_is_not():
    base = tables()["table"]
    tilted = MaskTable.of(laws(2, 4**4, seed=19))
    found = {}
    for kl, hard in itertools.product(("path", "released"), (True, False)):
        found[kl, hard] = RelaxedChain(6, 6, straight_through=hard, kl=kl).run(
            relax(torch.full((2, 100, 4), M)),
            lambda x, t: relaxed_logs(tilted, x),
            lambda x, t: relaxed_logs(base, x),
            rng(2),
        ).divergence.abs()  # fmt: skip
    assert (found["released", True] == 0).all()
    assert (found["released", False] > 0).all()
    assert (found["path", True].mean(1) > 0.1).all()


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_divergence_of_chains_estimates_the_enumerated_one(steps):
    task = preset("MS4")
    base = task.denoiser.table()
    tilted = MaskTable.of(laws(1, 4**4, seed=20))
    exact = parallel_law(tilted.conditionals(), base.conditionals(), steps).path_kl.item()
    each = RelaxedChain(steps, 0).run(
        relax(torch.full((1, 4000, 4), M)),
        lambda x, t: relaxed_logs(tilted, x),
        lambda x, t: relaxed_logs(base, x),
        rng(),
    ).divergence  # fmt: skip
    error = each.std().item() / math.sqrt(4000)
    assert abs(each.mean().item() - exact) < 4 * error + 1e-12


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RelaxedChain(4, 5), "truncation"),
        (lambda: RelaxedChain(4, 2, temperature=0.0), "temperature"),
        (lambda: RelaxedChain(4, 2, kl="reverse"), "kl"),
        (lambda: RelaxedChain(4, 2, blend="soft"), "blend"),
        (lambda: relaxed_logs(tables()["table"], torch.zeros(2, 1, 4, 4)), "accepted: .*5"),
        (
            lambda: relaxed_step(
                relax(hard_states(2)), laws(1, 25, 2, 4).log(), 1, torch.zeros(1), -1.0, True
            ),
            "temperature",
        ),
        (
            lambda: path_divergence(
                laws(1, 1, 2, 3).log(), laws(1, 1, 2, 4).log(), relax(hard_states(2)), 1
            ),
            "same positions and letters",
        ),
        (
            lambda: relaxed_logs(
                HMMMask(laws(1, 2), laws(1, 2, 2), laws(1, 2, 4), 3), relax(hard_states(3))
            ),
            "HMMMask takes only hard states",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Sequences with planted motifs, their rewards, and networks trained on them."""

import itertools
import math

import numpy as np
import pytest
import torch

from rlkit.diffusion import motifs
from rlkit.diffusion.masked import MASK, MarkovMask, one_hot, sequences
from rlkit.diffusion.masked_tasks import BACKGROUND
from rlkit.diffusion.masked_training import (
    NetworkDenoiser,
    Training,
    channels,
    denoising_loss,
    mask_some,
    scores,
    trained_denoiser,
    trained_rewards,
    training_sequences,
)
from rlkit.diffusion.motif_rewards import MotifCount, MotifReward
from rlkit.diffusion.motifs import MotifLaw, kmer_correlation, kmers, spell
from rlkit.random import Rng

SHORT = Training(width=8, steps=40, batch=32, rate=5e-3)


def rng(n=1, seed=0):
    return Rng(seed, "test", torch.arange(n))


def numpy_log_probability(law, tokens, words):
    """`log p_0` of one sequence: every placement of every set of motifs, letter by letter."""
    step = np.array(BACKGROUND)

    def background(known):
        """Probability of `{position: letter}` under the chain, the rest summed over."""
        forward = np.full(4, 0.25)
        for i in range(law.length):
            if i:
                forward = forward @ step
            if i in known:
                forward = forward * (np.arange(4) == known[i])
        return forward.sum()

    def given(placed):
        """Probability given `[(word, place), ...]`, later ones on top."""
        writer = {}
        for word, place in placed:
            for column, letter in enumerate(word):
                writer[place + column] = "ACGT".index(letter)
        mass = background({i: a for i, a in enumerate(tokens) if i not in writer})
        for i, letter in writer.items():
            mass *= 1 - law.mutation if tokens[i] == letter else law.mutation / 3
        return mass

    places = [range(law.length - len(word) + 1) for word in words]
    one = np.mean([given([(words[0], s)]) for s in places[0]])
    two = np.mean([given([(words[1], s)]) for s in places[1]])
    both = np.mean([given([(words[0], s), (words[1], u)]) for s, u in itertools.product(*places)])
    q = law.share
    return math.log(
        (1 - q) ** 2 * given([]) + q * (1 - q) * (one + two) + q * q * both
    )  # fmt: skip


@pytest.mark.parametrize("length", [6, 7, 8])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_probabilities_of_all_sequences_sum_to_one(length, share):
    law = MotifLaw(length, share, mutation=0.2)
    total = law.log_probability(sequences(length)[None]).exp().sum()
    assert abs(float(total) - 1) < 1e-12


@pytest.mark.parametrize("length", [6, 13, 17])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_log_probability_is_the_sum_over_placements(length, share):
    law = MotifLaw(length, share, mutation=0.2)
    tokens = torch.cat(
        [
            law.sample(rng(seed=3), "some", 8),
            torch.tensor(np.random.default_rng(0).integers(0, 4, (1, 4, length))),
        ],
        1,
    )
    expected = [numpy_log_probability(law, x, motifs.MOTIFS) for x in tokens[0].tolist()]
    found = law.log_probability(tokens)[0].tolist()
    assert found == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("words", [("GATA", "CACGTG"), ("CACGTG", "GATA"), ("ACGTACG", "GTA")])
def test_motifs_of_two_lengths_and_one_inside_the_other(words):
    law = MotifLaw(11, 0.6, mutation=0.3, motifs=words)
    tokens = law.sample(rng(seed=4), "some", 10)
    expected = [numpy_log_probability(law, x, words) for x in tokens[0].tolist()]
    assert law.log_probability(tokens)[0].tolist() == pytest.approx(expected, abs=1e-10)


def test_without_motifs_the_law_is_the_markov_chain():
    law = MotifLaw(20, 0.0)
    start, step = torch.full((1, 4), 0.25).double(), torch.tensor([BACKGROUND]).double()
    chain = MarkovMask(start, step / step.sum(2, keepdim=True), 20)
    tokens = law.sample(rng(2), "some", 5)
    torch.testing.assert_close(law.log_probability(tokens), chain.log_probability(tokens))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_samples_follow_the_law(share):
    law, count = MotifLaw(6, share, mutation=0.3), 60_000
    tokens = law.sample(rng(2, seed=5), "some", count)
    code = (tokens * 4 ** torch.arange(5, -1, -1)).sum(2)
    seen = torch.stack([torch.bincount(row, minlength=4**6) for row in code]).double()
    mean = count * law.log_probability(sequences(6)[None]).exp()[0]
    statistic = ((seen - mean) ** 2 / mean).sum(1)
    # Chi-square with 4095 degrees of freedom, whose cells hold 15 on average and some far less:
    # the variance of the statistic is 2 k + sum 1 / mean.
    spread = (2 * 4095 + float((1 / mean).sum())) ** 0.5
    assert bool(((statistic - 4095).abs() < 5 * spread).all())


def test_likelihood_ratios_of_two_laws_average_to_one_at_length_thirty():
    """No enumeration reaches it: E[p'(x) / p(x)] = 1 for samples of p and another law p'."""
    law, other = MotifLaw(30, 0.4, 0.2), MotifLaw(30, 0.3, 0.3)
    tokens = law.sample(rng(seed=6), "some", 20_000)
    ratio = (other.log_probability(tokens) - law.log_probability(tokens)).exp()[0]
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / 20_000**0.5
    assert float(ratio.std()) > 0.1


def test_samples_of_a_replica_do_not_depend_on_the_others():
    law = MotifLaw(30)
    many, few = law.sample(rng(5), "x", 7), law.sample(rng(2), "x", 7)
    assert torch.equal(many[:2], few)


def numpy_scores(letters, word):
    """Mean log-odds in bits of the windows of one sequence `[L, 4]`."""
    found = []
    for place in range(len(letters) - len(word) + 1):
        total = 0.0
        for column, consensus in enumerate(word):
            for a in range(4):
                share = 0.5 if "ACGT"[a] == consensus else 1 / 6
                total += letters[place + column, a] * math.log2(share / 0.25)
        found.append(total / len(word))
    return np.array(found)


def numpy_reward(letters, spacing):
    one, two = (numpy_scores(letters, word) for word in ("GATAAG", "CACGTG"))
    value = (np.log(np.exp(8 * one).sum()) + np.log(np.exp(8 * two).sum())) / 8
    here, there = np.exp(8 * one), np.exp(8 * two)
    for i, j in itertools.product(range(len(one)), range(len(two))):
        close = math.exp(-((abs(i - j) - 12) ** 2) / (2 * 3**2))
        value += spacing * close * here[i] * there[j] / here.sum() / there.sum()
    return value


@pytest.mark.parametrize("spacing", [0.0, 0.7])
def test_reward_is_that_of_loops_on_hard_and_relaxed_letters(spacing):
    random = np.random.default_rng(0)
    soft = random.dirichlet(np.ones(4), size=(2, 3, 24))
    hard = one_hot(MotifLaw(24).sample(rng(2), "x", 3)).numpy()
    for letters in (soft, hard):
        found = MotifReward(spacing)(torch.tensor(letters))
        expected = [[numpy_reward(x, spacing) for x in row] for row in letters]
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


def test_reward_of_both_motifs_at_the_preferred_distance_by_hand():
    tokens = spell("GATAAG" + "TTTTTT" + "CACGTG" + "TTTTTT")[None, None]
    one, two = MotifReward().scores(one_hot(tokens)[0, 0])
    assert float(one[0]) == pytest.approx(1) == float(two[12])
    assert float(one.max()) <= 1 + 1e-12
    gain = MotifReward(1.0)(one_hot(tokens)) - MotifReward(0.0)(one_hot(tokens))
    # Both hits carry most of the weight: 1 against at most 2/6 - 4 * .585/6 elsewhere.
    assert 0.8 < float(gain) < 1


def test_reward_has_the_gradient_of_finite_differences():
    letters = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(4), size=(1, 2, 20)))
    letters.requires_grad_()
    assert torch.autograd.gradcheck(MotifReward(0.5), (letters,))


def test_reward_does_not_depend_on_company():
    letters = one_hot(MotifLaw(30).sample(rng(8), "x", 5))
    for reward in (MotifReward(0.5), MotifCount()):
        moved = reward(letters.roll(3, 0))
        assert torch.equal(reward(letters).roll(3, 0), moved)


def test_the_median_reward_of_the_small_task_is_near_one():
    tokens = MotifLaw(30, 0.0).sample(rng(1), "x", 4000)
    assert abs(float(MotifReward()(one_hot(tokens)).median()) - 1) < 0.03


def test_planted_motifs_raise_reward_and_naturalness_together():
    law = MotifLaw(30, 0.3)
    tokens = law.sample(rng(1), "x", 4000)
    reward, log_law = MotifReward()(one_hot(tokens))[0], law.log_probability(tokens)[0]
    top = reward > reward.quantile(0.9)
    gap = log_law[top].mean() - log_law[~top].mean()
    error = (log_law[top].var() / top.sum() + log_law[~top].var() / (~top).sum()) ** 0.5
    assert float(gap) > 4 * float(error)


@pytest.mark.parametrize(("threshold", "allowed"), [(1.0, 0), (0.7, 1), (0.45, 2)])
def test_counts_are_those_of_loops_and_have_no_gradient(threshold, allowed):
    tokens = MotifLaw(40, 0.9).sample(rng(2), "x", 50)
    letters = one_hot(tokens)
    found = MotifCount(threshold)(letters)
    for n, b in itertools.product(range(2), range(50)):
        text = "".join("ACGT"[a] for a in tokens[n, b].tolist())
        expected = sum(
            sum(x != y for x, y in zip(text[i : i + 6], word, strict=True)) <= allowed
            for word in ("GATAAG", "CACGTG")
            for i in range(35)
        )
        assert float(found[n, b]) == expected
    assert float(found.max()) >= 2
    assert torch.equal(MotifCount(threshold)(letters.float()).double(), found)
    assert not MotifCount(threshold)(letters.requires_grad_()).requires_grad


def test_words_are_counted_as_by_hand():
    tokens = torch.tensor([[[0, 1, 2, 0, 1, 2], [3, 3, 3, 3, 0, 1]]])
    found = kmers(tokens)[0]
    expected = {"ACG": 2, "CGA": 1, "GAC": 1, "TTT": 2, "TTA": 1, "TAC": 1}
    for code, word in enumerate(itertools.product("ACGT", repeat=3)):
        assert float(found[code]) == expected.get("".join(word), 0)


def test_correlation_of_words_is_pearsons():
    tokens = MotifLaw(30).sample(rng(3), "x", 20)
    reference = MotifLaw(30, 1.0).sample(rng(1, seed=2), "x", 50)
    found = kmer_correlation(tokens, reference)
    theirs = kmers(reference)[0].numpy()
    expected = [np.corrcoef(row.numpy(), theirs)[0, 1] for row in kmers(tokens)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert kmer_correlation(tokens, tokens).tolist() == pytest.approx([1, 1, 1])


def exact_bound(law, tokens, average):
    """Expectation of the loss of the exact denoiser over all masks, for one sequence."""
    length, total = tokens.shape[2], 0.0
    for pattern in itertools.product([False, True], repeat=length):
        masked = torch.tensor(pattern).expand_as(tokens)
        laws = law.conditional(torch.where(masked, MASK, tokens))
        one = torch.ones(tokens.shape[:2], dtype=torch.float64)
        loss = denoising_loss(laws.log(), tokens, masked, one)
        total = total + average(sum(pattern)) * loss
    return total


def test_the_bound_of_the_exact_denoiser_is_tight():
    """Weights 1 / t integrate to Beta(m, L - m + 1) a mask; the counts have the same average."""
    length = 4
    start, step = torch.full((1, 4), 0.25).double(), torch.tensor([BACKGROUND]).double()
    law = MarkovMask(start, step / step.sum(2, keepdim=True), length)

    def by_time(m):
        if m == 0:
            return 0.0
        return math.factorial(m - 1) * math.factorial(length - m) / math.factorial(length)

    def by_count(m):
        return 0.0 if m == 0 else (length / m) / math.comb(length, m) / length

    for tokens in ([0, 1, 2, 3], [3, 3, 0, 2], [1, 0, 3, 2]):
        tokens = torch.tensor([[tokens]])
        expected = -law.log_probability(tokens)[0]
        for average in (by_time, by_count):
            torch.testing.assert_close(exact_bound(law, tokens, average), expected)


def test_masks_are_uniform_in_number_and_place_with_their_weight():
    tokens = torch.zeros(3, 4000, 5, dtype=torch.int64)
    masked, weight = mask_some(tokens, rng(3), "mask")
    count = masked.sum(2)
    torch.testing.assert_close(weight, 5 / count.float())
    # The numbers are spread over the batch, so that each occurs 800 times, give or take one.
    for m in range(1, 6):
        assert bool(((count == m).sum(1) - 800).abs().max() <= 1)
    patterns = (masked * 2 ** torch.arange(5)).sum(2)[count == 2]
    seen = torch.bincount(patterns, minlength=32).double()
    seen = seen[seen > 0]
    assert len(seen) == 10
    assert float(((seen - seen.mean()) ** 2 / seen.mean()).sum()) < 27.9  # chi2(9), p = .001


def test_training_is_a_function_of_its_arguments():
    law = MotifLaw(12, 0.0)
    first = trained_denoiser(law, SHORT)
    assert trained_denoiser(MotifLaw(12, 0.0), SHORT) is first
    trained_denoiser.cache_clear()
    again = trained_denoiser(law, SHORT)
    leaves = [torch.utils._pytree.tree_leaves(d.parameters) for d in (first, again)]
    assert all(torch.equal(a, b) for a, b in zip(*leaves, strict=True))
    other = trained_denoiser(law, SHORT._replace(seed=1))
    assert not torch.equal(other.parameters.head.weight, first.parameters.head.weight)


def test_training_brings_the_denoiser_near_the_exact_one():
    law = MotifLaw(12, 0.0)
    training = Training(width=16, steps=250, batch=64, rate=5e-3)
    denoiser = trained_denoiser(law, training)
    tokens = law.sample(rng(seed=9), "x", 2000)
    masked, weight = mask_some(tokens, rng(seed=9), "mask")
    seen = torch.where(masked, MASK, tokens)
    losses = [
        float(denoising_loss(d.conditional(seen).clamp(min=1e-30).log(), tokens, masked, weight))
        for d in (denoiser, law.background)
    ]
    independent = 12 * math.log(4)
    assert losses[0] - losses[1] < 0.15 * (independent - losses[1])


def test_a_network_denoiser_gives_laws_and_keeps_what_is_revealed():
    law = MotifLaw(12, 0.0)
    denoiser = trained_denoiser(law, SHORT)
    tokens = law.sample(rng(3), "x", 4)
    tokens = torch.where(torch.arange(12) % 3 == 0, MASK, tokens)
    found = denoiser.conditional(tokens)
    torch.testing.assert_close(found.sum(3), torch.ones(3, 4, 12, dtype=torch.float64))
    known = (tokens != MASK)[..., None].expand_as(found)
    assert torch.equal(found[known], one_hot(tokens)[known])
    soft = denoiser.relaxed(channels(tokens)).exp().double()
    torch.testing.assert_close(found[~known], soft[~known])
    copies = torch.utils._pytree.tree_map(
        lambda leaf: leaf.repeat(3, *[1] * (leaf.dim() - 1)), denoiser.parameters
    )
    alone = NetworkDenoiser(copies, 12).conditional(tokens)
    torch.testing.assert_close(alone, found, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"token 5 outside"):
        denoiser.conditional(tokens + 1)


def test_reward_models_learn_from_disjoint_halves():
    law, reward = MotifLaw(12, 0.3), MotifReward()
    training = Training(width=16, steps=150, batch=64, rate=5e-3)
    proxies = trained_rewards(law, reward, 0.1, training)
    letters = one_hot(law.sample(rng(seed=9), "x", 2000))
    truth = reward(letters)[0]
    found = [scores(proxy, letters)[0].double() for proxy in proxies]
    for proxy in found:
        assert float(torch.corrcoef(torch.stack([proxy, truth]))[0, 1]) > 0.7
        assert abs(float((proxy - truth).mean())) < 0.1
    assert not torch.equal(*found)
    data = training_sequences(law, training.seed)
    assert data.shape == (1, 20_000, 12)


def test_training_has_the_same_bits_at_any_number_of_threads():
    def trained(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            trained_denoiser.cache_clear()
            denoiser = trained_denoiser(MotifLaw(12, 0.0), SHORT)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        return torch.utils._pytree.tree_leaves(denoiser.parameters)

    assert all(torch.equal(a, b) for a, b in zip(trained(1), trained(2), strict=True))


@pytest.mark.slow
def test_the_default_denoiser_is_within_a_hundredth_of_a_nat_a_token():
    law = MotifLaw(30, 0.0)
    denoiser = trained_denoiser(law, Training())
    tokens = law.sample(rng(seed=9), "x", 2000)
    rank = rng(seed=9).uniform("order", 2000, 30).argsort(2).argsort(2)
    for count in (30, 27, 22, 15, 7, 3):
        masked = rank < count
        seen = torch.where(masked, MASK, tokens)
        ours, best = denoiser.conditional(seen), law.background.conditional(seen)
        gap = (best * (best.clamp(min=1e-30) / ours.clamp(min=1e-30)).log()).sum(3)[masked]
        assert 0 <= float(gap.mean()) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_default_reward_models_correlate_above_nine_tenths(share):
    law, reward = MotifLaw(30, share), MotifReward()
    letters = one_hot(law.sample(rng(seed=9), "x", 2000))
    for proxy in trained_rewards(law, reward, 0.1, Training()):
        pair = torch.stack([scores(proxy, letters)[0].double(), reward(letters)[0]])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MotifLaw(5), r"length = 5 outside \[6, 200\]"),
        (lambda: MotifLaw(motifs=("ACG",)), r"motifs = .* accepted: two words"),
        (lambda: MotifReward(motifs=("ACG", "AXG")), r"word = 'AXG'"),
        (lambda: MotifCount(motifs=("ACG", "")), r"word = ''"),
        (lambda: MotifLaw(6, motifs=("ACG", "ACGTACG")), r"letters of 'ACGTACG' = 7 outside"),
        (lambda: MotifLaw(201), r"length = 201 outside"),
        (lambda: MotifLaw(30, 1.1), r"share = 1.1 outside"),
        (lambda: MotifLaw(30, 0.3, 0.0), r"mutation = 0.0 outside \(0, 1\)"),
        (lambda: MotifLaw(8).log_probability(torch.full((1, 1, 8), 4)), r"token 4 outside"),
        (lambda: MotifLaw(8).sample(rng(), "x", 0), r"count = 0 outside"),
        (lambda: spell("ACX"), r"word = 'ACX'"),
        (lambda: MotifReward(-1.0), r"spacing = -1.0 outside"),
        (lambda: MotifReward()(torch.zeros(2, 5, 4)), r"letters are .* L >= 6"),
        (lambda: MotifReward()(torch.zeros(2, 8, 5)), r"letters are .* accepted"),
        (lambda: MotifReward()(torch.zeros(2, 8, 4, dtype=torch.int64)), r"letters are"),
        (lambda: MotifCount(1.1), r"threshold = 1.1 outside"),
        (lambda: kmers(torch.zeros(1, 1, 4, dtype=torch.int64), 5), r"k = 5 outside"),
        (lambda: trained_denoiser(MotifLaw(8), Training(steps=0)), r"steps = 0 outside"),
        (lambda: trained_denoiser(MotifLaw(8), Training(rate=0.0)), r"rate = 0.0 outside"),
        (lambda: trained_rewards(MotifLaw(8), MotifReward(), -1.0, SHORT), r"noise = -1.0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

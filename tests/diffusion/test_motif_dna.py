"""MotifDNA as a problem: what it discloses, what it observes, and its bookkeeping."""

import warnings

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from rlkit import registry
from rlkit.diffusion.masked import MASK, MarkovMask, one_hot
from rlkit.diffusion.masked_training import NetworkDenoiser, scores, training_sequences
from rlkit.diffusion.motif_rewards import MotifCount, MotifReward
from rlkit.diffusion.motif_task import best_sequences
from rlkit.diffusion.motifs import MotifLaw, kmer_correlation
from rlkit.diffusion.task import Samples, knowledge, run_reference
from rlkit.envs.diffusion.motif_dna import MotifDNA
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run

QUICK = {"length": 12, "training_steps": 20, "width": 8}


def rng(n, stream="test"):
    return Rng(0, stream, torch.arange(n))


def task_of(n=2, **fields):
    problem = MotifDNA(**(QUICK | fields))
    return knowledge(problem.spec(problem.instance(rng(n, "instance"))))


def sampled(task, n=2, count=40):
    prompt = torch.zeros(n, count, dtype=torch.int64)
    draws = rng(n)
    return run_reference(task, task.start(draws, "start", count), prompt, draws), prompt


def test_chains_of_the_reference_end_without_masks():
    task = task_of()
    assert task.steps == 12
    point, _ = sampled(task)
    assert bool((point < MASK).all())
    assert task.log_data(point).shape == (2, 40)


def test_networks_do_not_depend_on_the_replicas_that_ask():
    few, many = (MotifDNA(**QUICK).instance(Rng(s, "instance", torch.arange(n)))
                 for s, n in ((0, 2), (1, 5)))  # fmt: skip
    assert len(few.replica) == 2 and len(many.replica) == 5
    for a, b in zip(tree_leaves(few.shared), tree_leaves(many.shared), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reward", ["smooth", "count", "learned"])
def test_the_observed_and_the_true_reward(reward):
    task = task_of(reward=reward, share=0.3, spacing=0.0)
    point, prompt = sampled(task)
    letters = one_hot(point)
    true = MotifCount() if reward == "count" else MotifReward()
    assert torch.equal(task.gold(point, prompt), true(letters))
    assert task.differentiable == (reward != "count")
    if reward != "learned":
        assert torch.equal(task.reward(point, prompt), true(letters))
        assert task.judging is None
        return
    observed, judged = task.reward(point, prompt), task.judging(letters)
    assert observed.shape == judged.shape == prompt.shape
    assert not torch.equal(observed, judged)
    soft = torch.tensor(np.random.default_rng(0).dirichlet(np.ones(4), (2, 3, 12)))
    soft.requires_grad_()
    (slope,) = torch.autograd.grad(task.reward(soft, prompt[:, :3]).sum(), soft)
    assert bool(slope.abs().sum(-1).gt(0).all())


def test_the_exact_denoiser_is_the_markov_chains():
    assert isinstance(task_of(denoiser="exact").denoiser, MarkovMask)
    assert isinstance(task_of().denoiser, NetworkDenoiser)


def test_data_are_drawn_from_the_law_with_motifs():
    task = task_of(share=1.0, n=1)
    draws, prompt = rng(1), torch.zeros(1, 500, dtype=torch.int64)
    expected = MotifLaw(12, 1.0).sample(draws, "data", 500)
    assert torch.equal(task.data(draws, "data", prompt), expected)


def test_naturalness_is_the_correlation_with_the_best_training_sequences():
    task = task_of(share=0.3)
    data = training_sequences(task.law, 0)[0]
    reward = MotifReward()(one_hot(data))
    best = best_sequences(task.law, task.truth, 0)[0]
    assert best.shape == (20, 12)
    assert float(reward.sort().values[-20]) == float(MotifReward()(one_hot(best)).min())
    point, _ = sampled(task)
    torch.testing.assert_close(task.naturalness(point), kmer_correlation(point, best[None]))
    again = best[None].expand(2, -1, -1)
    torch.testing.assert_close(task.naturalness(again), torch.ones(2).double())


def test_a_step_of_the_problem_scores_a_batch_by_its_mean():
    problem = MotifDNA(**QUICK)
    instance = problem.instance(rng(2, "instance"))
    task = problem.task(instance)
    point, prompt = sampled(task)
    step = problem.transition(
        instance, problem.reset(instance, rng(2)), Samples(point, prompt), rng(2)
    )
    torch.testing.assert_close(step.reward, MotifReward()(one_hot(point)).mean(1).float())


@pytest.mark.parametrize("fields", [{}, {"reward": "learned", "share": 0.3}, {"chain": "single"}])
def test_rows_have_the_same_bits_in_any_company(fields):
    agent = registry.load("agent", "uniform")()

    def finished(**options):
        options = {"replicas": 10, "group": 16, "seed": 5} | options
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            loop = Rollout(Run(MotifDNA(**(QUICK | fields)), agent, 24, **options), None)
        loop.advance(24)
        return loop.state()

    full, shifted, one = finished(replicas=16), finished(first_replica=5), finished(replicas=1)
    assert all(torch.equal(full[k][5:15], shifted[k][:10]) for k in full)
    assert all(torch.equal(full[k][:1], one[k][:1]) for k in full)


def test_scores_take_any_leading_dimensions():
    network = MotifDNA(**QUICK, reward="learned").instance(rng(1)).shared.rewards.tuning
    letters = one_hot(MotifLaw(12).sample(rng(3), "x", 4))
    found = scores(network, letters)
    assert found.shape == (3, 4)
    torch.testing.assert_close(scores(network, letters[1, 2]), found[1, 2], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 5}, r"length = 5 outside \[6, 200\]"),
        ({"share": -0.1}, r"share = -0.1 outside"),
        ({"reward": "proxy"}, r"reward = 'proxy' unknown"),
        ({"denoiser": "mlp"}, r"denoiser = 'mlp' unknown"),
        ({"denoiser": "exact", "share": 0.1}, r"denoiser = 'exact' with share = 0.1"),
        ({"reward": "count", "spacing": 1.0}, r"reward = 'count' with spacing = 1.0"),
        ({"spacing": -1.0}, r"spacing = -1.0 outside"),
        ({"noise": -1.0}, r"noise = -1.0 outside"),
        ({"chain": "both"}, r"chain = 'both' unknown"),
        ({"steps": 0}, r"steps = 0 outside"),
        ({"width": 0}, r"width = 0 outside"),
        ({"training_steps": 0}, r"training_steps = 0 outside"),
        ({"training_batch": 0}, r"training_batch = 0 outside"),
        ({"training_rate": 0.0}, r"training_rate = 0.0 outside"),
        ({"training_seed": -1}, r"training_seed = -1 outside"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MotifDNA(**fields)

"""What the last step of a chain tells: the parts of its reward and log p_0 of its sample."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from pairs import component
from scipy.stats import multivariate_normal

from rlkit.adapters import make_single
from rlkit.diffusion.masked import LETTERS, MarkovMask, one_hot, sequences
from rlkit.diffusion.masked_task import MaskedDiffusion
from rlkit.diffusion.masked_tasks import motif_reward
from rlkit.diffusion.motif_rewards import MotifCount
from rlkit.diffusion.problem import ended
from rlkit.diffusion.task import knowledge
from rlkit.engine import BatchedEnv, Streams
from rlkit.envs.diffusion.few_step import FewStepGauss
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion
from rlkit.envs.diffusion.masked_seq import MaskedSeq
from rlkit.envs.diffusion.motif_dna import MotifDNA
from rlkit.envs.diffusion.noise_prompt import NoisePrompt

BACKGROUND = np.array(
    [[0.4, 0.3, 0.2, 0.1], [0.1, 0.4, 0.3, 0.2], [0.2, 0.1, 0.4, 0.3], [0.3, 0.2, 0.1, 0.4]]
)
QUICK = {"training_steps": 2, "width": 4, "steps": 3}
PROBLEMS = {
    "linear": GaussMixDiffusion(data="gm2", steps=4),
    "quadratic": GaussMixDiffusion(data="gm2", reward="quadratic", steps=3),
    "modes": GaussMixDiffusion(data="ring", reward="modes", prompts=5, steps=3),
    "law": FewStepGauss(steps=3, reference=32),
    "motif": MaskedSeq(steps=3),
    "pairs": MaskedSeq(length=8, reward="pairs", chain="single"),
    "smooth": MotifDNA(spacing=0.4, **QUICK),
    "count": MotifDNA(reward="count", share=0.3, **QUICK),
    "learned": MotifDNA(reward="learned", **QUICK),
}


@pytest.fixture(params=PROBLEMS, ids=str)
def problem(request):
    return PROBLEMS[request.param]


def walked(problem, n=6):
    """The last action `[n, ...]` of reference chains, its prompts, and feedback of every step."""
    env, told = BatchedEnv(problem, n), []
    env.reset(seed=3)
    task, rng = knowledge(env.spec_), Streams(5, torch.arange(n))
    for time in range(problem.horizon):
        state = env.state
        x, t, prompt = state.point[:, None], int(state.time[0]), state.prompt[:, None]
        action = task.step(x, t, prompt, rng.at("act", time), "step")[:, 0]
        _, reward, _, _, info = env.step(action)
        told.append((reward, info["feedback"]))
    return action, prompt[:, 0], told


def total(parts):
    return sum(part.reshape(len(part), -1).sum(1) for part in parts.values())


def test_the_parts_sum_to_the_reward_and_all_is_zero_before_the_end(problem):
    _, _, told = walked(problem)
    for step, (reward, feedback) in enumerate(told):
        torch.testing.assert_close(total(feedback.parts).float(), reward)
        assert feedback.log_data.dtype == torch.float64
        assert (feedback.log_data != 0).all() == (step == problem.horizon - 1)
        assert all((part == 0).all() for part in feedback.parts.values()) or (
            step == problem.horizon - 1
        )
        assert torch.isfinite(feedback.log_data).all()
    shapes = [{k: v.shape for k, v in f.parts.items()} for _, f in told]
    assert all(shape == shapes[0] for shape in shapes)


def log_density(x, weight, mean, covariance):
    each = [
        w * multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(weight, mean, covariance, strict=True)
    ]
    return np.log(sum(each))


def test_log_data_of_points_is_the_mixture_density():
    """Oracle: scipy's normal density with the published parameters of GM2."""
    x, _, told = walked(PROBLEMS["linear"])
    covariance = [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0], [0, 0.4]], [[0.2, -0.05], [-0.05, 0.2]]]
    known = log_density(x.numpy(), [0.5, 0.3, 0.2], [[2, 0], [-1, 1.5], [-1, -2]], covariance)
    np.testing.assert_allclose(told[-1][1].log_data, known, rtol=1e-9)


def markov(tokens):
    logs = [math.log(0.25)]
    logs += [math.log(BACKGROUND[a, b]) for a, b in pairwise(tokens)]
    return sum(logs)


@pytest.mark.parametrize("name", ["motif", "pairs", "smooth"])
def test_log_data_of_sequences_is_the_markov_law(name):
    x, _, told = walked(PROBLEMS[name])
    known = [markov(row) for row in x.tolist()]
    np.testing.assert_allclose(told[-1][1].log_data, known, rtol=1e-12)


def test_log_data_with_planted_motifs_sums_to_one():
    law = MotifDNA(length=6, share=0.3, motifs=("ACG", "TT"), **QUICK)
    rng = Streams(0, torch.arange(1))
    task = knowledge(law.spec(law.instance(rng.at("instance", 0))))
    x = sequences(6)[None]
    told = task.log_data(x, 0 * x[..., 0])
    assert told.exp().sum().item() == pytest.approx(1, abs=1e-9)
    plain = torch.tensor([markov(row) for row in x[0].tolist()])
    assert (told[0] - plain).abs().max() > 0.5  # not the law without motifs


def test_parts_of_linear_and_quadratic_rewards_are_those_of_the_coordinates():
    x, _, told = walked(PROBLEMS["linear"])
    part = told[-1][1].parts["coordinates"]
    np.testing.assert_allclose(part, x.numpy() * [0.8, -0.5], rtol=1e-12)
    x, _, told = walked(PROBLEMS["quadratic"])
    shares = told[-1][1].parts["coordinates"].numpy()
    for row, part in zip(x.numpy(), shares, strict=True):
        a, b = row[0] - 0.5, row[1] + 0.5
        expected = [-0.5 * a * (a + 0.2 * b), -0.5 * b * (0.2 * a + 0.5 * b)]
        np.testing.assert_allclose(part, expected, rtol=1e-9)


def test_parts_of_pairs_are_their_counts():
    x, _, told = walked(PROBLEMS["pairs"], n=40)
    words = ["".join("ACGT"[a] for a in row) for row in x.tolist()]
    parts = told[-1][1].parts
    assert parts["CG"].tolist() == [word.count("CG") for word in words]
    doubled = [sum(word[i : i + 2] == "AA" for i in range(7)) for word in words]
    assert parts["AA"].tolist() == [-0.5 * count for count in doubled]
    assert max(doubled) > 0 and parts["CG"].max() > 0


def fits(row, motif):
    """Mean log-odds of a motif at each place."""
    match, miss = math.log2(4 * 0.5), math.log2(4 * 0.5 / 3)
    count = len(row) - len(motif) + 1
    return np.array(
        [
            np.mean([match if row[i + j] == "ACGT".index(a) else miss for j, a in enumerate(motif)])
            for i in range(count)
        ]
    )


def test_parts_of_motif_rewards_are_those_of_each_motif():
    x, _, told = walked(PROBLEMS["smooth"])
    parts = told[-1][1].parts
    assert set(parts) == {"motif_1", "motif_2", "spacing"}
    for i, motif in enumerate(("GATAAG", "CACGTG")):
        known = [np.log(np.exp(8 * fits(row, motif)).sum()) / 8 for row in x.tolist()]
        np.testing.assert_allclose(parts[f"motif_{i + 1}"], known, rtol=1e-6)
    assert (parts["spacing"] > 0).all() and (parts["spacing"] < 0.4).all()
    word = "TTGATAAGCCCACGTGGATAACTT"  # GATAAC: one letter off
    letters = one_hot(torch.tensor([[["ACGT".index(a) for a in word]]]))
    counted = MotifCount().parts(letters)
    assert [counted["motif_1"].item(), counted["motif_2"].item()] == [2, 1]
    strict = MotifCount(threshold=1.0).parts(letters)
    assert [strict["motif_1"].item(), strict["motif_2"].item()] == [1, 1]


@pytest.mark.parametrize("name", ["modes", "law", "motif", "learned"])
def test_rewards_of_one_piece_are_their_only_part(name):
    _, _, told = walked(PROBLEMS[name])
    assert set(told[-1][1].parts) == {"reward"}


def test_initial_noise_is_told_of_its_sample_too():
    env = make_single(problem="NoisePrompt-v0", modes=2, steps=4)
    env.reset(seed=0, options={"c": 1})
    _, reward, terminated, _, info = env.step(np.array([0.3, -1.0], dtype=np.float32))
    told = info["feedback"]
    angle = 2 * np.pi * np.arange(5) / 5
    mean = 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    known = log_density(told.point[0], [0.2] * 5, mean, [0.0625 * np.eye(2)] * 5)
    assert terminated and told.log_data == pytest.approx(float(known), rel=1e-9)
    assert told.parts == {"reward": pytest.approx(reward)}


def test_a_law_known_by_its_denoiser_only_is_told_as_absent():
    class Network:
        length = 5

        def conditional(self, tokens):
            return one_hot(tokens)

    task = MaskedDiffusion(Network(), "parallel", motif_reward, 3)
    x = torch.zeros(2, 5, dtype=torch.int64)
    over, reward = torch.tensor([True, False]), torch.tensor([2.0, 0.0])
    assert ended(task, over, x, x[:, 0], reward)[0] == ()
    start = torch.full((1, LETTERS), 0.25, dtype=torch.float64)
    law = MarkovMask(start, torch.tensor(BACKGROUND)[None], 5)
    task = MaskedDiffusion(law, "parallel", motif_reward, 3)
    known, parts = ended(task, over, x, x[:, 0], reward)
    assert known.tolist() == [pytest.approx(markov([0] * 5)), 0]
    assert parts["reward"].tolist() == [2, 0]


META = {
    "GaussMixDiffusion-v0": lambda: component("problem", "GaussMixDiffusion-v0"),
    "FewStepGauss-v0": lambda: component("problem", "FewStepGauss-v0"),
    "MaskedSeq-v0": lambda: component("problem", "MaskedSeq-v0"),
    "single": lambda: PROBLEMS["pairs"],
    "MotifDNA-v0": lambda: component("problem", "MotifDNA-v0"),
    "planted": lambda: PROBLEMS["count"],
    "NoisePrompt-v0": lambda: NoisePrompt(steps=3, phrasings=0),
    "noisy": lambda: NoisePrompt(
        steps=3, phrasings=0, kernel="ddim", eta=0.5, allow_uncontrollable=True
    ),
}


@pytest.mark.parametrize("name", META)
def test_a_denoising_step_reads_nothing_back(name):
    """The meta device has no values: reading one, or mixing in the CPU, raises."""
    problem = META[name]()
    streams = Streams(0, torch.zeros(3, dtype=torch.int64, device="meta"))
    instance = problem.instance(streams.at("instance", 0))
    state = problem.reset(instance, streams.at("reset", 0))
    out = problem.transition(instance, state, state.point, streams.at("env", 0))
    leaves = torch.utils._pytree.tree_leaves((out.state, out.feedback))
    assert leaves and all(leaf.is_meta for leaf in leaves)

"""Optima of the very chains that are run, batches and steps that are refused, devices."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from rlkit.agents.diffusion.ddpo import DDPO
from rlkit.diffusion import Grid, gm1, grid_tilt, linear_schedule, linear_tilt
from rlkit.diffusion.checks import checking, trusted
from rlkit.diffusion.masked import MASK
from rlkit.diffusion.masked_chains import OneAtATime, all_masked
from rlkit.diffusion.masked_policies import TablePolicy
from rlkit.diffusion.measures import measure
from rlkit.diffusion.policies import AffineParameters, AffinePolicy, ResidualPolicy
from rlkit.diffusion.problem import ChainState
from rlkit.diffusion.riccati import affine_chain, solve
from rlkit.diffusion.task import Samples, knowledge
from rlkit.engine import BatchedEnv
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion
from rlkit.envs.diffusion.masked_seq import MaskedSeq
from rlkit.envs.diffusion.motif_dna import MotifDNA
from rlkit.protocol import Known
from rlkit.random import Rng

EXACT = GaussMixDiffusion(data="gm1", kernel="exact", steps=4)
PLANE = GaussMixDiffusion(data="gm2", steps=3)
PARALLEL = MaskedSeq(length=4, reward="pairs", steps=3)
SINGLE = MaskedSeq(length=4, reward="pairs", chain="single")
MOTIF = MotifDNA(length=6, denoiser="exact", chain="single")


def rng(n=2, stream="test"):
    return Rng(0, stream, torch.arange(n))


def spec_of(problem, n=2):
    return problem.spec(problem.instance(rng(n, "instance")))


def mean_soft_value(task, alpha, limit=7.0, size=901):
    """Mean over N(0, 1) of V_T of a chain on the line, by its own kernels on a grid, numpy."""
    y = np.linspace(-limit, limit, size)
    points = torch.tensor(y).reshape(1, -1, 1)
    value = task.reward(points, torch.zeros(1, size).long())[0].numpy()
    for t in range(1, task.steps + 1):
        law = task.kernel.law(task.mixture, points, t)
        mean = law.mean[0, :, :, 0].numpy()
        shape = mean.shape
        width = np.broadcast_to(law.spectrum[0, :, :, 0].sqrt().numpy(), shape)
        share = np.broadcast_to(law.weight[0].numpy(), shape)
        kernel = 0.0
        for k in range(shape[1]):
            z = (y - mean[:, k : k + 1]) / width[:, k : k + 1]
            kernel = kernel + share[:, k : k + 1] * np.exp(-0.5 * z * z) / width[:, k : k + 1]
        kernel = kernel * (y[1] - y[0]) / math.sqrt(2 * math.pi)
        top = value.max()
        value = top + alpha * np.log(kernel @ np.exp((value - top) / alpha))
    white = np.exp(-0.5 * y * y) / math.sqrt(2 * math.pi) * (y[1] - y[0])
    return float(white @ value)


@pytest.mark.parametrize("fields", [{"reward": "linear"}, {"reward": "modes", "prompts": 1}])
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_the_fixed_optimum_is_that_of_chains_from_white_noise(fields, level):
    """Not from p_T, which at a terminal level of 0.3 is another law: worth 0.17 on GM1."""
    task = spec_of(replace(EXACT, terminal_abar=level, **fields), 1).known.diffusion
    expected = mean_soft_value(task, 0.5)
    assert task.optimum(0.5).fixed.item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("kernel", ["ddpm", "ddim"])
def test_chains_without_exact_marginals_on_mixtures_have_no_gap(kernel):
    spec = spec_of(GaussMixDiffusion(data="gm1", kernel=kernel, variance="large", steps=3))
    policy = ResidualPolicy((4,))
    parameters = policy.start(spec, rng())
    found = measure(spec, policy, parameters, torch.arange(2), 0.1)
    assert "gap" not in found and found["path_kl"].eq(0).all()


def test_the_optimum_for_exact_marginals_may_lie_below_that_of_ddpm():
    task = spec_of(GaussMixDiffusion(data="gm1", variance="large"), 1).known.diffusion
    assert mean_soft_value(task, 0.1) > task.optimum(0.1).fixed.item() + 0.4
    assert not task.attained and spec_of(EXACT).known.diffusion.attained


def test_the_gap_of_the_best_affine_policy_is_the_price_of_fixed_deviations():
    """DDPM of few steps on LQG: the optimum of this chain, not of the exact kernel."""
    spec = spec_of(GaussMixDiffusion(data="lqg", reward="linear", variance="large", steps=3))
    plan = solve(affine_chain(spec.known.diffusion), 0.4)
    parameters = AffineParameters(
        *(part.expand(2, -1)[..., None, None] for part in (plan.slope, plan.offset))
    )
    found = measure(spec, AffinePolicy(), parameters, torch.arange(2), 0.4)
    # Linear rewards need no other deviation: the plan is the unrestricted optimum.
    torch.testing.assert_close(found["gap"], torch.zeros(2).double(), rtol=0, atol=1e-12)
    zero = tree_map(torch.zeros_like, parameters)
    assert (measure(spec, AffinePolicy(), zero, torch.arange(2), 0.4)["gap"] > 0.1).all()


def test_values_on_a_grid_are_refused_where_the_noise_falls_between_its_points():
    tilt = grid_tilt(gm1(), lambda x: x[..., 0], 0.5, Grid(8.0, 161, 1))
    x = torch.tensor([[[0.3], [-1.4]]], dtype=torch.float64)
    exact = linear_tilt(gm1(), torch.ones(1, 1, dtype=torch.float64), 0.5)
    torch.testing.assert_close(tilt.value(x, 0.99), exact.value(x, 0.99), rtol=0, atol=1e-4)
    for level in (0.999, 1.0):
        with pytest.raises(ValueError, match=r"too near 1 for a grid of 161 points a side"):
            tilt.value(x, level)


# ------------------------------------------------------------------------- steps


@pytest.mark.parametrize("problem", [SINGLE, MOTIF], ids=["short", "motif"])
def test_the_single_chain_reveals_one_position(problem):
    env = BatchedEnv(problem, 2)
    env.reset(seed=0)
    action = torch.full((2, problem.length), MASK)
    with pytest.raises(ValueError, match="reveals 0 positions"):
        env.step(action)
    action[:, :2] = 1
    with pytest.raises(ValueError, match="reveals 2 positions"):
        env.step(action)
    action[:, 0] = MASK
    env.step(action)


@pytest.mark.parametrize("problem", [SINGLE, MOTIF], ids=["short", "motif"])
def test_the_single_chain_starts_from_masks_only(problem):
    """From fewer it would have to reveal a position where none is left."""
    env = BatchedEnv(problem, 2)
    start = [MASK] * problem.length
    env.reset(seed=0, options={"x_T": start})
    with pytest.raises(ValueError, match=r"x_T = \[0, 4.* fewer masks than .*accepted: 4 every"):
        env.reset(seed=0, options={"x_T": [0, *start[1:]]})


@pytest.mark.parametrize("chain", ["parallel", "single"])
def test_tokens_outside_the_alphabet_start_no_chain(chain):
    env = BatchedEnv(replace(MOTIF, chain=chain), 2)
    with pytest.raises(ValueError, match=r"x_T has the token 7 outside \[0, 4\]"):
        env.reset(seed=0, options={"x_T": [7] + [MASK] * 5})


@pytest.mark.parametrize("problem", [PARALLEL, SINGLE, MOTIF], ids=["parallel", "single", "motif"])
def test_any_action_of_an_agent_leads_to_a_legal_state(problem):
    """Outside environments nothing is refused: known letters stay, and the chain ends in time."""
    n, random = 64, np.random.default_rng(0)
    instance = problem.instance(rng(n, "instance"))
    state = problem.reset(instance, rng(n, "reset"))
    changed = 0
    for time in range(problem.horizon, 0, -1):
        action = torch.tensor(random.integers(0, 5, (n, problem.length)))
        after = problem.transition(instance, state, action, rng(n, "env")).state
        known = state.point != MASK
        assert (after.point[known] == state.point[known]).all()
        if problem.chain == "single":
            assert ((after.point != state.point).sum(1) == 1).all()
        changed += int((after.point != action).any(1).sum())
        assert (after.time == time - 1).all()
        state = after
    assert (state.point < MASK).all() and changed > n


def test_an_action_that_is_not_finite_names_its_row():
    env = BatchedEnv(PLANE, 3)
    env.reset(seed=0)
    action = torch.zeros(3, 2)
    action[2, 1] = math.nan
    with pytest.raises(ValueError, match="action of row 2 holds a number that is not finite"):
        env.step(action)


@pytest.mark.parametrize("prompt", [[0, 0, 0], 0.7, [[0, 0]]])
def test_prompts_of_another_shape_or_kind_are_refused(prompt):
    with pytest.raises(ValueError, match=r"c = .*; accepted: an integer, or one a chain"):
        BatchedEnv(PLANE, 2).reset(seed=0, options={"c": prompt})


def test_a_terminal_level_is_of_the_linear_schedule():
    with pytest.raises(ValueError, match=r"terminal_abar = 0.3 with schedule = 'cosine'"):
        GaussMixDiffusion(schedule="cosine", terminal_abar=0.3)


# ------------------------------------------------------------------------- batches


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.float64)


def letters(value, *shape):
    return torch.full(shape, value)


NONE = torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("problem", "point", "prompt", "message"),
    [
        (PARALLEL, letters(7, 2, 3, 4), NONE, r"the action has the token 7 outside \[0, 3\]"),
        (PARALLEL, letters(MASK, 2, 3, 4), NONE, r"the action has the token 4 outside \[0, 3\]"),
        (PARALLEL, letters(1, 2, 3, 5), NONE, r"point has shape \(2, 3, 5\); accepted: \(2, 3, 4"),
        (PLANE, zeros(2, 3, 1), NONE, r"point has shape \(2, 3, 1\); accepted: \(2, 3, 2\)"),
        (PLANE, zeros(2, 4, 2), NONE, r"point has shape \(2, 4, 2\); accepted: \(2, 3, 2\)"),
        (PLANE, zeros(3, 3, 2), NONE[:1].expand(3, -1), r"prompt has shape .* accepted: \[2, B\]"),
        (PLANE, zeros(2, 3, 2), NONE + 3, r"prompt = \[\[3.*; accepted: 0 \.\. 0"),
    ],
)
def test_batches_that_are_no_samples_are_refused(problem, point, prompt, message):
    instance = problem.instance(rng(2, "instance"))
    state = problem.reset(instance, rng(2, "reset"))
    with pytest.raises(ValueError, match=message):
        problem.transition(instance, state, Samples(point, prompt), rng(2, "env"))


# ------------------------------------------------------------------------- devices


PROBLEMS = {
    "exact": EXACT,
    "plane": PLANE,
    "parallel": PARALLEL,
    "single": SINGLE,
    "long": MaskedSeq(length=12),
    "motif": MOTIF,
}


@pytest.fixture
def meta():
    """Replicas on a device whose tensors hold nothing: reading one, or one of the CPU, fails."""
    return torch.zeros(2, dtype=torch.int64, device="meta")


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_instances_lie_where_their_replicas_do(problem, meta):
    instance = problem.instance(Rng(0, "instance", meta))
    assert {leaf.device.type for leaf in tree_leaves(instance)} == {"meta"}


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_a_checked_step_reads_nothing_back_from_the_device(problem, meta):
    """The meta device refuses every such read; `trusted` spans the whole step."""
    instance = problem.instance(Rng(0, "instance", meta))
    with trusted():
        task = knowledge(problem.spec(instance))
        prompt = meta[:, None].expand(2, 3)
        x = task.start(Rng(0, "x", meta), "x", 3)
        following = task.step(x, 2, prompt, Rng(0, "x", meta), "step")
        found = task.log_probability(x, 2 + prompt, prompt, following)
        assert found.shape == (2, 3) and found.device.type == "meta"
    state = ChainState(x[:, 0], 2 + meta, meta)
    out = problem.transition(instance, state, following[:, 0], Rng(0, "env", meta))
    assert out.reward.shape == (2,)


def test_levels_of_times_stay_where_the_times_are(meta):
    with trusted():
        assert linear_schedule(3).at(meta + 1).device.type == "meta"


def test_trust_ends_with_its_block_and_may_be_nested():
    model = OneAtATime(spec_of(SINGLE).known.diffusion.denoiser)
    tokens = 0 * all_masked(rng(), 3, 4)
    with pytest.raises(RuntimeError, match="inside"), trusted():  # noqa: PT012
        with trusted():
            model.kernel(tokens)
        assert not checking(tokens)
        raise RuntimeError("inside")
    assert checking(tokens)
    with pytest.raises(ValueError, match="a chain without a mask"):
        model.kernel(tokens)


def test_a_proxy_is_measured_apart_from_the_true_reward():
    spec = spec_of(PARALLEL, 1)
    task = replace(spec.known.diffusion, proxy=lambda letters: letters[..., 0].sum(-1))
    policy = TablePolicy()
    found = measure(
        replace(spec, known=Known(diffusion=task)), policy, policy.start(spec, rng(1)), NONE[0], 0.5
    )
    # The number of As has mean 1 where each letter is as frequent; CG less half of AA .075.
    assert found["proxy_reward"].item() == pytest.approx(1)
    assert found["gold_reward"].item() != pytest.approx(1, abs=0.5)


def test_without_a_temperature_there_is_no_distance_to_the_best_law():
    spec = spec_of(PARALLEL, 2)
    for alpha in (0.0, 0.5):
        agent = DDPO(alpha=alpha, policy="table")
        found = agent.diagnostics(spec, agent.initial(spec, rng()))
        assert ({"tv", "gap"} <= set(found)) == (alpha > 0)
        assert ({"tv", "gap"} & set(found) == set()) == (alpha == 0)

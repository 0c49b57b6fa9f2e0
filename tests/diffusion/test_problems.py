"""Diffusion MDPs as Gymnasium environments and as scorers of batches."""

import gymnasium
import numpy as np
import pytest
import torch

import rlkit
from rlkit.agents.bandits.uniform import Uniform
from rlkit.diffusion.task import Chains, Noise, Samples, asked, knowledge
from rlkit.engine import BatchedEnv, Streams
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion
from rlkit.envs.diffusion.masked_seq import MaskedSeq
from rlkit.rollout import simulate

PROBLEMS = {
    "points": GaussMixDiffusion(data="gm2", steps=4),
    "exact": GaussMixDiffusion(data="gm1", steps=4, kernel="exact"),
    "flow": GaussMixDiffusion(data="ring", reward="modes", prompts=5, kernel="ddim", eta=0.0),
    "parallel": MaskedSeq(length=4, reward="pairs", steps=3),
    "single": MaskedSeq(length=4, reward="pairs", chain="single"),
}


@pytest.fixture(params=PROBLEMS, ids=str)
def problem(request):
    return PROBLEMS[request.param]


def task_of(problem, n=3):
    rng = Streams(0, torch.arange(n))
    instance = problem.instance(rng.at("instance", 0))
    return instance, knowledge(problem.spec(instance)), rng


def reference_action(task, env, state, rng, time):
    x, t, prompt = state.point[:, None], int(state.time[0]), state.prompt[:, None]
    return task.step(x, t, prompt, rng.at("act", time), "step")[:, 0]


def test_a_chain_of_reference_steps_ends_with_the_reward_of_its_sample(problem):
    env = BatchedEnv(problem, 3)
    observation, _ = env.reset(seed=0)
    task, rng = knowledge(env.spec_), Streams(7, torch.arange(3))
    assert set(observation) == {"x", "t", "c"}
    assert (observation["t"] == problem.horizon).all()
    for time in range(problem.horizon):
        state = env.state
        action = reference_action(task, env, state, rng, time)
        observation, reward, terminated, truncated, info = env.step(action)
        expected = task.log_probability(
            state.point[:, None], int(state.time[0]), state.prompt[:, None], action[:, None]
        )
        torch.testing.assert_close(info["feedback"].log_reference, expected[:, 0].float())
        last = time == problem.horizon - 1
        assert (terminated == last).all() and not truncated.any()
        if last:
            gold = task.gold(action[:, None], state.prompt[:, None])[:, 0]
            torch.testing.assert_close(reward, gold.float())
            assert (info["final_obs"]["t"] == 0).all()
            assert (observation["t"] == problem.horizon).all()  # the next chain
        else:
            assert (reward == 0).all()
            assert (observation["t"] == problem.horizon - 1 - time).all()


def test_gymnasium_finds_the_environments_and_resets_to_a_given_noise():
    rlkit  # registers  # noqa: B018
    env = gymnasium.make("rlkit/GaussMixDiffusion-v0", data="gm2", steps=3)
    observation, _ = env.reset(seed=1, options={"x_T": [0.5, -1.0], "c": 0})
    np.testing.assert_allclose(observation["x"], [0.5, -1.0])
    assert observation["t"] == 3 and env.observation_space.contains(observation)
    masked = gymnasium.make("rlkit/MaskedSeq-v0", length=4, steps=2)
    observation, info = masked.reset(seed=1)
    assert (observation["x"] == 4).all() and masked.observation_space.contains(observation)
    assert info["action_mask"].shape == (4, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x_T": [1.0, 2.0, 3.0]}, "x_T has shape"),
        ({"x_T": [1.0, float("nan")]}, "x_T holds a number that is not finite"),
        ({"c": 1}, r"c = 1; accepted: 0 \.\. 0"),
        ({"y": 1}, "options hold"),
    ],
)
def test_resets_that_cannot_be_are_refused(options, message):
    env = BatchedEnv(PROBLEMS["points"], 2)
    with pytest.raises(ValueError, match=message):
        env.reset(seed=0, options=options)


def test_a_start_outside_the_noise_of_masked_chains_is_refused():
    env = BatchedEnv(PROBLEMS["parallel"], 2)
    with pytest.raises(ValueError, match="x_T"):
        env.reset(seed=0, options={"x_T": [7, 4, 4, 4]})


def test_actions_that_are_no_successors_are_refused():
    env = BatchedEnv(PROBLEMS["parallel"], 2)
    env.reset(seed=0, options={"x_T": [0, 4, 4, 4]})
    with pytest.raises(ValueError, match="action"):
        env.step(torch.tensor([[1, 4, 4, 4], [0, 4, 4, 4]]))
    single = BatchedEnv(PROBLEMS["single"], 2)
    single.reset(seed=0)
    with pytest.raises(ValueError, match="reveals 2 positions"):
        single.step(torch.tensor([[1, 1, 4, 4], [0, 4, 4, 4]]))
    points = BatchedEnv(PROBLEMS["points"], 2)
    points.reset(seed=0)
    with pytest.raises(ValueError, match="not finite"):
        points.step(torch.tensor([[0.0, float("nan")], [0.0, 0.0]]))


def batch(task, rng, count=5):
    prompt = asked(task, rng.at("act", 0), count)
    point = task.data(rng.at("act", 0), "data", prompt)
    return Samples(point, prompt)


def test_batches_are_scored_one_by_one(problem):
    instance, task, rng = task_of(problem)
    state, samples = problem.reset(instance, rng.at("reset", 0)), batch(task, rng)
    out = problem.transition(instance, state, samples, rng.at("env", 0))
    expected = task.reward(samples.point, samples.prompt)
    torch.testing.assert_close(out.feedback.reward, expected)
    torch.testing.assert_close(out.reward, expected.mean(1).float())
    chain = torch.stack([samples.point] * (task.steps + 1), 1)
    chains = Chains(chain, samples.prompt, expected[:, None].expand(-1, task.steps, -1))
    again = problem.transition(instance, state, chains, rng.at("env", 0))
    torch.testing.assert_close(again.feedback.reward, expected)
    assert (problem.diagnostics(instance, state, chains)["queries"] == 5).all()


def test_noise_goes_through_the_frozen_sampler():
    problem = PROBLEMS["flow"]
    instance, task, rng = task_of(problem)
    state, prompt = problem.reset(instance, rng.at("reset", 0)), asked(task, rng.at("act", 0), 4)
    start = task.start(rng.at("act", 1), "x", 4)
    out = problem.transition(instance, state, Noise(start, prompt), rng.at("env", 0))
    x = start
    for t in range(task.steps, 0, -1):
        x = task.step(x, t, prompt, rng.at("env", 0), "unused")  # eta = 0: no draws
    torch.testing.assert_close(out.feedback.point, x)


def test_a_batch_with_nan_names_its_chain():
    problem = PROBLEMS["points"]
    instance, task, rng = task_of(problem)
    samples = batch(task, rng)
    point = samples.point.clone()
    point[1, 3, 0] = float("nan")
    state = problem.reset(instance, rng.at("reset", 0))
    with pytest.raises(ValueError, match="the action of chain 3 of replica 1 is not finite"):
        problem.transition(instance, state, samples._replace(point=point), rng.at("env", 0))


def test_the_front_is_the_best_trade_of_reward_against_divergence(problem):
    """alpha log Z is the maximum of reward minus alpha divergence, attained by p*_alpha."""
    _, task, _ = task_of(problem)
    points = [task.front(alpha) for alpha in (0.3, 0.6, 1.2)]
    for alpha in (0.3, 0.6, 1.2):
        best = task.optimum(alpha).log_z * alpha
        for kl, reward in points:
            assert (reward - alpha * kl <= best + 1e-9).all()
        kl, reward = task.front(alpha)
        torch.testing.assert_close((reward - alpha * kl).expand_as(best), best)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "x"}, "data"),
        ({"steps": 0}, "steps = 0"),
        ({"rho": 0.0}, "rho"),
        ({"terminal_abar": 1.0}, "terminal_abar"),
        ({"data": "ring"}, "accepted: 'modes'"),
        ({"reward": "modes", "prompts": 3}, "prompts = 3"),
        ({"eta": 1.5}, "eta"),
        ({"last_variance": 0.0}, "last_variance"),
        ({"data": "ring", "reward": "modes", "dimension": 4}, "dimension = 4"),
    ],
)
def test_fields_of_mixtures_outside_their_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        GaussMixDiffusion(**fields)


@pytest.mark.parametrize("fields", [{"length": 2}, {"reward": "x"}, {"chain": "x"}, {"steps": 0}])
def test_fields_of_sequences_outside_their_range_are_refused(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))} = "):
        MaskedSeq(**fields)


def test_a_learner_without_masks_moves_through_legal_states_only():
    """Outside environments an illegal action becomes a legal one, as for token MDPs."""
    for problem in (PROBLEMS["parallel"], PROBLEMS["single"]):
        history = simulate(problem, Uniform(), steps=4 * problem.horizon, replicas=16)
        assert history.metrics["queries"][-1].eq(4).all()

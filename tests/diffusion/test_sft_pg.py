"""SFT-PG: its gradient against closed forms, what must not move it, refusals, learning."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from rlkit import registry
from rlkit.agents.diffusion.sft_pg import SFTPG
from rlkit.alignment.training import gradient, start_training
from rlkit.diffusion import Kernel, linear_schedule, lqg
from rlkit.diffusion.critics import critic_loss, criticise, start_critic
from rlkit.diffusion.distances import quantiles
from rlkit.diffusion.fitting import Fit
from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.protocol import Box, Known, Spec, Transition
from rlkit.random import Rng
from rlkit.rollout import simulate

STEPS = 10


def rng(n, stream="test", step=0, seed=3):
    return Rng(seed, stream, torch.arange(n), step)


def gaussian_spec(n, kind="ddpm"):
    """LQG, a single Gaussian, under a kernel whose steps are Gaussians."""
    data = lqg(n)
    kernel = Kernel(linear_schedule(STEPS), kind)
    task = GaussianDiffusion(data, kernel, Fit(quantiles(data, 64)[..., None]))
    return Spec(Box((1,)), Box((1,)), STEPS, Known(diffusion=task))


def agent(**fields):
    return SFTPG(**{"critic": "exact", "policy": "affine", "batch": 64} | fields)


def batch_of(agent, spec, state, n, step=0):
    chains, _ = agent.act(spec, state, None, rng(n, "act", step))
    nothing = torch.zeros(n)
    return Transition(None, chains, nothing, nothing + 1, None, nothing > 0)


def policy_gradient(agent, spec, state, n):
    """Gradient of the objective in slope and offset of an affine policy, `[n, 2 T]`."""
    batch = batch_of(agent, spec, state, n)
    buffer = batch.action.chain[:, None]
    memory = state.memory._replace(buffer=buffer)
    data = spec.known.diffusion.data(rng(n, "learn"), "data", batch.action.prompt)
    found = agent.advantages(spec, memory, data)
    slopes = gradient(
        state.policy.parameters, lambda parameters: agent.objective(spec, found, parameters)
    )
    # The objective is a mean over T steps, the theorem a sum.
    return STEPS * torch.cat([slope.flatten(1) for slope in slopes], 1).double()


def exact_gradient(spec):
    """Gradient of W1 between x_0 under an affine policy and the data, both Gaussian, `[2 T]`."""
    task = spec.known.diffusion
    slope = torch.zeros(STEPS, dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(STEPS, dtype=torch.float64, requires_grad=True)
    mean, variance = torch.zeros(()).double(), torch.ones(()).double()
    points = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    for t in range(STEPS, 0, -1):
        denoised = lqg().denoise(points, task.kernel.schedule.at(t))
        step, deviation = task.kernel.gaussian(points, denoised, t)
        base, rise = step[0, 0, 0], step[0, 1, 0] - step[0, 0, 0]
        gain = rise + slope[t - 1]
        mean = base + gain * mean + offset[t - 1]
        variance = gain * gain * variance + float(deviation) ** 2
    shift, spread = mean - 1.0, torch.sqrt(variance) - math.sqrt(0.5)
    # W1 of Gaussians: E |shift + spread Z|, a folded normal.
    ratio = shift / spread.abs()
    folded = spread.abs() * math.sqrt(2 / math.pi) * torch.exp(-0.5 * ratio * ratio)
    distance = folded + shift * torch.erf(ratio / math.sqrt(2))
    return torch.cat(torch.autograd.grad(distance, (slope, offset))).numpy()


def z_scores(estimates, expected):
    error = estimates.std(0) / math.sqrt(len(estimates))
    return ((estimates.mean(0) - torch.as_tensor(expected)) / error).abs().max().item()


@pytest.mark.parametrize("baseline", ["none", "value"])
def test_the_gradient_is_that_of_w1(baseline):
    n, spec = 64, gaussian_spec(64)
    learner = agent(batch=1000, baseline=baseline)
    state = learner.initial(spec, rng(n, "initial"))
    if baseline == "value":
        # Any function of x_t leaves the expectation where it was.
        level = state.memory.value
        last = level.parameters[-1]
        noise = rng(n).normal("level", *last.weight.shape[1:])
        moved = (*level.parameters[:-1], last._replace(weight=noise.contiguous()))
        state = state._replace(memory=state.memory._replace(value=level._replace(parameters=moved)))
    estimates = policy_gradient(learner, spec, state, n)
    expected = exact_gradient(spec)
    assert np.abs(expected).max() > 0.05
    assert z_scores(estimates, expected) < 4.5


def test_the_expected_gradient_is_zero_where_the_sampler_is_the_data():
    # The exact kernel has the data as its law, up to the start: abar_T = 4e-5.
    n, spec = 64, gaussian_spec(64, "exact")
    learner = agent(batch=1000, baseline="none")
    state = learner.initial(spec, rng(n, "initial"))
    assert z_scores(policy_gradient(learner, spec, state, n), np.zeros(2 * STEPS)) < 4.5


@pytest.mark.parametrize("level", [0.0, 7.0])
def test_a_constant_critic_changes_nothing(level):
    n, spec = 2, gaussian_spec(2)
    learner = agent(critic="learned")
    state = learner.initial(spec, rng(n, "initial"))
    last = state.memory.critic.parameters[-1]
    constant = (*state.memory.critic.parameters[:-1], last._replace(bias=last.bias + level))
    state = state._replace(memory=state.memory._replace(critic=start_training(constant)))
    # A rate this small keeps the critic constant for the policy's step, which comes after its own.
    frozen = dataclasses.replace(learner, critic_rate=1e-300)
    after = frozen.learn(spec, state, batch_of(learner, spec, state, n), rng(n, "learn"))
    for before, now in zip(state.policy.parameters, after.policy.parameters, strict=True):
        assert torch.equal(before, now)


def test_the_objective_is_the_mean_of_advantage_times_log_probability():
    n, spec = 2, gaussian_spec(2)
    learner = agent(batch=5, baseline="none")
    state = learner.initial(spec, rng(n, "initial"))
    batch = batch_of(learner, spec, state, n)
    chains = batch.action
    memory = state.memory._replace(buffer=chains.chain[:, None])
    found = learner.advantages(spec, memory, chains.point)
    worth = learner.worth(spec, memory, chains.point, chains.point)
    expected = (worth[:, None] * chains.log_probability).mean((1, 2))
    loss = learner.objective(spec, found, state.policy.parameters)
    np.testing.assert_allclose(loss.numpy(), expected.numpy(), rtol=1e-10)


def test_the_policy_moves_every_n_critic_iterations_and_the_pile_is_cleared():
    n, spec = 2, gaussian_spec(2)
    learner = agent(batch=8, n_critic=3, n_generator=2, minibatch=50)
    state = learner.initial(spec, rng(n, "initial"))
    moved, piled = [], []
    for step in range(6):
        before = state.policy.parameters.offset
        state = learner.learn(spec, state, batch_of(learner, spec, state, n, step),
                              rng(n, "learn", step))  # fmt: skip
        moved.append(not torch.equal(before, state.policy.parameters.offset))
        piled.append(int((state.memory.buffer[0] != 0).flatten(1).any(1).sum()))
    assert moved == [False, False, True] * 2
    assert piled == [1, 2, 0] * 2
    assert state.policy.adam[0].steps.tolist() == [4, 4]


def test_the_critic_rises_on_samples_and_falls_on_data():
    n, spec = 2, gaussian_spec(2)
    learner = agent(critic="learned", rate=1e-9)
    state = learner.initial(spec, rng(n, "initial"))
    for step in range(30):
        batch = batch_of(learner, spec, state, n, step)
        shifted = batch.action._replace(chain=batch.action.chain - 3.0)
        state = learner.learn(spec, state, batch._replace(action=shifted), rng(n, "learn", step))
    critic = state.memory.critic.parameters
    data = spec.known.diffusion.data(rng(n), "data", torch.zeros(n, 64, dtype=torch.int64))
    assert bool(
        (criticise(critic, data - 3).mean(1) > criticise(critic, data).mean(1) + 0.01).all()
    )


def test_the_gradient_penalty_of_a_linear_critic_is_its_slope_less_one_squared():
    critic = start_critic(rng(1), 2, ())
    slope = torch.tensor([[[0.6], [0.8]]]) * 2.5
    critic = (critic[0]._replace(weight=slope),)
    sample, data = torch.ones(1, 4, 2).double(), torch.zeros(1, 4, 2).double()
    mix = torch.full((1, 4), 0.5)
    assert critic_loss(critic, sample, data, 0.0, mix).item() == pytest.approx(-3.5, rel=1e-6)
    found = critic_loss(critic, sample, data, 10.0, mix).item()
    assert found == pytest.approx(-3.5 + 10 * (2.5 - 1) ** 2, rel=1e-5)


def test_the_penalty_keeps_the_learned_critic_near_lipschitz():
    found = {}
    for penalty in (0.0, 10.0):
        n, spec = 2, gaussian_spec(2)
        learner = agent(critic="learned", rate=1e-9, critic_rate=1e-2, penalty=penalty)
        state = learner.initial(spec, rng(n, "initial"))
        for step in range(60):
            batch = batch_of(learner, spec, state, n, step)
            shifted = batch.action._replace(chain=batch.action.chain - 3.0)
            state = learner.learn(spec, state, batch._replace(action=shifted),
                                  rng(n, "learn", step))  # fmt: skip
        ends = torch.tensor([[[-2.0], [1.0]]]).expand(n, -1, -1)
        f = criticise(state.memory.critic.parameters, ends)
        found[penalty] = (f[:, 0] - f[:, 1]).div(3).mean().item()
    assert found[0.0] > 2
    assert 0.7 < found[10.0] < 1.3


def test_a_fixed_critic_of_the_last_chains_need_not_be_asked_again():
    n, spec = 2, gaussian_spec(2)
    learner = agent()
    state = learner.initial(spec, rng(n, "initial"))
    chains = batch_of(learner, spec, state, n).action
    memory = state.memory._replace(buffer=chains.chain[:, None])
    data = spec.known.diffusion.data(rng(n), "data", chains.prompt)
    worth = learner.worth(spec, memory, chains.point, data)
    told = learner.advantages(spec, memory, data, worth).advantage
    assert torch.equal(told, learner.advantages(spec, memory, data).advantage)


def test_records_are_judged_on_chains_of_their_own():
    learner = agent(look=4096, batch=8)
    found = simulate(environment(reference=256), dataclasses.replace(learner, policy="residual"), 1,
                     3, group=3).diagnostics  # fmt: skip
    chosen, judged = found["distance"][0], found["held_out"][0]
    assert not bool(torch.isclose(chosen, judged, rtol=1e-6).any())
    # Both estimate the distance of the frozen sampler, 0.29.
    assert judged.numpy() == pytest.approx(chosen.numpy(), abs=0.1)


def test_a_coupled_critic_stays_in_proportion_to_the_gap_it_finds():
    n, spec = 2, gaussian_spec(2)
    learner = agent(critic="learned", coupled=True, critic_hidden=(), critic_rate=0.01)
    state = learner.initial(spec, rng(n, "initial"))
    chains = batch_of(learner, spec, state, n).action
    chains = chains._replace(chain=1.5 * chains.chain - 0.5)
    data = spec.known.diffusion.data(rng(n), "data", chains.prompt)
    free = coupled = state.memory
    for step in range(1500):
        coupled = coupled._replace(
            critic=learner.criticised(spec, coupled, chains, data, rng(n, "learn", step))
        )
    alone = dataclasses.replace(learner, coupled=False)
    for step in range(600):
        free = free._replace(
            critic=alone.criticised(spec, free, chains, data, rng(n, "learn", step))
        )
    # V is 0, f = w x + b: E f(data) - E f(x) + E f(x)^2 is least at b = -w E x.
    x, y = chains.point[..., 0].numpy(), data[..., 0].numpy()
    best = (x.mean(1) - y.mean(1)) / (2 * x.var(1))
    weight, bias = (part[:, 0].numpy() for part in coupled.critic.parameters[0])
    assert weight[:, 0] == pytest.approx(best, rel=0.01)
    assert bias == pytest.approx(-best * x.mean(1), rel=0.01)
    assert bool((free.critic.parameters[0].weight.abs() > 4).all())


def environment(**fields):
    return registry.load("problem", "FewStepGauss-v0")(**fields)


@pytest.mark.parametrize(
    ("problem", "fields", "message"),
    [
        ({"kernel": "ddim"}, {}, "eta = 0 has no density"),
        ({"data": "gm2"}, {"critic": "exact"}, "critic = 'exact' in 2 dimensions"),
        ({}, {"minibatch": 9999}, "minibatch = 9999"),
    ],
)
def test_unsuitable_problems_are_refused(problem, fields, message):
    env = environment(**problem)
    spec = env.spec(env.instance(rng(2, "instance")))
    with pytest.raises(ValueError, match=message):
        SFTPG(**fields).initial(spec, rng(2, "initial"))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("MaskedSeq-v0", {}, "points in R"),
        ("GaussMixDiffusion-v0", {"data": "ring", "reward": "modes", "prompts": 3}, "prompts = 3"),
        ("GaussMixDiffusion-v0", {"kernel": "exact"}, "kernel = 'exact'"),
    ],
)
def test_other_families_are_refused(name, fields, message):
    env = registry.load("problem", name)(**fields)
    spec = env.spec(env.instance(rng(2, "instance")))
    with pytest.raises(ValueError, match=message):
        SFTPG().initial(spec, rng(2, "initial"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"critic": "wasserstein"}, "critic = 'wasserstein'"),
        ({"baseline": "mean"}, "baseline = 'mean'"),
        ({"penalty": -1.0}, "penalty = -1.0"),
        ({"n_critic": 0}, "n_critic = 0"),
        ({"gradient_clip": -0.1}, "gradient_clip = -0.1"),
        ({"coupled": True, "critic": "mmd"}, "coupled = True with critic = 'mmd'"),
        ({"coupled": True, "baseline": "none"}, "baseline = 'none'"),
        ({"batch": 1}, "batch = 1"),
        ({"critic_hidden": (0,)}, "critic_hidden = 0"),
        ({"rate": 0.0}, "rate = 0.0"),
        ({"look": 1}, "look = 1"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SFTPG(**fields)


def test_a_critic_that_is_not_finite_is_refused():
    n, spec = 2, gaussian_spec(2)
    learner = agent(critic="learned")
    state = learner.initial(spec, rng(n, "initial"))
    broken = tuple(
        layer._replace(bias=torch.full_like(layer.bias, math.nan))
        for layer in state.memory.critic.parameters
    )
    state = state._replace(memory=state.memory._replace(critic=start_training(broken)))
    with pytest.raises(ValueError, match="the critic of chain 0 of replica 0 is not finite"):
        learner.learn(spec, state, batch_of(learner, spec, state, n), rng(n, "learn"))


def test_no_agent_of_laws_rises_above_the_exact_front():
    """An affine chain on one Gaussian ends in a Gaussian, whose reward and divergence are known."""
    problem = registry.load("problem", "GaussMixDiffusion-v0")(data="lqg")
    for name, fields in (("sft_pg", {"critic": "mmd"}), ("mmd_ddm", {})):
        learner = registry.load("agent", name)(policy="affine", batch=32, rate=0.02, **fields)
        spec = problem.spec(problem.instance(rng(2, "instance")))
        state = learner.initial(spec, rng(2, "initial"))
        for step in range(25):
            batch = batch_of(learner, spec, state, 2, step)
            state = learner.learn(spec, state, batch, rng(2, "learn", step))
        mean, variance = ending(spec, state.policy.parameters)
        kl = 0.5 * (variance / 0.5 + (mean - 1) ** 2 / 0.5 - 1 - np.log(variance / 0.5))
        for alpha in (0.1, 0.5, 2.0):
            best = alpha * spec.known.diffusion.optimum(alpha).log_z.numpy()
            assert (mean - alpha * kl <= best + 1e-9).all()


def ending(spec, parameters):
    """Mean and variance of x_0 of affine chains, `[N]` each."""
    task = spec.known.diffusion
    n = len(parameters.offset)
    mean, variance = np.zeros(n), np.ones(n)
    points = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    for t in range(task.steps, 0, -1):
        step, deviation = task.kernel.gaussian(
            points, lqg().denoise(points, task.kernel.schedule.at(t)), t
        )
        gain = float(step[0, 1, 0] - step[0, 0, 0]) + parameters.slope[:, t - 1, 0, 0].numpy()
        offset = float(step[0, 0, 0]) + parameters.offset[:, t - 1, 0, 0].numpy()
        mean = offset + gain * mean
        variance = gain * gain * variance + float(deviation) ** 2
    return mean, variance


@pytest.mark.parametrize("critic", ["exact", "mmd"])
def test_few_steps_get_nearer_to_the_data(critic):
    learner = SFTPG(critic=critic, policy="spread", batch=256, rate=3e-3, look=2048,
                    hidden=(32, 32), critic_hidden=(32, 32))  # fmt: skip
    found = simulate(environment(reference=256), learner, 60, 2, group=2).diagnostics["distance"]
    assert bool((found[-1] < 0.6 * 0.289).all())


@pytest.mark.slow
def test_w1_of_gm1_falls_by_sixty_percent_in_every_seed():
    learner = SFTPG(critic="exact", policy="spread", batch=1024, look=16384)
    found = simulate(environment(), learner, 400, 3, group=3).diagnostics["distance"]
    assert bool((found[0] > 0.25).all())
    assert bool((found[-1] <= 0.4 * 0.289).all())

"""MMD-DDM: its gradient by differences, which chains it differentiates, refusals, learning."""

import numpy as np
import pytest
import torch

from rlkit import registry
from rlkit.agents.diffusion.mmd_ddm import MMDDDM
from rlkit.alignment.training import gradient
from rlkit.protocol import Transition
from rlkit.random import Rng
from rlkit.rollout import simulate


def rng(n, stream="test", step=0):
    return Rng(3, stream, torch.arange(n), step)


def environment(**fields):
    return registry.load("problem", "FewStepGauss-v0")(
        **{"kernel": "ddim", "reference": 256} | fields
    )


def prepared(agent, n=2, **fields):
    env = environment(**fields)
    spec = env.spec(env.instance(rng(n, "instance")))
    state = agent.initial(spec, rng(n, "initial"))
    chains, _ = agent.act(spec, state, None, rng(n, "act"))
    return spec, state, chains


def loss_at(agent, spec, chains, data, parameters):
    again = agent.model.write(spec, parameters, chains.prompt, rng(2, "learn"), chains.chain[:, -1])
    return agent.discrepancy(again.point, data)


@pytest.mark.parametrize("kernel", ["rbf", "polynomial"])
def test_the_gradient_through_all_steps_is_the_slope_of_the_loss(kernel):
    agent = MMDDDM(policy="affine", kernel=kernel, batch=8)
    spec, state, chains = prepared(agent)
    data = spec.known.diffusion.data(rng(2), "data", chains.prompt)
    slopes = gradient(state.policy.parameters, lambda p: loss_at(agent, spec, chains, data, p))
    assert len(slopes) == 2
    for leaf, slope in enumerate(slopes):
        for t in (0, 4):
            moved = []
            for sign in (1, -1):
                parts = [part.clone() for part in state.policy.parameters]
                parts[leaf][1, t] += sign * 1e-6
                moved.append(
                    loss_at(agent, spec, chains, data, type(state.policy.parameters)(*parts))[1]
                )
            expected = (moved[0] - moved[1]).item() / 2e-6
            assert slope[1, t].item() == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_deterministic_chains_are_written_again_from_the_same_noise():
    agent = MMDDDM(batch=8)
    spec, state, chains = prepared(agent)
    again = agent.model.write(
        spec, state.policy.parameters, chains.prompt, rng(2, "learn"), chains.chain[:, -1]
    )
    assert torch.equal(again.chain, chains.chain)


def test_degree_one_sees_only_the_mean():
    """Where samples and data have one mean, degree 1 has no slope along their spread."""
    agent = {degree: MMDDDM(kernel="polynomial", degree=degree, batch=400) for degree in (1, 3)}
    x = torch.tensor(np.random.default_rng(0).normal(size=(1, 400, 1)))
    x = x - x.mean(1, keepdim=True)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    slope = {}
    for degree, one in agent.items():
        (found,) = torch.autograd.grad(one.discrepancy(scale * x, x).sum(), scale)
        slope[degree] = abs(found.item())
    assert slope[1] < 0.01
    assert slope[3] > 1


def test_an_iteration_is_one_step_of_adam():
    agent = MMDDDM(batch=8, rate=0.01)
    spec, state, chains = prepared(agent)
    nothing = torch.zeros(2)
    batch = Transition(None, chains, nothing, nothing + 1, None, nothing > 0)
    after = agent.learn(spec, state, batch, rng(2, "learn"))
    assert after.iteration.tolist() == [1, 1]
    change = (after.policy.parameters.network[-1].bias - 0).abs()
    np.testing.assert_allclose(change.numpy(), 0.01, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel": "laplace"}, "kernel = 'laplace'"),
        ({"bandwidths": ()}, "number of bandwidths = 0"),
        ({"bandwidths": (0.0,)}, "bandwidths = 0.0"),
        ({"degree": 0}, "degree = 0"),
        ({"batch": 1}, "batch = 1"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MMDDDM(**fields)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("MaskedSeq-v0", {}, "points in R"),
        ("GaussMixDiffusion-v0", {"data": "ring", "reward": "modes", "prompts": 3}, "prompts = 3"),
    ],
)
def test_unsuitable_problems_are_refused(name, fields, message):
    env = registry.load("problem", name)(**fields)
    spec = env.spec(env.instance(rng(2, "instance")))
    with pytest.raises(ValueError, match=message):
        MMDDDM().initial(spec, rng(2, "initial"))


def test_few_steps_get_nearer_to_the_data():
    agent = MMDDDM(batch=128, rate=5e-3, look=2048, hidden=(32, 32))
    found = simulate(environment(), agent, 60, 2, group=2).diagnostics
    assert bool((found["distance"][-1] < 0.7 * 0.229).all())
    assert bool((found["mmd2"][-1] < 0.5 * 0.078).all())

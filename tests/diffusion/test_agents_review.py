"""What a second reading of the agents found: dtypes, devices, chains without a density."""

import math

import numpy as np
import pytest
import torch

from rlkit.agents.diffusion.ddpo import DDPO
from rlkit.agents.diffusion.dpok import DPOK
from rlkit.agents.diffusion.mmd_ddm import MMDDDM
from rlkit.agents.diffusion.refl import ReFL
from rlkit.agents.diffusion.smc import DiffusionSMC
from rlkit.agents.diffusion.svdd import SVDD
from rlkit.agents.diffusion.tds import TDS
from rlkit.diffusion.checks import trusted
from rlkit.diffusion.masked_policies import NetworkPolicy, TablePolicy
from rlkit.diffusion.measures import measure
from rlkit.diffusion.policies import AffinePolicy, ResidualPolicy, Steps, steps_of
from rlkit.diffusion.proximal import noise_factor
from rlkit.diffusion.riccati import affine_chain
from rlkit.diffusion.task import Chains
from rlkit.diffusion.value_models import ValueModel
from rlkit.diffusion.value_tables import mean_values
from rlkit.envs.diffusion.few_step import FewStepGauss
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion
from rlkit.envs.diffusion.masked_seq import MaskedSeq
from rlkit.envs.diffusion.motif_dna import MotifDNA
from rlkit.random import Rng

FLOW = GaussMixDiffusion(kernel="ddim", eta=0.0, steps=4)
SHORT = MaskedSeq(length=3, reward="pairs", steps=4)
LINE = GaussMixDiffusion(data="lqg", reward="quadratic")


def spec_of(problem, n=1):
    return problem.spec(problem.instance(Rng(0, "instance", torch.arange(n))))


def written(spec, policy, count, n=1, seed=1):
    """Reference parameters and `count` chains of them."""
    replica = torch.arange(n)
    parameters = policy.start(spec, Rng(0, "initial", replica))
    prompt = torch.zeros(n, count, dtype=torch.int64)
    return parameters, policy.write(spec, parameters, prompt, Rng(seed, "act", replica))


# ------------------------------------------------------------- chains without a density


@pytest.mark.parametrize("policy", [AffinePolicy(), ResidualPolicy((8,))])
def test_deterministic_chains_are_written_but_have_no_density(policy):
    spec = spec_of(FLOW)
    parameters, chains = written(spec, policy, 3)
    assert (chains.log_probability == 0).all()
    for ask in (policy.log_probability, policy.divergence):
        with pytest.raises(ValueError, match="eta = 0 has no density"):
            ask(spec, parameters, chains)


def test_deterministic_chains_are_measured_without_a_divergence_of_paths():
    spec, policy = spec_of(FLOW, 2), ResidualPolicy((8,))
    parameters, _ = written(spec, policy, 2, n=2)
    found = measure(spec, policy, parameters, torch.arange(2), 0.1)
    assert set(found) == {"gold_reward", "proxy_reward"}
    assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize(
    ("problem", "agent"),
    [
        (FLOW, ReFL(batch=4, hidden=(8,))),
        (FewStepGauss(kernel="ddim", steps=2, reference=32), MMDDDM(batch=4, hidden=(8,), look=16)),
    ],
)
def test_agents_for_deterministic_chains_run_and_report_finite_numbers(problem, agent, train):
    found = train(problem, agent, 2)[2]
    assert all(torch.isfinite(value).all() for value in found.values())


# ------------------------------------------------------------------------- precision


def test_divergence_of_a_masked_step_has_double_precision():
    """1 / t in float32 is off by up to 3e-8 of it: a loop in NumPy has all digits."""
    spec, policy = spec_of(SHORT), TablePolicy()
    _, chains = written(spec, policy, 50)
    random = np.random.default_rng(0)
    parameters = torch.tensor(random.normal(size=(1, 5**3, 3, 4)))
    steps = steps_of(chains)
    found = policy.assess(spec, parameters, steps).divergence[0]
    base = spec.known.diffusion.denoiser.conditional(steps.x)[0].numpy()
    for k, (tokens, t) in enumerate(zip(steps.x[0].tolist(), steps.t[0].tolist(), strict=True)):
        code = 25 * tokens[0] + 5 * tokens[1] + tokens[2]
        want = 0.0
        for i, token in enumerate(tokens):
            if token == 4:
                law = base[k, i] * np.exp(parameters[0, code, i].numpy())
                law /= law.sum()
                want += (law * np.log(law / base[k, i])).sum() / t
        assert float(found[k]) == pytest.approx(want, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    "agent",
    [DDPO(policy="conv", batch=4, pieces=2), DPOK(policy="conv", batch=4, replay=4, hidden=(8,))],
    ids=["ddpo", "dpok"],
)
def test_policy_gradients_train_a_single_precision_denoiser(agent, train):
    """Chains are stored in float64; the network's own laws are float32."""
    problem = MotifDNA(length=8, steps=4, width=6, training_steps=30, training_batch=16)
    before = train(problem, agent, 0)[1].policy.parameters
    _, state, found = train(problem, agent)
    leaves = torch.utils._pytree.tree_leaves
    pairs = zip(leaves(before), leaves(state.policy.parameters), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert float(found["path_kl"]) > 0


# ------------------------------------------------------------------------- penalties


@pytest.mark.parametrize(
    ("kernel", "eta"), [("ddpm", 1.0), ("ddim", 1.0), ("ddim", 0.5), ("ddim", 0.1)]
)
def test_penalty_of_dpok_is_the_distance_of_predicted_noises_for_any_eta(kernel, eta):
    task = spec_of(GaussMixDiffusion(data="gm2", kernel=kernel, eta=eta)).known.diffusion
    t = torch.arange(1, 11)[None]
    random = np.random.default_rng(0)
    x, guess, other = (torch.tensor(random.normal(size=(1, 10, 2))) for _ in range(3))
    abar = task.kernel.schedule.abar[t][..., None]
    noise = [(x - torch.sqrt(abar) * g) / torch.sqrt(1 - abar) for g in (guess, other)]
    want = ((noise[0] - noise[1]) ** 2).sum(-1)
    (one, deviation), (two, _) = (task.kernel.gaussian(x, g, t) for g in (guess, other))
    divergence = ((one - two) ** 2).sum(-1) / (2 * deviation**2)
    found = noise_factor(task, Steps(x, x, t, 0 * t)) * divergence
    torch.testing.assert_close(found, want, rtol=1e-9, atol=0)


# ------------------------------------------------------------------------- minibatches


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (DDPO(batch=2), r"pieces = 4.*\[1, 2\]"),
        (DPOK(batch=2), r"policy_steps = 5.*\[1, 2\]"),
    ],
)
def test_more_minibatches_than_steps_are_refused(agent, message):
    spec = spec_of(GaussMixDiffusion(steps=1))
    with pytest.raises(ValueError, match=message):
        agent.initial(spec, Rng(0, "initial", torch.arange(1)))


# ------------------------------------------------------------------- infinite temperature


@pytest.mark.parametrize("agent", [SVDD, DiffusionSMC, TDS])
def test_an_infinite_temperature_has_no_soft_value(agent):
    for fields in ({"value": "exact"}, {"value": "mc", "target": "soft"}):
        with pytest.raises(ValueError, match=r"alpha = inf .* has no soft value"):
            agent(alpha=math.inf, **fields)


@pytest.mark.parametrize("agent", [SVDD, DiffusionSMC, TDS])
def test_an_infinite_temperature_leaves_all_candidates_alike(agent, train):
    for fields in ({"value": "pm"}, {"value": "mc", "pretrain": 16, "updates": 2}):
        found = train(SHORT, agent(alpha=math.inf, batch=20, **fields))[2]
        assert float(found["ess"]) == pytest.approx(1, abs=1e-12)


# ------------------------------------------------------------------------- devices


@pytest.fixture
def meta():
    """Replicas on another device; values cannot be read back from it."""
    with trusted():
        yield torch.zeros(2, dtype=torch.int64, device="meta")


def devices(tree):
    return {leaf.device.type for leaf in torch.utils._pytree.tree_leaves(tree)}


@pytest.mark.parametrize(
    ("problem", "policy"),
    [
        (GaussMixDiffusion(), AffinePolicy()),
        (GaussMixDiffusion(), ResidualPolicy((8,))),
        (SHORT, TablePolicy()),
        (SHORT, NetworkPolicy((8,))),
    ],
)
def test_policies_lie_where_their_draws_do(problem, policy, meta):
    spec = problem.spec(problem.instance(Rng(0, "instance", meta)))
    parameters = policy.start(spec, Rng(0, "initial", meta))
    chains = policy.write(spec, parameters, meta[:, None].expand(2, 3), Rng(0, "act", meta))
    found = policy.assess(spec, parameters, steps_of(chains))
    assert devices((parameters, chains, found)) == {"meta"}


@pytest.mark.parametrize(
    ("problem", "call"),
    [
        (
            SHORT,
            lambda spec, at: NetworkPolicy((8,)).table(spec, NetworkPolicy((8,)).start(spec, at)),
        ),
        (SHORT, lambda spec, at: mean_values(spec.known.diffusion)),
        (SHORT, lambda spec, at: ValueModel("pm", 1.0).start(spec.known.diffusion, at)),
        (LINE, lambda spec, at: affine_chain(spec.known.diffusion).gain),
    ],
    ids=["laws", "mean values", "plugged values", "affine chain"],
)
def test_tables_lie_where_their_task_does(problem, call, meta):
    spec = problem.spec(problem.instance(Rng(0, "instance", meta)))
    assert devices(call(spec, Rng(0, "initial", meta))) == {"meta"}


def test_written_and_assessed_log_probabilities_agree_in_type_and_value():
    for problem, policy in ((SHORT, NetworkPolicy((8,))), (GaussMixDiffusion(), ResidualPolicy())):
        spec = spec_of(problem)
        parameters, chains = written(spec, policy, 5)
        again = policy.log_probability(spec, parameters, chains)
        assert isinstance(chains, Chains) and again.dtype == chains.log_probability.dtype
        torch.testing.assert_close(again, chains.log_probability, rtol=1e-9, atol=1e-9)

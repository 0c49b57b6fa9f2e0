"""DRAKES against exact laws and gradients, hand numbers and the exact front."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.integrate
import torch
from torch.utils._pytree import tree_leaves, tree_map

from rlkit.agents.diffusion.drakes import DRAKES
from rlkit.alignment.training import gradient
from rlkit.diffusion.conv_policy import ConvPolicy
from rlkit.diffusion.masked import MASK, MaskTable, one_hot, place, sequences
from rlkit.diffusion.masked_policies import NetworkPolicy, TablePolicy
from rlkit.diffusion.masked_task import MaskedDiffusion
from rlkit.diffusion.masked_tasks import preset, tilt
from rlkit.diffusion.measures import enumerate_chain, measure
from rlkit.diffusion.relaxed import relax
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion
from rlkit.envs.diffusion.masked_seq import MaskedSeq
from rlkit.envs.diffusion.motif_dna import MotifDNA
from rlkit.protocol import Composite, Discrete, Known, MultiDiscrete, Spec
from rlkit.random import Rng

M = MASK
SMALL_DNA = MotifDNA(length=8, steps=4, width=6, training_steps=30, training_batch=16)

COUNTED = dataclasses.replace(SMALL_DNA, reward="count", steps=6)


def rng(n=2, stream="test", step=0, replica=None):
    return Rng(3, stream, torch.arange(n) if replica is None else torch.tensor(replica), step)


def spec_of(problem, n=2, replica=None):
    return problem.spec(problem.instance(rng(n, "instance", replica=replica)))


def custom(task):
    """The specification of a task that no registered problem has."""
    parts = (
        ("x", MultiDiscrete(5, task.length)),
        ("t", Discrete(task.steps + 1)),
        ("c", Discrete(1)),
    )
    return Spec(Composite(parts), parts[0][1], task.steps, Known(diffusion=task))


def ms4(steps=8, n=1, judge=None):
    found = preset("MS4")
    table = found.denoiser.table()
    table = MaskTable(table.log_marginal.expand(n, -1), 4)
    return MaskedDiffusion(table, "parallel", judge or found.reward, steps, table=table)


def train(agent, spec, steps, n=2, replica=None):
    state = agent.initial(spec, rng(n, "initial", replica=replica))
    for step in range(steps):
        state = agent.learn(spec, state, None, rng(n, "learn", step, replica))
    return state


def slope(agent, spec, parameters, n=1, seed=0):
    """Gradient of the loss, all leaves flat."""
    draws = Rng(seed, "slope", torch.arange(n))
    zero = torch.zeros(n, dtype=torch.int64)
    found = gradient(parameters, lambda p: agent.loss(spec, p, zero, draws))
    return torch.cat([leaf.flatten(1) for leaf in found], 1)


def shaken(parameters, seed=1):
    random = np.random.default_rng(seed)
    return tree_map(
        lambda leaf: leaf + torch.tensor(0.3 * random.normal(size=leaf.shape)).to(leaf), parameters
    )


# ------------------------------------------------------------------------- the policies


@pytest.mark.parametrize("policy", [TablePolicy(), NetworkPolicy((16,)), ConvPolicy()], ids=str)
def test_relaxed_laws_of_hard_states_are_those_of_tokens(policy):
    conv = isinstance(policy, ConvPolicy)
    spec = spec_of(dataclasses.replace(SMALL_DNA, reward="smooth") if conv else MaskedSeq(length=4))
    parameters = shaken(policy.start(spec, rng(2, "policy")))
    random = np.random.default_rng(2)
    tokens = torch.tensor(random.integers(0, 5, size=(2, 50, 8 if conv else 4)))
    t = torch.tensor(random.integers(1, 4, size=(2, 50)))
    expected = policy.laws(spec, parameters, tokens, t)
    found = policy.relaxed_laws(spec, parameters, relax(tokens), t)
    masked = tokens == M
    torch.testing.assert_close(found[masked], expected[masked].to(found), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "kl"), [(1, 0.510656), (2, 0.595411), (4, 0.635816), (8, 0.655522)]
)
def test_path_divergence_of_the_tilted_policy_is_the_published_one(steps, kl):
    task = ms4(steps)
    tilted = task.tilt(0.5).table
    states = sequences(4, 5)[None]
    logits = tilted.conditional(states).log() - task.table.conditional(states).log()
    parameters = torch.where(states[..., None] == M, logits, 0.0)
    found = measure(custom(task), TablePolicy(), parameters, torch.arange(1), 0.5)
    assert found["path_kl"].item() == pytest.approx(kl, abs=6e-7)
    # The same from relaxed chains of the agent, hard in value.
    agent = DRAKES(policy="table", batch=4000, truncation=0)
    each = agent.relaxed(custom(task), parameters, rng(1)).divergence[0]
    assert abs(each.mean().item() - kl) < 4 * each.std().item() / math.sqrt(4000) + 1e-6


def test_a_fine_tuned_denoiser_starts_as_the_reference():
    spec = spec_of(SMALL_DNA)
    policy = ConvPolicy()
    parameters = policy.start(spec, rng(2, "policy"))
    assert all(len(leaf) == 2 for leaf in tree_leaves(parameters))
    chains = policy.write(spec, parameters, torch.zeros(2, 20, dtype=torch.int64), rng())
    assert policy.divergence(spec, parameters, chains).abs().max() < 1e-5
    moved = policy.divergence(spec, shaken(parameters), chains)
    assert (moved.sum(1) > 0.01).all()


# ------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("straight", [True, False])
def test_a_reward_that_is_the_same_for_all_sequences_has_no_gradient(straight):
    spec = custom(ms4(judge=lambda letters: letters.sum((-2, -1))))
    agent = DRAKES(alpha=0.0, policy="table", truncation=8, straight_through=straight)
    parameters = shaken(agent.model.start(spec, rng(1)))
    size = slope(agent, custom(ms4()), parameters).abs().max()
    assert slope(agent, spec, parameters).abs().max() < 1e-12 < 1e-3 < size
    # The released step gives it one.
    released = dataclasses.replace(agent, blend="released")
    assert slope(released, spec, parameters).abs().max() > 1e-3


def test_without_truncated_steps_only_the_divergence_has_a_gradient():
    agent = DRAKES(alpha=0.5, policy="table", truncation=0, batch=8)
    one, other = custom(ms4()), custom(ms4(judge=lambda letters: 100 * letters[..., 0].sum(-1)))
    parameters = shaken(agent.model.start(one, rng(1)))
    found = slope(agent, one, parameters)
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, slope(agent, other, parameters), rtol=0, atol=0)
    doubled = dataclasses.replace(agent, alpha=1.0)
    torch.testing.assert_close(slope(doubled, one, parameters), 2 * found)
    released = dataclasses.replace(agent, kl="released")
    assert (slope(released, one, parameters) == 0).all()


def one_letter(law):
    """A single letter in one step, paid 1 for the first."""
    table = MaskTable.of(torch.tensor([law], dtype=torch.float64))
    return MaskedDiffusion(table, "parallel", lambda letters: letters[..., 0, 0], 1, table=table)


def softened(law, temperature):
    """Derivative in the first logit of E y_1 for two letters, by quadrature over a logistic."""

    def expectation(shift):
        odds = math.log(law[0] / law[1]) + shift

        def integrand(noise):
            density = 0.25 / math.cosh(noise / 2) ** 2
            return density / (1 + math.exp(-(odds + noise) / temperature))

        return scipy.integrate.quad(integrand, -40, 40, epsabs=1e-12, limit=500)[0]

    return (expectation(1e-3) - expectation(-1e-3)) / 2e-3


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_gradient_of_one_letter_is_that_of_the_softened_one(temperature):
    law, n = (0.3, 0.7 - 2e-12, 1e-12, 1e-12), 400
    agent = DRAKES(
        alpha=0.0, policy="table", truncation=1, temperature=temperature, batch=100
    )  # fmt: skip
    task = one_letter(law)
    parameters = torch.zeros(n, 5, 1, 4, dtype=torch.float64)
    each = -slope(agent, custom(task), parameters, n).reshape(n, 5, 4)[:, M, 0]
    exact, biased = 0.3 * 0.7, softened(law, temperature)
    error = each.std().item() / math.sqrt(n)
    assert abs(each.mean().item() - biased) < 4 * error + 1e-6
    # The bias against the exact gradient p (1 - p) is small when cold and grows with temperature.
    bias = {0.2: (0.0, 0.005), 1.0: (0.03, 0.06), 5.0: (0.16, 0.19)}[temperature]
    assert bias[0] < exact - biased < bias[1]


def test_the_divergence_rises_linearly_with_its_warm_up():
    agent = DRAKES(warmup=4)
    found = [agent.share(torch.tensor([k])).item() for k in range(6)]
    assert found == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert DRAKES().share(torch.tensor([0])).item() == 1


def test_a_step_is_cut_at_the_norm_of_its_gradient():
    spec = custom(ms4(judge=lambda letters: 1e6 * letters[..., 0].sum(-1)))
    scaled = custom(ms4(judge=lambda letters: 1e3 * letters[..., 0].sum(-1)))
    agent = DRAKES(alpha=0.0, policy="table", batch=8)
    a, b = train(agent, spec, 1, 1), train(agent, scaled, 1, 1)
    norm = a.policy.adam[0].mean.norm().item()
    assert norm == pytest.approx(0.1, rel=1e-9)  # of the first moment, decay 0.9
    torch.testing.assert_close(a.policy.parameters, b.policy.parameters)


# ------------------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def learned():
    """Final states on MS5 by settings; iterations in brackets."""
    spec = spec_of(MaskedSeq(), 2)
    settings = {
        "path": (50, DRAKES(truncation=10, rate=0.01, alpha=0.3)),
        "free": (50, DRAKES(truncation=10, rate=0.01, alpha=0.0)),
        "start": (5, DRAKES(truncation=10, rate=0.01, alpha=0.0)),
        "released": (5, DRAKES(truncation=10, rate=0.01, kl="released")),
        "heavy": (20, DRAKES(truncation=10, rate=1e-3, alpha=1e4)),
    }
    runs = {name: (agent, train(agent, spec, k, 2)) for name, (k, agent) in settings.items()}
    return spec, runs


def found_of(learned, name):
    spec, runs = learned
    agent, state = runs[name]
    return measure(spec, agent.model, state.policy.parameters, state.replica, 0.3)


def test_reward_rises_and_the_divergence_holds_it_near_the_reference(learned):
    path, free = found_of(learned, "path"), found_of(learned, "free")
    assert (path["gold_reward"] > 0.249 + 0.1).all()
    assert (free["gold_reward"] > 0.9).all()
    assert (free["path_kl"] > path["path_kl"] + 1).all()
    assert (free["gap"] > path["gap"] + 0.3).all()


def test_the_released_divergence_of_hard_states_changes_nothing(learned):
    _, runs = learned
    free, released = runs["start"][1].policy.parameters, runs["released"][1].policy.parameters
    for one, other in zip(tree_leaves(free), tree_leaves(released), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_heavy_divergence_keeps_the_reference(learned):
    found = found_of(learned, "heavy")
    assert (found["path_kl"] < 1e-3).all()
    assert (found["gold_reward"] - 0.249).abs().max() < 0.01


def test_no_sampler_is_above_the_best_objective_or_the_exact_front(learned):
    spec, runs = learned
    task = spec.known.diffusion
    reward = task.rewards()
    for agent, state in runs.values():
        table = agent.sampler.table(spec, state.policy.parameters)
        assert (enumerate_chain(task, table, 0.1)["gap"] >= 0).all()
        found = enumerate_chain(task, table, 0.1)
        for alpha in np.geomspace(0.02, 20, 25):
            best = alpha * tilt(task.table, reward, float(alpha)).log_partition
            assert (found["gold_reward"] - alpha * found["kl"] <= best + 1e-12).all()


def test_long_sequences_of_a_fine_tuned_denoiser_learn():
    spec = spec_of(SMALL_DNA)
    agent = DRAKES(policy="conv", alpha=0.0, truncation=4, rate=0.01, batch=16)
    before, after = (
        agent.diagnostics(spec, train(agent, spec, steps))["gold_reward"] for steps in (0, 25)
    )
    assert (after > before + 0.15).all()


def test_a_replica_does_not_depend_on_its_company():
    for problem, options in ((MaskedSeq(), {}), (SMALL_DNA, {"policy": "conv", "truncation": 2})):
        agent = DRAKES(batch=4, **options)
        many = train(agent, spec_of(problem, 3), 3, 3)
        alone = train(agent, spec_of(problem, 1, [2]), 3, 1, [2])
        for all_rows, row in zip(tree_leaves(many), tree_leaves(alone), strict=True):
            torch.testing.assert_close(all_rows[2:], row)


def test_evaluations_count_forward_once_and_backward_twice():
    spec = spec_of(MaskedSeq())
    assert DRAKES(truncation=5, alpha=0.0).evaluations(spec) == 10 + 10 + 2 * 5
    assert DRAKES(truncation=5).evaluations(spec) == 10 + 10 + 2 * 10
    assert DRAKES(truncation=5, kl="none").evaluations(spec) == 10 + 10 + 2 * 5


def test_chains_that_are_scored_are_hard_and_fresh():
    spec = spec_of(MaskedSeq())
    agent = DRAKES(batch=6)
    chains, _ = agent.act(spec, agent.initial(spec, rng()), None, rng(2, "act"))
    assert chains.chain.shape == (2, 11, 6, 5) and chains.chain.dtype == torch.int64
    assert (chains.point < M).all() and (chains.chain[:, -1] == M).all()


# ------------------------------------------------------------------------- refusals


def detached(letters):
    return preset("MS4").reward(letters.detach())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": -1.0}, "alpha"),
        ({"temperature": 0.0}, "temperature"),
        ({"truncation": -1}, "truncation"),
        ({"kl": "reverse"}, "kl"),
        ({"blend": "soft"}, "blend"),
        ({"warmup": -1}, "warmup"),
        ({"gradient_clip": 0.0}, "gradient_clip"),
        ({"truncation": 0, "alpha": 0.0}, "truncation = 0"),
        ({"truncation": 0, "kl": "none"}, "truncation = 0"),
    ],
)
def test_fields_outside_their_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DRAKES(**fields)


@pytest.mark.parametrize(
    ("agent", "spec", "message"),
    [
        (DRAKES(), lambda: spec_of(GaussMixDiffusion()), "masked sequences"),
        (DRAKES(), lambda: spec_of(MaskedSeq(chain="single")), "chain = 'single'"),
        (DRAKES(truncation=9), lambda: custom(ms4()), "truncation = 9"),
        (DRAKES(), lambda: custom(ms4(judge=detached)), "breaks the graph"),
        (DRAKES(policy="conv"), lambda: spec_of(COUNTED), "breaks the graph"),
        (DRAKES(policy="affine"), lambda: spec_of(MaskedSeq()), "policy = 'affine'"),
        (DRAKES(policy="conv"), lambda: spec_of(MaskedSeq()), "policy = 'conv'"),
        (DRAKES(policy="table"), lambda: spec_of(MaskedSeq(length=12)), "policy = 'table'"),
    ],
)  # fmt: skip
def test_problems_that_do_not_suit_are_refused(agent, spec, message):
    with pytest.raises(ValueError, match=message):
        agent.initial(spec(), rng())


def test_enumeration_of_long_sequences_is_refused_with_what_to_do():
    task = spec_of(MaskedSeq(length=12)).known.diffusion
    for call in (lambda: task.tilt(0.1), lambda: task.front(0.1)):
        with pytest.raises(ValueError, match="MotifDNA"):
            call()


def test_a_markov_chain_of_any_length_is_trained():
    spec = spec_of(MaskedSeq(length=12, steps=6))
    agent = DRAKES(alpha=0.0, rate=0.01, batch=16)
    gain = [agent.diagnostics(spec, train(agent, spec, k))["gold_reward"] for k in (0, 20)]
    assert (gain[1] > gain[0] + 0.1).all()


def test_codes_of_the_table_are_those_of_tokens():
    task = ms4()
    state = torch.tensor([[[1, M, 0, 2]]])
    assert (state * place(4)).sum().item() == 1 * 125 + 4 * 25 + 0 * 5 + 2
    assert one_hot(state)[0, 0, 1].sum() == 0 and task.exact

"""Agents on token MDPs against the exact optimum, exact gradients and hand-made cases."""

import numpy as np
import pytest
import torch

from rlkit.agents.alignment.dpo import DPOAgent
from rlkit.agents.alignment.dr_po import DRPO
from rlkit.agents.alignment.ipo import IPOAgent
from rlkit.agents.alignment.kto import KTOAgent
from rlkit.agents.alignment.oreo import OREO
from rlkit.agents.alignment.ppo_rlhf import PPORLHF
from rlkit.agents.alignment.rloo import RLOO
from rlkit.agents.alignment.sft import SFT
from rlkit.agents.alignment.simpo import SimPOAgent
from rlkit.agents.alignment.slic import SLiCAgent
from rlkit.agents.bandits.uniform import Uniform
from rlkit.alignment.advantages import (
    generalised_advantage,
    group_normalised,
    leave_one_out,
    suffix_sum,
)
from rlkit.alignment.measures import estimate, measure
from rlkit.alignment.policies import TablePolicy
from rlkit.alignment.proximal import at_the_end, own_tokens, whiten
from rlkit.alignment.training import improve, start_training
from rlkit.envs.bandits.bernoulli import BernoulliBandit
from rlkit.envs.tokens.lock import TokenLock
from rlkit.envs.tokens.style import TokenStyle
from rlkit.envs.tokens.tree import TokenTree
from rlkit.optimizers import descend, start_adam
from rlkit.protocol import Transition
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run, simulate
from rlkit.tokens import evaluate, sequence_kl, soft_optimum
from rlkit.tokens.problem import Scores

AGENTS = [
    RLOO(), PPORLHF(), DRPO(), DPOAgent(), IPOAgent(), SLiCAgent(), SimPOAgent(), KTOAgent(), SFT(),
    OREO(),
]  # fmt: skip


def setting(problem, n=4, seed=1):
    instance = problem.instance(Rng(seed, "instance", torch.arange(n)))
    return problem.spec(instance), instance.replica.knowledge


def test_adam_takes_the_steps_of_torch():
    random = np.random.default_rng(0)
    target = torch.tensor(random.normal(size=(3, 5)))
    mine, state = torch.zeros(3, 5).double(), start_adam(torch.zeros(3, 5).double())
    theirs = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.Adam([theirs], 0.07)
    for _ in range(25):
        mine, state = descend(mine, mine - target, state, 0.07)
        solver.zero_grad()
        (0.5 * (theirs - target) ** 2).sum().backward()
        solver.step()
    torch.testing.assert_close(mine, theirs.detach())


def test_advantages_by_hand():
    reward = torch.tensor([[1.0, 2.0, 6.0, 0.0, 0.0, 3.0]], dtype=torch.float64)
    expected = [[1 - 4.0, 2 - 3.5, 6 - 1.5, -1.5, -1.5, 3.0]]
    torch.testing.assert_close(leave_one_out(reward, 3), torch.tensor(expected).double())
    scaled = group_normalised(reward, 3)
    torch.testing.assert_close(scaled[:, :3].sum(), torch.tensor(0.0).double())
    assert scaled[0, 2].item() == pytest.approx(3 / (np.std([1, 2, 6], ddof=1) + 1e-4))
    assert (group_normalised(torch.ones(2, 8), 4) == 0).all()


def test_generalised_advantages_telescope_at_lambda_one_and_are_errors_at_zero():
    random = np.random.default_rng(1)
    reward, value = torch.tensor(random.normal(size=(2, 3, 4, 5)))
    full = generalised_advantage(reward, value, 1.0, 1.0)
    torch.testing.assert_close(full, suffix_sum(reward) - value)
    short = generalised_advantage(reward, value, 0.9, 0.0)
    after = torch.cat([value[..., 1:], torch.zeros(3, 4, 1).double()], -1)
    torch.testing.assert_close(short, reward + 0.9 * after - value)


def test_whitening_is_per_replica_and_over_counted_tokens():
    random = np.random.default_rng(2)
    values = torch.tensor(random.normal(3, 2, size=(3, 4, 5)))
    mask = torch.tensor(random.uniform(size=(3, 4, 5)) < 0.7)
    white = whiten(values, mask.double())
    for replica in range(3):
        counted = white[replica][mask[replica]]
        assert counted.mean().item() == pytest.approx(0, abs=1e-12)
        assert counted.var(unbiased=False).item() == pytest.approx(1, abs=1e-6)


def test_the_reward_is_paid_at_the_last_token_before_the_padding():
    mask = torch.tensor([[[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]])
    paid = at_the_end(mask, torch.tensor([[2.0, 3.0]]))
    assert paid.tolist() == [[[0, 0, 2, 0, 0], [0, 0, 0, 0, 3]]]


def test_a_step_of_one_replica_does_not_depend_on_the_others():
    spec, _known = setting(TokenTree())
    start = TablePolicy().start(spec, None)
    weight = torch.tensor(np.random.default_rng(3).normal(size=start.shape))

    def loss(logits):
        return (weight[: len(logits)] * torch.log_softmax(logits, -1)).sum((1, 2, 3))

    all_of_them = improve(start_training(start), loss, 0.1).parameters
    alone = improve(start_training(start[:1]), loss, 0.1).parameters
    assert not torch.equal(alone, start[:1])
    assert torch.equal(all_of_them[:1], alone)


def test_estimates_of_a_policy_agree_with_what_is_exact():
    problem, n = TokenTree(), 2
    spec, known = setting(problem, n)
    rng = np.random.default_rng(8)
    policy = TablePolicy()
    logits = torch.tensor(rng.normal(size=known.automaton.reference.shape))
    exact = measure(spec, policy.table(logits), 0.4)
    # 40 batches of draws, one a replica number.
    many = [estimate(spec, policy, logits, torch.arange(n) + n * i, 0.4) for i in range(40)]
    for name, value in exact.items():
        seen = torch.stack([batch[name] for batch in many])
        error = seen.std(0) / 40**0.5
        assert ((seen.mean(0) - value).abs() <= 4 * error + 1e-12).all(), name


def exact_gradient(known, table, beta):
    """Of the objective in the logits, by automatic differentiation of the exact evaluation."""
    logits = table.clone().requires_grad_()
    objective = evaluate(known.automaton, known.rewards, torch.log_softmax(logits, -1), beta)
    return torch.autograd.grad(objective.objective.sum(), logits)[0]


def test_rloo_estimates_the_exact_gradient_without_bias():
    problem, beta, batch = TokenTree(), 0.5, 60_000
    spec, known = setting(problem, n=2)
    logits = known.automaton.reference + torch.tensor(
        np.random.default_rng(4).normal(size=known.automaton.reference.shape)
    )
    agent = RLOO(beta=beta, batch=batch, group=4)
    state = agent.initial(spec, Rng(5, "initial", torch.arange(2)))
    state = state._replace(policy=start_training(logits))
    written, _ = agent.act(spec, state, None, Rng(5, "act", torch.arange(2)))
    instance = problem.instance(Rng(1, "instance", torch.arange(2)))
    scored = problem.transition(instance, None, written, Rng(5, "env", torch.arange(2)))
    # The first step of Adam has the sign of the gradient; its mean holds a tenth of the gradient.
    after = agent.learn(
        spec, state, Transition(None, written, None, None, None, None, scored.feedback),
        Rng(5, "learn", torch.arange(2)),
    )  # fmt: skip
    sampled = -after.policy.adam[0].mean / 0.1
    exact = exact_gradient(known, logits, beta)
    assert (sampled - exact).abs().max() < 0.02 < exact.abs().max() / 5


def test_given_tokens_get_no_gradient():
    problem = TokenLock(5, 4, demonstrations=20)
    spec, _known = setting(problem)
    agent = DRPO(share=1.0, official_lengths=True, batch=64)
    rng = Rng(6, "act", torch.arange(4))
    state = agent.initial(spec, rng)
    written, _ = agent.act(spec, state, None, rng)
    assert (written.given >= 1).all()
    feedback = Scores(torch.rand(4, 64, generator=torch.Generator().manual_seed(0)).double(), ())
    after = agent.learn(
        spec, state, Transition(None, written, None, None, None, None, feedback), rng
    )
    assert torch.equal(after.policy.parameters[:, 0], state.policy.parameters[:, 0])
    assert not torch.equal(after.policy.parameters[:, 1:], state.policy.parameters[:, 1:])


def test_dr_po_without_resets_is_ppo_bit_for_bit():
    options = {"steps": 5, "replicas": 3, "group": 3}
    a = simulate(TokenLock(), DRPO(share=0.0), **options)
    b = simulate(TokenLock(), PPORLHF(), **options)
    for name in a.diagnostics:
        assert torch.equal(a.diagnostics[name], b.diagnostics[name])


def test_resets_continue_demonstrations():
    problem = TokenLock(6, 5, demonstrations=30)
    spec, known = setting(problem)
    agent, rng = DRPO(share=1.0, batch=200), Rng(7, "act", torch.arange(4))
    written, _ = agent.act(spec, agent.initial(spec, rng), None, rng)
    shown = known.data.demonstration.token
    begun = torch.arange(6) < written.given[..., None]
    for replica in range(4):
        same = (written.token[replica, :, None] == shown[replica]) | ~begun[replica, :, None]
        assert same.all(-1).any(-1).all()
    assert set(written.given.unique().tolist()) == set(range(6))


@pytest.mark.parametrize("official", [False, True])
def test_resets_leave_a_token_of_the_demonstration_to_write(official):
    problem = TokenStyle(stop=0.4, demonstrations=200)  # most responses end early
    spec, _known = setting(problem)
    agent, rng = (
        DRPO(share=1.0, batch=4000, official_lengths=official),
        Rng(7, "act", torch.arange(4)),
    )
    written, _ = agent.act(spec, agent.initial(spec, rng), None, rng)
    mask = agent.model.mask(spec, written)
    lone = (written.given == 1) & (mask.sum(-1) == 1)  # ends with the first token, all there is
    own = (mask * own_tokens(written)).sum(-1)
    assert ((own > 0) | (lone & official)).all()
    assert (written.given >= int(official)).all()
    tokens = torch.tensor([[3] * 4000] * 4)
    drawn = agent.lengths(tokens, rng.child("more"))
    share = torch.bincount(drawn.flatten(), minlength=4) / 16_000
    each = 1 / (3 - official)
    expected = torch.tensor([each * (not official), each, each, 0.0])
    assert (share - expected).abs().max() < 0.02


def test_oreo_is_at_rest_at_the_optimum_whatever_the_data():
    problem = TokenTree(3, 3, demonstrations=500)
    spec, known = setting(problem)
    beta = 0.3
    best = soft_optimum(known.automaton, known.rewards, beta)
    agent = OREO(beta=beta, alpha=0.0)
    start = agent.initial(spec, Rng(0, "initial", torch.arange(4)))
    state = start._replace(
        policy=start_training(best.policy), critic=start_training(best.value[:, :-1])
    )
    after = agent.learn(spec, state, None, Rng(0, "learn", torch.arange(4)))
    for trained in (after.policy, after.critic):
        assert trained.adam[0].mean.abs().max() < 1e-12


@pytest.mark.parametrize("step", [1, 2, None])
def test_oreo_finds_policy_and_value_of_the_optimum(step):
    problem = TokenTree(3, 2, reference_std=0.5, demonstrations=400)  # all responses occur
    beta = 0.5
    agent = OREO(beta=beta, alpha=0.0, step=step, batch=200, rate=0.03, value_rate=0.03)
    run = Run(problem, agent, 600, 4, seed=2, group=4)
    loop = Rollout(run)
    loop.advance(600)
    state, spec = loop.groups[0].carry.agent, loop.groups[0].spec
    known = spec.known.tokens
    best = soft_optimum(known.automaton, known.rewards, beta)
    table = agent.model.table(state.policy.parameters)
    assert sequence_kl(known.automaton, table, best.policy).max() < 1e-3
    value = best.value[:, 0, :1]
    assert (state.critic.parameters[:, 0, :1] - value).abs().max() < 1e-2


def test_response_level_equals_token_level_for_one_token():
    problem = TokenTree(1, 4)
    options = {"steps": 20, "replicas": 3, "group": 3}
    a = simulate(problem, OREO(step=1), **options)
    b = simulate(problem, OREO(step=None), **options)
    for name in a.diagnostics:
        assert torch.equal(a.diagnostics[name], b.diagnostics[name])


def test_policy_gradients_reach_the_soft_optimum_of_small_trees():
    options = {"steps": 300, "replicas": 8, "group": 8}
    problem = TokenTree(4, 3)
    loo = simulate(problem, RLOO(beta=0.5, batch=256), **options).diagnostics["gap"]
    ppo = simulate(problem, PPORLHF(beta=0.5, batch=256), **options).diagnostics["gap"]
    assert loo[0].mean() > 0.2
    assert loo[-1].mean() < 0.02
    assert ppo[-1].mean() < 0.02


def test_dpo_reaches_the_tilted_reference_on_many_comparisons():
    problem = TokenTree(2, 3, pairs=4000)
    history = simulate(problem, DPOAgent(beta=0.5, batch=512, rate=0.02), 300, 6, group=6)
    gap = history.diagnostics["gap"]
    assert gap[-1].mean() < 0.1 * gap[0].mean()


@pytest.mark.parametrize("agent", [DPOAgent(beta=0.5), KTOAgent(beta=0.5)], ids=["dpo", "kto"])
def test_ties_prefer_neither_response(agent):
    history = simulate(TokenTree(3, 3, pairs=500, equal=100.0), agent, 200, 4, group=4)
    taught = simulate(TokenTree(3, 3, pairs=500), agent, 200, 4, group=4)
    # Only the noise of a batch moves the policy.
    assert history.diagnostics["kl"][-1].max() < 0.1
    assert taught.diagnostics["kl"][-1].min() > 3 * history.diagnostics["kl"][-1].max()


def test_imitation_of_successes_finds_the_posterior_of_the_reference():
    problem = TokenLock(4, 3, competence=0.6, decoy=None, demonstrations=3000)
    agent = SFT(least=0.5, batch=1000, rate=0.05)
    loop = Rollout(Run(problem, agent, 200, 2, group=2))
    loop.advance(200)
    state, spec = loop.groups[0].carry.agent, loop.groups[0].spec
    known = spec.known.tokens
    table = agent.model.table(state.policy.parameters)
    reward = evaluate(known.automaton, known.rewards, table, 1.0).reward
    assert (reward > 0.97).all()


def test_no_agent_is_above_the_front():
    for problem in (TokenTree(3, 3), TokenLock(5, 4)):
        for agent in AGENTS:
            history = simulate(problem, agent, 12, 3, group=3)
            assert (history.diagnostics["gap"] >= -1e-9).all(), agent


def test_measured_gap_is_the_divergence_from_the_optimum():
    spec, known = setting(TokenTree())
    rng = np.random.default_rng(9)
    table = torch.log_softmax(torch.tensor(rng.normal(size=known.automaton.reference.shape)), -1)
    best = soft_optimum(known.automaton, known.rewards, 0.4).policy
    gap = measure(spec, table, 0.4)["gap"]
    torch.testing.assert_close(gap, 0.4 * sequence_kl(known.automaton, table, best))


@pytest.mark.parametrize("agent", AGENTS, ids=lambda a: type(a).__name__)
def test_problems_without_tokens_are_refused(agent):
    with pytest.raises(ValueError, match="tokens"):
        simulate(BernoulliBandit(), agent, 2, 2, group=2)


@pytest.mark.parametrize(
    ("agent", "problem", "message"),
    [
        (DPOAgent(), TokenTree(pairs=0), "pairs = 0"),
        (KTOAgent(), TokenTree(pairs=0), "pairs = 0"),
        (SFT(), TokenTree(demonstrations=0), "demonstrations = 0"),
        (OREO(), TokenTree(demonstrations=0), "demonstrations = 0"),
        (DRPO(), TokenTree(demonstrations=0), "without demonstrations to reset to"),
        (DRPO(official_lengths=True), TokenTree(1, 3), "two tokens or more"),
    ],
)
def test_agents_without_their_data_are_refused(agent, problem, message):
    with pytest.raises(ValueError, match=message):
        simulate(problem, agent, 2, 2, group=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RLOO(batch=6), "multiples of group = 4"),
        (lambda: RLOO(group=1), "group"),
        (lambda: RLOO(beta=0.0), "beta"),
        (lambda: DRPO(share=1.2), "share"),
        (lambda: PPORLHF(clip=1.0), "clip"),
        (lambda: OREO(alpha=-0.1), "alpha"),
        (lambda: DPOAgent(label_smoothing=0.5), "label_smoothing"),
        (lambda: SFT(rate=0.0), "rate"),
    ],
)
def test_coefficients_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_uniform_tokens_can_be_played_one_by_one():
    history = simulate(TokenLock(3, 4), Uniform(), 300, 200, group=200)
    assert 0 < history.metrics["reward"][-1].mean() < 100

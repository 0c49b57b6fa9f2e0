"""N-gram and transformer policies against enumeration, tables and a plain loop in numpy."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from rlkit.alignment.neural import NGramPolicy, TransformerCritic, TransformerPolicy
from rlkit.alignment.policies import TablePolicy
from rlkit.alignment.training import gradient, improve, start_training
from rlkit.envs.tokens.bigram import TokenBigram
from rlkit.envs.tokens.dfa import TokenDFA
from rlkit.envs.tokens.lock import TokenLock
from rlkit.envs.tokens.tree import TokenTree
from rlkit.random import Rng
from rlkit.tokens import Automaton, Rewards, generate, returns, soft_optimum, walk
from rlkit.tokens.problem import TokenProblem, TokenTask

SMALL = TransformerPolicy(16, 2, 2)
POLICIES = [NGramPolicy(1), NGramPolicy(2), SMALL]
TREE = TokenTree(horizon=3, vocabulary=3, prompts=4)  # a prompt is two words
LOCK = TokenLock(horizon=4, vocabulary=4)  # a prompt has no words
END, PAD = 2, 3


@dataclass(frozen=True)
class Ending(TokenProblem):
    """Tokens 0 and 1 go on, 2 ends the response, 3 pads it; two prompts of a word each, or none."""

    horizon: int = 4
    words: int = 1
    demonstrations: int = 0
    pairs: int = 0

    def tokens(self, rng):
        law = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64).log()
        shape = (rng.n, self.horizon, 2, 4)
        successor = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).expand(shape)
        half = torch.full((rng.n, 2), 0.5).double()
        automaton = Automaton(half, torch.zeros(rng.n, 2).long(), successor, law.expand(shape))
        rewards = Rewards(torch.zeros(()).double().expand(shape), torch.zeros(rng.n, 2).double())
        words = torch.tensor([[0], [1]]).expand(rng.n, 2, 1)[..., : self.words]
        return TokenTask(automaton, rewards, prompt_tokens=words)


PROBLEMS = [TREE, LOCK, Ending(), Ending(words=0), TokenDFA(horizon=4, states=5, vocabulary=3)]


def setting(problem, ids=(0, 1)):
    return problem.spec(problem.instance(Rng(1, "instance", torch.tensor(ids))))


def moved(policy, spec, ids=(0, 1), scale=0.5):
    """Parameters away from the start, the same for a replica in any company."""
    ids = torch.tensor(ids)
    leaves, structure = tree_flatten(policy.start(spec, Rng(1, "act", ids)))
    rng = Rng(1, "move", ids)
    return tree_unflatten(
        [
            (leaf + scale * rng.normal(f"leaf {i}", *leaf.shape[1:])).contiguous()
            for i, leaf in enumerate(leaves)
        ],
        structure,
    )


def every_response(spec):
    """All responses to all prompts, `[N, X V**H, H]`, by walking the automaton."""
    automaton = spec.known.tokens.automaton
    n, prompts = automaton.origin.shape
    tokens = list(itertools.product(range(automaton.vocabulary), repeat=automaton.horizon))
    token = torch.tensor(tokens).repeat(prompts, 1).expand(n, -1, -1)
    prompt = torch.arange(prompts).repeat_interleave(len(tokens)).expand(n, -1)
    return walk(automaton, prompt, token)


def asked(spec, batch):
    n, prompts = spec.known.tokens.automaton.origin.shape
    return (torch.arange(batch) % prompts).expand(n, -1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_policy_starts_as_the_reference(problem, policy):
    spec = setting(problem)
    start = policy.start(spec, Rng(1, "act", torch.arange(2)))
    prompt, rng = asked(spec, 64), Rng(5, "act", torch.arange(2))
    automaton = spec.known.tokens.automaton
    written = policy.write(spec, start, prompt, rng)
    expected = generate(automaton, automaton.reference, prompt, rng)
    for a, b in zip(written, expected, strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(
        policy.laws(spec, start, written), policy.reference_laws(spec, written), rtol=0, atol=1e-14
    )
    torch.testing.assert_close(
        policy.score(spec, start, written), policy.reference(spec, written), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_scores_of_all_responses_are_a_distribution(problem, policy):
    spec = setting(problem)
    parameters = moved(policy, spec)
    responses = every_response(spec)
    mass = policy.score(spec, parameters, responses).sum(-1).exp()
    prompts = spec.known.tokens.automaton.origin.shape[1]
    total = mass.reshape(2, prompts, -1).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    reference = policy.reference(spec, responses).sum(-1).exp()
    assert (mass - reference).abs().max() > 0.01
    assert (mass[reference == 0] == 0).all()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_written_tokens_are_those_of_a_plain_loop_over_the_laws(problem, policy):
    spec = setting(problem)
    parameters, rng = moved(policy, spec), Rng(3, "act", torch.arange(2))
    written = policy.write(spec, parameters, asked(spec, 40), rng)
    laws = policy.laws(spec, parameters, written).exp().numpy()
    u = rng.uniform("token", 40, problem.horizon, dtype=torch.float64).numpy()
    for place in np.ndindex(*written.token.shape):
        cdf = np.cumsum(laws[place])
        # Cache and full pass differ by roundings of single precision.
        if np.abs(u[place] - cdf).min() > 1e-5:
            assert written.token[place].item() == np.searchsorted(cdf, u[place], side="right")
    read = walk(spec.known.tokens.automaton, written.prompt, written.token)
    assert torch.equal(read.state, written.state)
    assert (written.given == 0).all()
    score = policy.score(spec, parameters, written)
    chosen = np.take_along_axis(laws, written.token.numpy()[..., None], -1)[..., 0]
    np.testing.assert_allclose(score.exp().numpy(), chosen, rtol=0, atol=1e-12)


@pytest.mark.parametrize("policy", POLICIES)
def test_outputs_while_writing_are_those_while_scoring(policy):
    for problem in PROBLEMS:
        spec = setting(problem)
        parameters = moved(policy, spec)
        written = policy.write(spec, parameters, asked(spec, 9), Rng(3, "act", torch.arange(2)))
        following = policy.writer(spec, parameters, written.prompt)
        tokens = list(written.token.unbind(-1))
        steps = torch.stack([following(tokens[:t]) for t in range(problem.horizon)], 2)
        whole = policy.outputs(spec, parameters, written)
        torch.testing.assert_close(steps, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("problem", [TREE, LOCK, Ending()])
def test_responses_are_written_as_often_as_scored(problem, policy):
    spec = setting(problem)
    parameters = moved(policy, spec)
    automaton = spec.known.tokens.automaton
    prompts, count = automaton.origin.shape[1], automaton.vocabulary**automaton.horizon
    law = policy.score(spec, parameters, every_response(spec)).sum(-1).exp()
    batch = 4000 * prompts
    written = policy.write(spec, parameters, asked(spec, batch), Rng(8, "act", torch.arange(2)))
    place = automaton.vocabulary ** torch.arange(automaton.horizon - 1, -1, -1)
    number = written.prompt * count + (written.token * place).sum(-1)
    for replica in range(2):
        seen = torch.bincount(number[replica], minlength=prompts * count).double()
        expected = 4000 * law[replica]
        assert (seen[law[replica] == 0] == 0).all()
        for prompt in range(prompts):
            own = slice(prompt * count, (prompt + 1) * count)
            a, b = seen[own].numpy(), expected[own].numpy()
            common = b >= 5
            a = np.append(a[common], a[~common].sum())
            b = np.append(b[common], b[~common].sum())
            a, b = a[b > 0], b[b > 0]
            assert stats.chisquare(a, b * a.sum() / b.sum()).pvalue > 1e-4


@pytest.mark.parametrize(
    ("policy", "words", "differ"),
    [(SMALL, 0, True), (SMALL, 1, True), (NGramPolicy(2), 0, False), (NGramPolicy(2), 1, True)],
)
def test_transformers_know_the_prompt_and_n_grams_its_words(policy, words, differ):
    spec = setting(Ending(words=words))
    parameters, responses = moved(policy, spec), every_response(spec)
    first, second = policy.outputs(spec, parameters, responses).chunk(2, 1)
    assert ((first[:, :, 0] - second[:, :, 0]).abs().max() > 0.01) == differ


@pytest.mark.parametrize("policy", POLICIES)
def test_padding_costs_nothing_and_illegal_tokens_are_never_written(policy):
    spec = setting(Ending())
    parameters = moved(policy, spec)
    written = policy.write(spec, parameters, asked(spec, 200), Rng(2, "act", torch.arange(2)))
    score = policy.score(spec, parameters, written)
    laws = policy.laws(spec, parameters, written)
    ended = (written.token == END).cumsum(-1) - (written.token == END).long() > 0
    assert ended.any()
    assert torch.equal(written.token == PAD, ended)
    assert (score[ended] == 0).all()
    assert (score[~ended] < 0).all()
    assert (laws[~ended][:, PAD] == -torch.inf).all()
    assert torch.equal(policy.mask(spec, written) == 0, ended)
    critic = TransformerCritic(16, 2, 2)
    values = critic.values(spec, moved(critic, spec), written)
    assert (values[ended] == 0).all()
    assert (values[~ended] != 0).all()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_given_tokens_are_kept_and_the_rest_is_written(problem, policy):
    spec = setting(problem)
    parameters, ids = moved(policy, spec), torch.arange(2)
    prompt = asked(spec, 60)
    shown = policy.write(spec, parameters, prompt, Rng(4, "shown", ids))
    given = (torch.arange(60) % (problem.horizon + 1)).expand(2, -1)
    rng = Rng(4, "act", ids)
    written = policy.write(spec, parameters, prompt, rng, shown.token, given)
    kept = torch.arange(problem.horizon) < given[..., None]
    assert torch.equal(written.token[kept], shown.token[kept])
    assert torch.equal(written.given, given)
    read = walk(spec.known.tokens.automaton, prompt, written.token)
    assert torch.equal(read.state, written.state)
    free = policy.write(spec, parameters, prompt, rng)
    assert torch.equal(written.token[given == 0], free.token[given == 0])
    # The first token written after a prefix is drawn from the law at the prefix, by its own number.
    laws = policy.laws(spec, parameters, shown).exp()
    cdf = torch.cumsum(laws, -1)
    u = rng.uniform("token", 60, problem.horizon, dtype=torch.float64)
    first = (torch.arange(problem.horizon) == given[..., None]) & (
        (cdf - u[..., None]).abs().amin(-1) > 1e-5
    )
    drawn = torch.searchsorted(cdf, u[..., None].contiguous(), right=True).squeeze(-1)
    assert torch.equal(written.token[first], drawn[first])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("problem", [TREE, LOCK])
def test_a_replica_does_the_same_in_any_company(problem, policy):
    def run(ids):
        spec, parameters = setting(problem, ids), moved(policy, setting(problem, ids), ids)
        prompt, rng = asked(spec, 30), Rng(3, "act", torch.tensor(ids))
        written = policy.write(spec, parameters, prompt, rng)
        slopes = gradient(parameters, lambda p: (policy.score(spec, p, written) ** 2).sum((1, 2)))
        return [*written, policy.score(spec, parameters, written), *slopes]

    together = run((3, 5, 8, 9))
    for place, replica in enumerate((3, 5, 8, 9)):
        for all_, one in zip(together, run((replica,)), strict=True):
            assert torch.equal(all_[place], one[0])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_an_n_gram_sees_the_last_tokens_of_prompt_and_response(order):
    spec = setting(TREE)
    responses, policy = every_response(spec), NGramPolicy(order)
    words = spec.known.tokens.prompt_tokens
    parameters = moved(policy, spec)
    got = policy.outputs(spec, parameters, responses)
    for r, b, t in itertools.product(range(2), range(0, 108, 7), range(3)):
        prompt, response = responses.prompt[r, b], responses.token[r, b]
        read = [0, 0, 0, *(words[r, prompt] + 1).tolist(), *(response[:t] + 1).tolist()]
        number = 0
        for mark in read[-order:]:
            number = 4 * number + mark
        assert torch.equal(got[r, b, t], parameters[r, number])


def policy_loss(policy, spec, responses):
    """Minus the probability of each response times its reward: an exact policy gradient."""
    paid = returns(spec.known.tokens.rewards, responses)

    def loss(parameters):
        return -(policy.score(spec, parameters, responses).sum(-1).exp() * paid).sum(1)

    return loss


def test_gradients_of_a_bigram_are_those_of_the_table_summed_over_time():
    spec = setting(TokenBigram(horizon=4, vocabulary=3, prompts=2))
    responses = every_response(spec)
    table, bigram = TablePolicy(), NGramPolicy(1)
    parameters = moved(bigram, spec)
    automaton = spec.known.tokens.automaton
    same = automaton.reference + parameters[:, None, 1:]  # the state is the last token
    (expected,) = gradient(same, policy_loss(table, spec, responses))
    (got,) = gradient(parameters, policy_loss(bigram, spec, responses))
    torch.testing.assert_close(got[:, 1:], expected.sum(1), rtol=0, atol=1e-12)
    assert expected.abs().max() > 0.01
    assert (got[:, 0] == 0).all()  # the mark before a prompt that has a word


def test_a_bigram_trained_on_one_token_is_the_table():
    spec = setting(TokenBigram(horizon=1, vocabulary=4, prompts=3))
    responses, trained = every_response(spec), []
    for policy in (TablePolicy(), NGramPolicy(1)):
        state = start_training(policy.start(spec, Rng(1, "act", torch.arange(2))))
        for _ in range(20):
            state = improve(state, policy_loss(policy, spec, responses), 0.1)
        trained.append(policy.laws(spec, state.parameters, responses))
    torch.testing.assert_close(trained[0], trained[1], rtol=0, atol=1e-9)
    start = TablePolicy().reference_laws(spec, responses)
    assert (trained[1] - start).abs().max() > 0.5


def test_a_transformer_trained_on_exact_expectations_reaches_the_soft_optimum():
    policy, beta = TransformerPolicy(32, 2, 4), 0.5
    spec = setting(TokenTree(horizon=2, vocabulary=3, prompts=2))
    known, responses = spec.known.tokens, every_response(spec)
    paid = returns(known.rewards, responses)
    reference = policy.reference(spec, responses).sum(-1)
    best = known.automaton.start * soft_optimum(known.automaton, known.rewards, beta).value[:, 0]

    def loss(parameters):
        score = policy.score(spec, parameters, responses).sum(-1)
        return -(score.exp() * (paid - beta * (score - reference))).sum(1) / 2

    state = start_training(policy.start(spec, Rng(1, "act", torch.arange(2))))
    gaps = []
    for _ in range(300):
        gaps.append(best.sum(1) + loss(state.parameters).detach())
        state = improve(state, loss, 0.004)
    assert (gaps[0] > 0.1).all()
    assert (gaps[-1] < 0.02 * gaps[0]).all()
    assert (torch.stack(gaps) > -1e-9).all()


@pytest.mark.parametrize("problem", [TREE, Ending()])
def test_critics_learn_a_value_of_prompt_and_last_token(problem):
    spec, critic = setting(problem), TransformerCritic(32, 1, 4)
    responses = every_response(spec)
    last = torch.nn.functional.pad(responses.token[..., :-1], (1, 0))
    target = responses.prompt[..., None] + 0.5 * last
    target = target * NGramPolicy(1).mask(spec, responses)

    def loss(parameters):
        return ((critic.values(spec, parameters, responses) - target) ** 2).mean((1, 2))

    state = start_training(critic.start(spec, Rng(1, "act", torch.arange(2))))
    first = loss(state.parameters)
    for _ in range(150):
        state = improve(state, loss, 0.005)
    assert (loss(state.parameters) < 0.01 * first).all()


@pytest.mark.parametrize("problem", [TokenLock(horizon=1), TokenTree(horizon=1), TREE, LOCK])
def test_networks_start_at_zero_and_every_leaf_learns(problem):
    spec, critic = setting(problem), TransformerCritic(16, 1, 2)
    responses, rng = every_response(spec), Rng(1, "act", torch.arange(2))
    assert (critic.values(spec, critic.start(spec, rng), responses) == 0).all()
    assert (SMALL.outputs(spec, SMALL.start(spec, rng), responses) == 0).all()
    slopes = gradient(moved(critic, spec), lambda p: critic.values(spec, p, responses).sum((1, 2)))
    assert all(slope.isfinite().all() for slope in slopes)
    still = [slope.shape for slope in slopes if (slope == 0).all()]
    # The last token is never read: with one token and no words in the prompt, none is.
    assert still == ([slopes[1].shape] if problem.horizon == 1 else [])


def test_policy_and_critic_start_from_different_draws():
    spec, rng = setting(LOCK), Rng(1, "act", torch.arange(2), used=set())
    policy = SMALL.start(spec, rng)
    critic = TransformerCritic(16, 2, 2).start(spec, rng)
    assert not torch.equal(policy.token, critic.token)
    assert all(
        leaf.shape[0] == 2 and leaf.isfinite().all() for leaf in tree_flatten((policy, critic))[0]
    )


def test_writing_changes_neither_parameters_nor_gradients_mode():
    spec = setting(LOCK)
    parameters = moved(SMALL, spec)
    before = tree_map(torch.clone, parameters)
    written = SMALL.write(spec, parameters, asked(spec, 8), Rng(0, "act", torch.arange(2)))
    for a, b in zip(tree_flatten(before)[0], tree_flatten(parameters)[0], strict=True):
        assert torch.equal(a, b)
    assert not written.token.is_inference()
    assert torch.is_grad_enabled()


def test_policies_without_a_table_say_so():
    with pytest.raises(ValueError, match="TransformerPolicy has no table"):
        SMALL.table(())

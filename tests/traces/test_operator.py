"""The operator as a matrix, against every history of a small MDP."""

import itertools

import numpy as np
import pytest
import torch

from rlkit.traces import (
    RULES,
    importance_ratios,
    infinity_norm,
    markov_Z,
    operator_Z,
    peng_values,
    spectral_radius,
)
from rlkit.traces.operator import credits, pair_kernel, pairs_taken
from rlkit.traces.rules import Rule

GAMMA, LAMBDA, STEPS = 0.9, 0.8, 7
CONTRACTING = ("importance_sampling", "tree_backup", "retrace", "recursive_retrace", "rbis")
MARKOV = ("importance_sampling", "q_lambda", "watkins", "tree_backup", "retrace")
DETERMINISTIC = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)


class Case:
    """A random MDP with two states, two actions and two policies."""

    def __init__(self, seed: int, simplex, states: int = 2, actions: int = 2) -> None:
        rng = np.random.default_rng(seed)
        self.kernel = simplex(rng, states, actions, states)
        self.behaviour, self.target = (simplex(rng, states, actions) for _ in range(2))
        self.reward, self.q = rng.normal(size=(2, states * actions))
        self.pairs = states * actions

    def chain(self, policy: np.ndarray) -> np.ndarray:
        product = np.einsum("sat,tb->satb", self.kernel, policy)
        return product.reshape(self.pairs, self.pairs)

    def value(self, policy: np.ndarray) -> np.ndarray:
        return np.linalg.solve(np.eye(self.pairs) - GAMMA * self.chain(policy), self.reward)

    def tables(self):
        return [torch.as_tensor(x) for x in (self.kernel, self.behaviour, self.target)]

    def operator(self, rule: str, lambda_: float = LAMBDA, steps: int = STEPS):
        out = operator_Z(*self.tables(), rule, lambda_, GAMMA, steps)
        return out.z.numpy(), out.b.numpy()

    def applied(self, b: np.ndarray, q: np.ndarray) -> np.ndarray:
        error = self.reward + GAMMA * self.chain(self.target) @ q - q
        return q + sum(GAMMA**t * b[t] @ error for t in range(len(b)))


@pytest.fixture
def case(simplex) -> Case:
    return Case(0, simplex)


@pytest.mark.parametrize("rule", RULES)
def test_credit_is_the_sum_over_every_history(rule, case, definition):
    chain, flat = case.chain(case.behaviour), case.target.reshape(-1)
    rho = flat / case.behaviour.reshape(-1)
    greedy = (case.target == case.target.max(1, keepdims=True)).reshape(-1)
    paths = np.array(list(itertools.product(range(4), repeat=STEPS)))
    beta = definition(rule, rho[paths], LAMBDA, flat[paths], greedy[paths])
    hops = [chain[paths[:, t - 1], paths[:, t]] for t in range(1, STEPS)]
    expected = np.zeros((STEPS + 1, 4, 4))
    expected[0] = np.eye(4)
    for t in range(1, STEPS + 1):
        probability = chain[:, paths[:, 0]] * np.prod(hops[: t - 1], axis=0)  # from each start
        # All paths with one beginning count it, 4 ** (STEPS - t) times.
        credit = probability * beta[:, t] / 4 ** (STEPS - t)
        for pair in range(4):
            expected[t, :, pair] = credit[:, paths[:, t - 1] == pair].sum(1)
    assert case.operator(rule)[1] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_the_operator_contracts_its_error_by_z_also_when_cut(rule, case):
    for steps in (0, 3, STEPS):
        z, b = case.operator(rule, steps=steps)
        truth = case.value(case.target)
        assert case.applied(b, case.q) - truth == pytest.approx(z @ (case.q - truth), abs=1e-12)
        assert case.applied(b, truth) == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_the_operator_is_affine(rule, case):
    _, b = case.operator(rule)
    p, q = case.q, case.q[::-1]
    mean = 0.3 * case.applied(b, p) + 0.7 * case.applied(b, q)
    assert case.applied(b, 0.3 * p + 0.7 * q) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_row_sums_of_z_are_given_by_the_expected_traces(rule, simplex):
    for seed in range(5):
        z, b = Case(seed, simplex).operator(rule)
        traces = sum(GAMMA**t * b[t].sum(1) for t in range(STEPS + 1))
        assert z.sum(1) == pytest.approx(1 - (1 - GAMMA) * traces, abs=1e-12)


@pytest.mark.parametrize("rule", CONTRACTING)
@pytest.mark.parametrize("lambda_", [0.3, 0.8, 1.0])
def test_rules_that_meet_the_condition_contract_in_the_maximum_norm(rule, lambda_, simplex):
    for seed in range(20):
        z, _ = Case(seed, simplex).operator(rule, lambda_)
        assert z.min() > -1e-13
        assert np.abs(z).sum(1).max() <= GAMMA + 1e-12


def test_watkins_rule_contracts_where_the_target_is_greedy(simplex):
    for seed in range(20):
        case = Case(seed, simplex)
        case.target = DETERMINISTIC.numpy()
        z, _ = case.operator("watkins", 1.0)
        assert z.min() > -1e-13 and np.abs(z).sum(1).max() <= GAMMA + 1e-12


@pytest.mark.parametrize("rule", MARKOV)
def test_markov_rules_have_closed_forms(rule, case):
    rho = case.target / case.behaviour
    factor = {
        "importance_sampling": rho,
        "q_lambda": np.ones((2, 2)),
        "watkins": (case.target == case.target.max(1, keepdims=True)).astype(float),
        "tree_backup": case.target,
        "retrace": np.minimum(1, rho),
    }[rule]
    traced = LAMBDA * case.chain(factor * case.behaviour)
    _, b = case.operator(rule)
    for t in range(STEPS + 1):
        assert b[t] == pytest.approx(np.linalg.matrix_power(traced, t), abs=1e-13)
    truth = case.value(case.target)
    error = case.reward + GAMMA * case.chain(case.target) @ case.q - case.q
    moved = case.q + np.linalg.solve(np.eye(4) - GAMMA * traced, error)
    z = markov_Z(*case.tables(), rule, LAMBDA, GAMMA).numpy()
    assert truth + z @ (case.q - truth) == pytest.approx(moved, abs=1e-12)


@pytest.mark.parametrize("rule", MARKOV)
def test_enumeration_tends_to_the_closed_form(rule, case):
    z, _ = case.operator(rule, 0.5, steps=25)
    limit = markov_Z(*case.tables(), rule, 0.5, GAMMA).numpy()
    # The tail is below (lambda gamma rho)^26 / (1 - lambda gamma), ratios count in expectation.
    assert z == pytest.approx(limit, abs=4 * 0.45**26 / 0.55)


def test_full_importance_sampling_returns_the_value_of_any_table(case):
    z, b = case.operator("importance_sampling", 1.0)
    chain = case.chain(case.target)
    for t in range(STEPS + 1):
        assert b[t] == pytest.approx(np.linalg.matrix_power(chain, t), abs=1e-13)
    assert z == pytest.approx(np.linalg.matrix_power(GAMMA * chain, STEPS + 1), abs=1e-12)
    limit = markov_Z(*case.tables(), "importance_sampling", 1.0, GAMMA)
    assert limit.abs().max() < 1e-13


@pytest.mark.parametrize("rule", RULES)
def test_lambda_zero_is_one_step_expected_sarsa(rule, case):
    z, b = case.operator(rule, 0.0)
    assert (b[1:] == 0).all()
    assert z == pytest.approx(GAMMA * case.chain(case.target), abs=1e-15)


@pytest.mark.parametrize("rule", [r for r in RULES if r not in ("tree_backup", "watkins")])
def test_on_policy_all_rules_that_weigh_by_ratios_are_the_lambda_return(rule, case):
    case.behaviour = case.target
    _, b = case.operator(rule)
    chain = case.chain(case.target)
    for t in range(STEPS + 1):
        expected = LAMBDA**t * np.linalg.matrix_power(chain, t)
        assert b[t] == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [("tree_backup", "retrace"), ("retrace", "rbis"), ("retrace", "recursive_retrace")],
)
def test_larger_traces_contract_more(smaller, larger, simplex):
    for seed in range(10):
        slow, fast = (Case(seed, simplex).operator(rule)[0].sum(1) for rule in (smaller, larger))
        assert (fast <= slow + 1e-13).all() and (fast < slow - 1e-4).any()


@pytest.mark.parametrize("rule", CONTRACTING)
def test_the_modulus_falls_with_lambda(rule, simplex):
    norms = [
        [np.abs(Case(seed, simplex).operator(rule, x)[0]).sum(1).max() for x in (0, 0.3, 0.6, 0.9)]
        for seed in range(5)
    ]
    assert (np.diff(norms, axis=1) < 0).all()


def test_truncated_importance_sampling_breaks_the_norm_but_converges():
    kernel = torch.ones(1, 2, 1)
    target = torch.tensor([[0.6, 0.4]], dtype=torch.float64)
    behaviour = torch.full((1, 2), 0.5, dtype=torch.float64)
    z, b = operator_Z(
        kernel, behaviour, target, "truncated_importance_sampling", 1.0, 0.94, steps=400
    )
    assert z.numpy() == pytest.approx(np.tile([0.70450527, -0.43562992], (2, 1)), abs=5e-9)
    assert float(infinity_norm(z)) == pytest.approx(1.14013518, abs=5e-9)
    assert float(spectral_radius(z)) == pytest.approx(0.269, abs=5e-4)
    for t in (1, 2, 5, 20):
        rows = [0.5 * expected_trace(t, q) for q in (0.6, 0.4)]
        assert b[t].numpy() == pytest.approx(np.tile(rows, (2, 1)), rel=1e-12)


def expected_trace(t: int, q: float) -> float:
    """`f_t(q)`: paths of t - 1 actions, k of them the first, then one of probability q."""
    from math import comb

    weights = (comb(t - 1, k) * min(0.5 ** (t - 1), 2 * q * 0.6**k * 0.4 ** (t - 1 - k))
               for k in range(t))  # fmt: skip
    return sum(weights)


def test_a_trace_that_revives_breaks_the_norm_on_policy_but_converges():
    # Not a rule of the registry: 1 whenever the last action was 0. The product of ratios, here 1,
    # stands in for the memory of a rule that forgets.
    revives = Rule(recursion=lambda past, taken: taken.greedy, products=True)
    half = torch.full((1, 2), 0.5, dtype=torch.float64)
    kernel = pair_kernel(torch.ones(1, 2, 1, dtype=torch.float64), half)
    taken = pairs_taken(half, half, "retrace")._replace(greedy=torch.tensor([1.0, 0.0]).double())
    b = credits(revives, 1.0, kernel, taken, 120)
    assert torch.equal(b[7], torch.tensor([[0.5, 0.0], [0.5, 0.0]]).double())
    gamma, identity = 2 / 3, torch.eye(2).double()
    z = identity + sum(gamma**t * b[t] for t in range(121)) @ (gamma * kernel - identity)
    assert z.numpy() == pytest.approx(np.tile([-1 / 3, 2 / 3], (2, 1)), abs=1e-12)
    assert float(infinity_norm(z)) == pytest.approx(1, abs=1e-12)
    assert float(spectral_radius(z)) == pytest.approx(1 / 3, abs=1e-12)


def test_uncorrected_q_lambda_diverges_where_the_others_contract():
    kernel = torch.zeros(2, 2, 2, dtype=torch.float64)
    for state, action, following in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)):
        kernel[state, action, following] = 1
    behaviour = torch.tensor([[0.05, 0.95]] * 2, dtype=torch.float64)
    z = markov_Z(kernel, behaviour, DETERMINISTIC, "q_lambda", 1.0, 0.95)
    assert float(spectral_radius(z)) == pytest.approx(12.45, abs=5e-3)
    for rule in ("retrace", "tree_backup", "watkins", "importance_sampling"):
        z = markov_Z(kernel, behaviour, DETERMINISTIC, rule, 1.0, 0.95)
        assert float(infinity_norm(z)) <= 0.95 + 1e-12
    for rule in ("rbis", "recursive_retrace"):
        z, _ = operator_Z(kernel, behaviour, DETERMINISTIC, rule, 1.0, 0.95, 60)
        assert float(infinity_norm(z)) <= 0.95 + 1e-12


def test_rules_without_a_norm_bound_still_converge_on_random_models(simplex):
    for rule in ("truncated_importance_sampling", "moretrace"):
        for seed in range(20):
            z, _ = Case(seed, simplex).operator(rule, 1.0, steps=12)
            assert np.abs(np.linalg.eigvals(z)).max() < 1


def test_three_states_and_actions_merge_histories_exactly(simplex):
    case = Case(1, simplex, 3, 3)
    for rule in ("rbis", "moretrace"):
        z, b = case.operator(rule, steps=4)
        truth = case.value(case.target)
        assert case.applied(b, case.q) - truth == pytest.approx(z @ (case.q - truth), abs=1e-12)


def test_peng_has_the_value_of_the_mixture_for_a_fixed_point(case):
    mixture = LAMBDA * case.behaviour + (1 - LAMBDA) * case.target
    q = case.value(mixture)
    kernel, behaviour, target = case.tables()
    reward = torch.as_tensor(case.reward).reshape(2, 2)

    def peng(values):
        table = torch.as_tensor(values).reshape(2, 2)
        return peng_values(kernel, reward, behaviour, target, LAMBDA, GAMMA, table)

    assert peng(q).reshape(-1).numpy() == pytest.approx(q, abs=1e-12)
    # The sum of rewards and later values along the behaviour, term by term.
    chain, after = case.chain(case.behaviour), case.chain(case.target)
    pay = case.reward + GAMMA * (1 - LAMBDA) * after @ case.q
    total = sum(np.linalg.matrix_power(GAMMA * LAMBDA * chain, t) @ pay for t in range(200))
    assert peng(case.q).reshape(-1).numpy() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_renaming_states_and_actions_renames_rows_and_columns(rule, case):
    z, _ = case.operator(rule)
    other = Case(0, lambda rng, *shape: np.ones(shape))
    for name in ("kernel", "behaviour", "target"):
        table = getattr(case, name)
        turned = table[::-1, ::-1, ::-1] if name == "kernel" else table[::-1, ::-1]
        setattr(other, name, turned.copy())
    assert other.operator(rule)[0] == pytest.approx(z[::-1, ::-1], abs=1e-13)


def test_closed_forms_take_batches(simplex):
    cases = [Case(seed, simplex) for seed in range(3)]
    tables = [torch.stack(x) for x in zip(*(c.tables() for c in cases), strict=True)]
    together = markov_Z(*tables, "retrace", 0.7, GAMMA)
    for one, z in zip(cases, together, strict=True):
        alone = markov_Z(*one.tables(), "retrace", 0.7, GAMMA)
        assert z.numpy() == pytest.approx(alone.numpy(), abs=1e-13)


def test_infinite_ratios_name_state_and_action():
    target = torch.tensor([[0.5, 0.5], [0.3, 0.7]], dtype=torch.float64)
    behaviour = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    for rule in RULES:
        if rule in ("tree_backup", "q_lambda"):
            assert torch.isfinite(importance_ratios(target, behaviour, rule)).all()
            continue
        with pytest.raises(ValueError, match=r"state 1, action 0 is 0 where the target is 0\.3"):
            importance_ratios(target, behaviour, rule)
    assert importance_ratios(DETERMINISTIC, DETERMINISTIC, "rbis").tolist() == [[1, 0], [1, 0]]


def test_bad_arguments_are_named(case):
    kernel, behaviour, target = case.tables()

    def build(*tables, rule="rbis", lambda_=0.5, gamma=0.9, steps=3):
        return operator_Z(*tables, rule, lambda_, gamma, steps)

    for name, tables in (
        ("behaviour of state 0", (kernel, behaviour * 2, target)),
        ("target of state 0", (kernel, behaviour, target - 1)),
        ("kernel of state 0, action 0", (kernel / 2, behaviour, target)),
    ):
        with pytest.raises(ValueError, match=name):
            build(*tables)
    for bad, message in (
        ({"rule": "peng"}, "rule = 'peng' unknown"),
        ({"lambda_": 1.5}, r"lambda_ = 1.5 outside \[0, 1\]"),
        ({"gamma": 1.0}, r"gamma = 1.0 outside \[0, 1\)"),
        ({"steps": -1}, "steps = -1"),
    ):
        with pytest.raises(ValueError, match=message):
            build(kernel, behaviour, target, **bad)
    with pytest.raises(ValueError, match="'rbis' looks at the history"):
        markov_Z(kernel, behaviour, target, "rbis", 0.5, 0.9)


def test_more_histories_than_memory_are_refused(simplex):
    case = Case(2, simplex, 5, 4)
    with pytest.raises(ValueError, match="histories"):
        case.operator("moretrace", steps=12)

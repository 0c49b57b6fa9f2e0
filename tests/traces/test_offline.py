"""Targets of recorded sequences."""

import numpy as np
import pytest
import torch

from rlkit.traces import (
    RULES,
    expected_sarsa_targets,
    lambda_returns,
    multistep_targets,
    n_step_targets,
)

GAMMA = 0.9


class Sequence:
    """Random rewards, values and ratios of `n` sequences of `length` steps, some terminal."""

    def __init__(self, n: int = 6, length: int = 8) -> None:
        rng = np.random.default_rng(0)
        self.reward, self.value, self.after = rng.normal(size=(3, n, length))
        self.discount = np.ones((n, length))
        self.discount[::2, -1] = 0  # every other one ends
        self.rho = np.exp(rng.normal(size=(n, length)))
        self.probability = rng.random((n, length))
        self.greedy = rng.random((n, length)) < 0.5

    @property
    def error(self) -> np.ndarray:
        return self.reward + GAMMA * self.discount * self.after - self.value

    def tensors(self, *names: str) -> list[torch.Tensor]:
        return [torch.as_tensor(getattr(self, name)) for name in names]

    def targets(self, rule: str, lambda_: float) -> np.ndarray:
        value, error, rho, *others = self.tensors("value", "error", "rho", "probability", "greedy")
        return multistep_targets(rule, value, error, rho, GAMMA, lambda_, *others).numpy()

    def returns(self, lambda_: float) -> np.ndarray:
        return lambda_returns(*self.tensors("reward", "discount", "after"), GAMMA, lambda_).numpy()


@pytest.fixture
def sequence() -> Sequence:
    return Sequence()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_targets_add_the_weighted_errors_that_follow(rule, lambda_, sequence, definition):
    expected = sequence.value.copy()
    for i in range(8):
        path = np.s_[:, i + 1 :]
        ways = (sequence.rho[path], lambda_, sequence.probability[path], sequence.greedy[path])
        beta = definition(rule, *ways)
        for t in range(8 - i):
            expected[:, i] += GAMMA**t * beta[:, t] * sequence.error[:, i + t]
    assert sequence.targets(rule, lambda_) == pytest.approx(expected, rel=1e-11)


def test_the_first_ratio_never_enters(sequence):
    before = sequence.targets("rbis", 0.8)
    sequence.rho[:, 0] *= 7
    assert (sequence.targets("rbis", 0.8) == before).all()


@pytest.mark.parametrize("rule", RULES)
def test_lambda_zero_is_expected_sarsa(rule, sequence):
    expected = expected_sarsa_targets(*sequence.tensors("reward", "discount", "after"), GAMMA)
    assert sequence.targets(rule, 0.0) == pytest.approx(expected.numpy(), abs=1e-14)
    assert sequence.returns(0.0) == pytest.approx(expected.numpy(), abs=1e-14)
    assert expected.numpy() == pytest.approx(sequence.error + sequence.value, abs=1e-14)


def test_the_lambda_return_is_a_sum_of_errors(sequence):
    # With state values, so that the value after a step is the value before the next one.
    sequence.value[:, 1:] = sequence.after[:, :-1]
    for lambda_ in (0.4, 1.0):
        sums = sequence.targets("q_lambda", lambda_)
        assert sequence.returns(lambda_) == pytest.approx(sums, rel=1e-12)


def test_lambda_returns_mix_n_step_returns(sequence):
    lambda_, given = 0.7, sequence.tensors("reward", "discount", "after")
    n_step = [n_step_targets(*given, GAMMA, n).numpy() for n in range(1, 9)]
    for i in range(8):
        left = 8 - i
        share = [(1 - lambda_) * lambda_ ** (n - 1) for n in range(1, left)] + [
            lambda_ ** (left - 1)
        ]
        mixed = sum(s * n_step[n][:, i] for n, s in enumerate(share))
        assert sequence.returns(lambda_)[:, i] == pytest.approx(mixed, rel=1e-12)


def test_n_step_targets_count_n_rewards_and_a_value(sequence):
    given = sequence.tensors("reward", "discount", "after")
    for n in (1, 3, 20):
        target = n_step_targets(*given, GAMMA, n).numpy()
        for i in range(8):
            end = min(i + n, 8)
            pays = sum(GAMMA ** (k - i) * sequence.reward[:, k] for k in range(i, end))
            rest = GAMMA ** (end - i) * sequence.discount[:, end - 1] * sequence.after[:, end - 1]
            assert target[:, i] == pytest.approx(pays + rest, rel=1e-12)


def test_nothing_is_bootstrapped_on_a_terminal_step(sequence):
    def targets():
        given = sequence.tensors("reward", "discount", "after")
        n_step = n_step_targets(*given, GAMMA, 3).numpy()
        return np.stack([sequence.targets("rbis", 0.8), sequence.returns(0.8), n_step])

    before = targets()
    sequence.after[:, -1] += 100
    assert (targets()[:, ::2] == before[:, ::2]).all()
    assert (targets()[:, 1::2] != before[:, 1::2]).any()


@pytest.mark.parametrize("rule", RULES)
def test_scaling_rewards_and_values_scales_targets(rule, sequence):
    before = sequence.targets(rule, 0.8)
    for name in ("reward", "value", "after"):
        setattr(sequence, name, 3 * getattr(sequence, name))
    assert sequence.targets(rule, 0.8) == pytest.approx(3 * before, rel=1e-13)


def test_bad_arguments_are_named(sequence):
    given = sequence.tensors("reward", "discount", "after")
    with pytest.raises(ValueError, match=r"n = 0 outside \[1, inf\)"):
        n_step_targets(*given, GAMMA, 0)
    with pytest.raises(ValueError, match=r"gamma = 1.2 outside \[0, 1\]"):
        lambda_returns(*given, 1.2, 0.5)
    with pytest.raises(ValueError, match=r"lambda_ = -1 outside \[0, 1\]"):
        lambda_returns(*given, 0.9, -1)
    with pytest.raises(ValueError, match="rule = 'r' unknown"):
        sequence.targets("r", 0.5)

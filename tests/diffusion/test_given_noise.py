"""Given noise: the samplers walk the chain that a plain loop walks with the same numbers."""

import itertools
import math

import numpy as np
import pytest
import torch

from rlkit.adapters import make_single
from rlkit.diffusion.explicit_noise import given_noise
from rlkit.diffusion.policies import AffinePolicy
from rlkit.diffusion.sampling import sample
from rlkit.diffusion.task import Noise, knowledge, run_reference
from rlkit.engine import BatchedEnv, Streams
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion
from rlkit.envs.diffusion.masked_seq import MaskedSeq
from rlkit.envs.diffusion.noise_prompt import NoisePrompt

N, B = 2, 3
ANGLE = 2 * np.pi * np.arange(5) / 5
LAWS = {  # weights, means, covariances
    "gm1": ([0.6, 0.4], [[-1.5], [1.5]], [[[0.1]], [[0.1]]]),
    "gm2": (
        [0.5, 0.3, 0.2],
        [[2, 0], [-1, 1.5], [-1, -2]],
        [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]], [[0.2, -0.05], [-0.05, 0.2]]],
    ),
    "ring": (
        [0.2] * 5,
        2 * np.stack([np.cos(ANGLE), np.sin(ANGLE)], 1),
        [0.0625 * np.eye(2)] * 5,
    ),
}


def denoise(x, abar, law):
    """Shares and means of x_0 given one x_t, component by component."""
    shares, means = [], []
    for w, m, c in zip(*map(np.asarray, law), strict=True):
        spread = abar * c + (1 - abar) * np.eye(len(m))
        off = x - math.sqrt(abar) * m
        solved = np.linalg.solve(spread, off)
        shares.append(w * math.exp(-0.5 * off @ solved) / math.sqrt(np.linalg.det(spread)))
        means.append(m + math.sqrt(abar) * c @ solved)
    shares = np.array(shares) / sum(shares)
    return shares, shares @ np.array(means)


def ddpm(x, t, abar, law, noise, last=1e-4):
    """Ho et al. (2020), equation 7 with beta-tilde."""
    now, then = abar[t], abar[t - 1]
    beta, a = 1 - now / then, now / then
    _, clean = denoise(x, now, law)
    mean = (math.sqrt(then) * beta * clean + math.sqrt(a) * (1 - then) * x) / (1 - now)
    variance = (1 - then) / (1 - now) * beta
    return mean + math.sqrt(variance if t > 1 else last) * noise


def ddim(x, t, abar, law, noise, eta, last=1e-4):
    """Song et al. (2021), equation 12."""
    now, then = abar[t], abar[t - 1]
    _, clean = denoise(x, now, law)
    told = (x - math.sqrt(now) * clean) / math.sqrt(1 - now)
    spread = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
    mean = math.sqrt(then) * clean + math.sqrt(max(0.0, 1 - then - spread)) * told
    return mean + (math.sqrt(spread) if t > 1 else eta * math.sqrt(last)) * noise


def set_up(problem, seed=0):
    rng = Streams(seed, torch.arange(N))
    task = knowledge(problem.spec(problem.instance(rng.at("instance", 0))))
    return task, rng.at("env", 0)


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


STEPS = {
    "gm2": ({"data": "gm2"}, ddpm, {}),
    "ring": ({"data": "ring", "reward": "modes"}, ddpm, {}),
    "ddim": ({"data": "gm2", "kernel": "ddim", "eta": 0.7}, ddim, {"eta": 0.7}),
}


@pytest.mark.parametrize("name", STEPS)
def test_points_walk_the_chain_of_a_plain_loop(name):
    fields, step, more = STEPS[name]
    problem = GaussMixDiffusion(steps=4, **fields)
    task, rng = set_up(problem)
    start, noise = numbers(1, N, B, 2), numbers(2, N, 4, B, 2)
    abar, law = problem.levels.abar.tolist(), LAWS[fields["data"]]
    known = np.zeros((N, 5, B, 2))
    for n, b in itertools.product(range(N), range(B)):
        known[n, 4, b] = start[n, b]
        for t in range(4, 0, -1):
            eps = noise[n, t - 1, b]
            known[n, t - 1, b] = step(known[n, t, b], t, abar, law, eps, **more)
    x, prompt = torch.tensor(start), torch.zeros(N, B, dtype=torch.int64)
    given = given_noise(rng, 4, torch.tensor(noise))
    np.testing.assert_allclose(run_reference(task, x, prompt, given), known[:, 0], atol=1e-9)
    chain = task.kernel.chain(task.law(prompt), x, given)
    np.testing.assert_allclose(chain.points, known, atol=1e-9)
    fast = sample(task.kernel, task.mixture, x, given)
    np.testing.assert_allclose(fast, known[:, 0], atol=1e-9)
    other = given_noise(rng, 4, torch.tensor(noise).flip(1))  # index 0 is of the last step
    assert (run_reference(task, x, prompt, other) - torch.tensor(known[:, 0])).abs().max() > 0.1


def test_the_exact_kernel_takes_noise_and_a_uniform_number_for_the_component():
    problem = GaussMixDiffusion(steps=3, kernel="exact")
    task, rng = set_up(problem)
    start, noise = numbers(1, N, B, 1), numbers(2, N, 3, B, 1)
    uniform = np.random.default_rng(3).uniform(size=(N, 3, B))
    abar, mean = problem.levels.abar.tolist(), LAWS["gm1"][1]
    known = np.zeros((N, B, 1))
    for n, b in itertools.product(range(N), range(B)):
        x = start[n, b, 0]
        for t in range(3, 0, -1):
            shares, _ = denoise(np.array([x]), abar[t], LAWS["gm1"])
            k = 0 if uniform[n, t - 1, b] < shares[0] else 1
            # Law of x_s given x_t and its component: product of N(sqrt(abar_s) m, C_s) with the
            # likelihood of x_t = sqrt(a) x_s + sqrt(1 - a) noise.
            a, m = abar[t] / abar[t - 1], math.sqrt(abar[t - 1]) * mean[k][0]
            spread = abar[t - 1] * 0.1 + 1 - abar[t - 1]
            precision = 1 / spread + a / (1 - a)
            middle = (m / spread + math.sqrt(a) * x / (1 - a)) / precision
            x = middle + noise[n, t - 1, b, 0] / math.sqrt(precision)
        known[n, b, 0] = x
    given = given_noise(rng, 3, torch.tensor(noise), torch.tensor(uniform))
    x = run_reference(task, torch.tensor(start), torch.zeros(N, B, dtype=torch.int64), given)
    np.testing.assert_allclose(x, known, atol=1e-9)
    alone = given_noise(rng, 3, torch.tensor(noise))
    with pytest.raises(ValueError, match="draw 'chain/3/component' is not given"):
        run_reference(task, torch.tensor(start), torch.zeros(N, B, dtype=torch.int64), alone)


P = np.array(
    [[0.4, 0.3, 0.2, 0.1], [0.1, 0.4, 0.3, 0.2], [0.2, 0.1, 0.4, 0.3], [0.3, 0.2, 0.1, 0.4]]
)
WORDS = list(itertools.product(range(4), repeat=3))
MASS = np.array([0.25 * P[a, b] * P[b, c] for a, b, c in WORDS])


def conditional(tokens):
    """Laws of three letters given the unmasked ones, by enumeration."""
    fits = [all(y in (4, x) for x, y in zip(word, tokens, strict=True)) for word in WORDS]
    mass = MASS * fits / (MASS * fits).sum()
    both = list(zip(mass, WORDS, strict=True))
    return [[sum(m for m, word in both if word[i] == a) for a in range(4)] for i in range(3)]


def pick(weights, u):
    edges = np.cumsum(weights)
    return int((edges <= u * edges[-1]).sum())


@pytest.mark.parametrize("chain", ["parallel", "single"])
def test_sequences_walk_the_chain_of_a_plain_loop(chain):
    problem = MaskedSeq(length=3, reward="pairs", chain=chain, steps=4)
    task, rng = set_up(problem)
    shape = (N, 4, B, 3) if chain == "parallel" else (N, 3, B)
    uniform = np.random.default_rng(4).uniform(size=shape)
    known = np.zeros((N, B, 3), dtype=int)
    for n, b in itertools.product(range(N), range(B)):
        tokens = [4, 4, 4]
        for t in range(shape[1], 0, -1):
            law, u, before = conditional(tokens), uniform[n, t - 1, b], list(tokens)
            if chain == "single":
                weights = [law[i][a] * (before[i] == 4) for i in range(3) for a in range(4)]
                place, letter = divmod(pick(weights, u), 4)
                tokens[place] = letter
                continue
            for i in range(3):
                if before[i] == 4:
                    tokens[i] = pick([p / t for p in law[i]] + [1 - 1 / t], u[i])
        known[n, b] = tokens
    given = given_noise(rng, shape[1], uniform=torch.tensor(uniform))
    start = task.start(rng, "start", B)
    assert run_reference(task, start, start[..., 0] * 0, given).tolist() == known.tolist()


NOISY = {"kernel": "ddim", "eta": 0.7, "steps": 4, "allow_uncontrollable": True, "phrasings": 0}


def prompted(x, noise, levels):
    abar = levels.abar.tolist()
    for t in range(4, 0, -1):
        x = ddim(x, t, abar, LAWS["ring"], noise[t - 1], 0.7)
    return x


def test_a_frozen_sampler_takes_the_noise_that_reset_was_given():
    env = make_single(problem="NoisePrompt-v0", **NOISY)
    noise, action = numbers(5, 4, 2), np.array([0.4, -0.8], dtype=np.float32)
    known = prompted(action.astype(float), noise, env.problem.levels)
    ends = []
    for options in ({"noise": noise}, {"noise": noise.tolist(), "c": 0}, None):
        env.reset(options=options)
        ends.append(env.step(action)[4]["feedback"].point[0])
    np.testing.assert_allclose(ends[:2], [known, known], atol=1e-9)
    assert np.abs(ends[2] - known).max() > 1e-3  # drawn again


def test_rows_have_noise_of_their_own_and_without_it_what_they_always_drew():
    problem, noise = NoisePrompt(**NOISY), torch.tensor(numbers(6, 3, 4, 2))
    action = torch.tensor([[0.1, 0.2], [-1.0, 0.5], [0.3, 0.3]])

    def point(options):
        env = BatchedEnv(problem, 3)
        env.reset(seed=2, options=options)
        return env.step(action)[4]["feedback"].point[:, 0]

    told = point({"noise": noise})
    for n in range(3):
        x = prompted(action[n].double().numpy(), noise[n].numpy(), problem.levels)
        np.testing.assert_allclose(told[n], x, atol=1e-9)
    streams = Streams(2, torch.arange(3))
    task = knowledge(problem.spec(problem.instance(streams.at("instance", 0))))
    drawn = run_reference(
        task,
        action.double()[:, None],
        torch.zeros(3, 1, dtype=torch.int64),
        streams.at("env", 0),
    )
    assert torch.equal(point(None), drawn[:, 0])
    env, some = BatchedEnv(problem, 3), torch.tensor([True, False, True])
    env.reset(seed=2)
    env.reset(options={"noise": noise, "reset_mask": some})
    part = env.step(action)[4]["feedback"].point[:, 0]
    torch.testing.assert_close(part[some], told[some])
    assert (part[1] - told[1]).abs().max() > 1e-3
    again = env.step(action)[4]["feedback"].point[:, 0]  # the next episode draws
    assert (again - told).abs().max(1).values.gt(1e-3).all()


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        (NOISY, {"noise": np.zeros((3, 2))}, r"noise has shape \(3, 2\); accepted: \(1, 4, 2\)"),
        (NOISY, {"noise": np.full((4, 2), np.nan)}, "noise holds a number that is not finite"),
        (NOISY, {"x_T": [0.0, 0.0]}, "x_T is the action here; accepted options: 'c', 'noise'"),
        (NOISY, {"eps": 0}, r"options hold \['eps'\]; accepted: 'c', 'noise'"),
        (NOISY, {"noise": "a"}, "noise = 'a'; accepted: real numbers"),
        (NOISY, {"noise": None}, "noise = None; accepted: real numbers"),
        (NOISY, {"noise": np.zeros((4, 2)) * 1j}, "accepted: real numbers"),
        (NOISY, {"c": "first"}, "c = 'first'; accepted: real numbers"),
        ({}, {"noise": np.zeros((20, 2))}, r"kernel = 'ddim' with eta = 0\.0; accepted: 'ddpm'"),
        (NOISY | {"kernel": "exact"}, {"noise": np.zeros((4, 2))}, "kernel = 'exact'"),
    ],
)
def test_noise_that_the_sampler_cannot_use_is_refused(fields, options, message):
    env = make_single(problem="NoisePrompt-v0", **fields)
    with pytest.raises(ValueError, match=message):
        env.reset(seed=0, options=options)


def test_a_batch_after_noise_for_single_starts_is_refused():
    problem = NoisePrompt(**NOISY)
    env = BatchedEnv(problem, 2)
    env.reset(seed=0, options={"noise": np.zeros((4, 2))})
    start = Noise(torch.zeros(2, 3, 2).double(), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="accepted: no batch after it"):
        problem.transition(env.instance, env.state, start, Streams(0, torch.arange(2)).at("env", 0))


def test_a_policy_and_the_reference_walk_on_the_same_noise():
    problem = GaussMixDiffusion(data="gm2", steps=4)
    task, rng = set_up(problem)
    noise = torch.tensor(numbers(8, N, 4, B, 2))
    start, prompt = torch.zeros(N, B, 2).double(), torch.zeros(N, B, dtype=torch.int64)
    spec = problem.spec(problem.instance(rng))
    policy = AffinePolicy()
    written = policy.write(
        spec, policy.start(spec, rng), prompt, given_noise(rng, 4, noise, noise[..., 0] % 1), start
    )
    reference = run_reference(task, start, prompt, given_noise(rng, 4, noise))
    torch.testing.assert_close(written.point, reference)


@pytest.mark.parametrize("name", ["GaussMixDiffusion-v0", "MaskedSeq-v0"])
def test_problems_that_draw_nothing_in_a_step_refuse_noise(name):
    with pytest.raises(ValueError, match=r"the action is x_\(t-1\) itself"):
        make_single(problem=name).reset(seed=0, options={"noise": np.zeros((10, 1))})


def test_given_noise_of_another_shape_is_refused():
    task, rng = set_up(GaussMixDiffusion(data="gm2", steps=4))
    noise = torch.zeros(N, 4, B, 2, dtype=torch.float64)
    for wrong in (noise[:1], noise[:, :3], noise[0]):
        with pytest.raises(ValueError, match=r"noise has shape .* N = 2, T = 4"):
            given_noise(rng, 4, wrong)
    with pytest.raises(ValueError, match=r"uniform has shape \(2, 3\)"):
        given_noise(rng, 4, uniform=torch.zeros(2, 3))
    start, prompt = torch.zeros(N, B + 1, 2).double(), torch.zeros(N, B + 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"draw 'chain/4/noise' has shape \(2, 3, 2\); accepted"):
        run_reference(task, start, prompt, given_noise(rng, 4, noise))
    for wrong, message in (
        ({"noise": noise + math.nan}, "noise holds a number that is not finite"),
        ({"noise": [[0.0]]}, r"noise is a list; accepted: a torch.Tensor"),
        ({"uniform": noise[..., 0] + 1}, r"uniform holds a number outside \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            given_noise(rng, 4, **wrong)
    with pytest.raises(ValueError, match="draw 'start' is not given"):
        task.start(given_noise(rng, 4, noise), "start", 1)

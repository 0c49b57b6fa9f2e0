"""Losses and advantages beside single functions of the authors' code, on the same tensors.

Needs clones (bare ones will do) in one folder, named by the environment variable RLKIT_PEERS:
jwhj/OREO, PRIME-RL/PRIME, Cornell-RL/drpo, thu-ml/Noise-Contrastive-Alignment,
princeton-nlp/SimPO and eric-mitchell/direct-preference-optimization. What is missing is skipped.
"""

import ast
import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlkit.agents.alignment.oreo import OREO
from rlkit.alignment.advantages import (
    clipped,
    generalised_advantage,
    leave_one_out,
    suffix_sum,
)
from rlkit.alignment.losses import CE, DPO, IPO, NCA, Labelled, Pairs, SimPO
from rlkit.alignment.process_rewards import discounted, released_leave_one_out
from rlkit.alignment.proximal import whiten

FOLDER = os.environ.get("RLKIT_PEERS", "")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not FOLDER, reason="RLKIT_PEERS names no folder of clones"),
    pytest.mark.filterwarnings("default"),  # the peers are not ours to mend
]
AGREE = {"rtol": 1e-10, "atol": 1e-7}  # the softplus of torch misses exp(-20) beyond 20
HEAD = """
import math
from types import SimpleNamespace
from typing import *
import numpy as np
import torch
from torch.nn import functional as F
import torch.nn as nn
verl = SimpleNamespace(DataProto=object)
verl_F = SimpleNamespace()
"""


@cache
def source(repository, commit, path):
    """A file of a clone at a commit."""
    command = ["git", "-C", str(Path(FOLDER) / repository), "show", f"{commit}:{path}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    if shown.returncode:
        pytest.skip(f"{repository} at {commit} is not in RLKIT_PEERS")
    return ast.parse(shown.stdout)


def loaded(folder, name, nodes):
    """A module of these statements alone, without the imports of their file."""
    file = folder / f"{name}.py"
    file.write_text(HEAD + "\n".join(ast.unparse(node) for node in nodes))
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules.pop(name, None)
    spec.loader.exec_module(module)
    return module


def functions(folder, place, *names):
    """Functions, or methods, of a file by name."""
    tree = source(*place)
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in names]
    assert {n.name for n in found} == set(names)
    for node in found:
        node.decorator_list = []
    return loaded(folder, f"{place[0].replace('-', '_')}_peer", found)


def scores(seed, size=50, grad=True):
    random = np.random.default_rng(seed)
    made = [-torch.tensor(random.gamma(3, 2, size)) for _ in range(4)]
    for score in made[:2]:
        score.requires_grad_(grad)
    return made


def same(ours, theirs, *inputs):
    """Values and gradients."""
    torch.testing.assert_close(ours, theirs, **AGREE)
    options = {"allow_unused": True, "retain_graph": True}
    mine, other = (torch.autograd.grad(x.sum(), inputs, **options) for x in (ours, theirs))
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, **AGREE)


def pairs(w, x, w_ref, x_ref):
    return Pairs(w, x, w_ref, x_ref, torch.ones_like(w), torch.ones_like(w))


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo_and_ipo_of_rafailov(beta, tmp_path):
    place = ("direct-preference-optimization", "f8b8c0f", "trainers.py")
    theirs = functions(tmp_path, place, "preference_loss").preference_loss
    data = scores(1)
    for smoothing in (0.0, 0.2):
        same(DPO(beta, smoothing)(pairs(*data)), theirs(*data, beta, smoothing)[0], *data[:2])
    same(IPO(beta)(pairs(*data)), theirs(*data, beta, ipo=True)[0], *data[:2])


@pytest.mark.parametrize("beta", [0.01, 0.5])
def test_nca_of_its_authors(beta, tmp_path):
    place = ("Noise-Contrastive-Alignment", "cbb9248", "preference_trainer.py")
    theirs = functions(tmp_path, place, "dpo_loss").dpo_loss
    data = scores(2)
    me = SimpleNamespace(beta=beta, loss_type="NCA")
    same(NCA(beta)(pairs(*data)), theirs(me, *data)[0], *data[:2])


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (10.0, 0.3)])
def test_simpo_of_its_authors(beta, gamma, tmp_path):
    theirs = functions(
        tmp_path, ("SimPO", "1b3e8f3", "scripts/simpo_trainer.py"), "simpo_loss"
    ).simpo_loss
    data = scores(3)
    me = SimpleNamespace(
        beta=beta, gamma_beta_ratio=gamma / beta, loss_type="sigmoid", label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    same(SimPO(beta, gamma)(pairs(*data)), theirs(me, *data[:2])[0], *data[:2])


# Responses of 4 to 9 tokens, padded on the right to 9.


def sequences(seed, batch=12, horizon=9, least=4):
    random = np.random.default_rng(seed)
    length = torch.tensor(random.integers(least, horizon + 1, batch))
    mask = (torch.arange(horizon) < length[:, None]).double()
    policy, reference, value = (torch.tensor(random.normal(size=(batch, horizon))) for _ in "prv")
    return SimpleNamespace(
        mask=mask, length=length, policy=policy.requires_grad_(), reference=reference,
        value=value.requires_grad_(), reward=torch.tensor(random.integers(0, 2, batch)).double(),
    )  # fmt: skip


@pytest.fixture
def oreo(tmp_path):
    place = ("OREO", "6f7403b", "openrlhf/trainer/pcl_trainer.py")
    return functions(tmp_path, place, "loss", "dro_loss", "traj_loss")


def their_trainer(**options):
    return SimpleNamespace(beta=0.07, importance_sampling_2=False, hinge_coeff=None, **options)


def their_mask(mask):
    """They drop a last position, that of the state after the last token."""
    return torch.cat([mask, torch.zeros_like(mask[:, :1])], 1)


def test_values_of_oreo_by_its_authors(oreo):
    data = sequences(4)
    ratio = (data.policy - data.reference) * data.mask
    summed = suffix_sum(ratio[None])[0]
    theirs, _ = oreo.loss(
        their_trainer(), summed, 0 * summed, data.value, their_mask(data.mask), data.reward
    )
    miss = (data.value - data.reward[:, None] + 0.07 * summed) * data.mask
    ours = ((miss * miss).sum(1) / data.mask.sum(1)).mean()
    same(ours, theirs, data.policy, data.value)


@pytest.mark.parametrize("step", [1, None])
def test_policies_of_oreo_by_its_authors(step, oreo):
    """Token level stops the gradient of later log-ratios; response level has one residual."""
    data = sequences(5)
    ratio = (data.policy - data.reference) * data.mask
    summed = suffix_sum(ratio[None])[0]
    mask, me = their_mask(data.mask), their_trainer(step_level=False)
    begins = torch.ones(1, 9) if step else (torch.arange(9) == 0).double()[None]
    later = OREO(beta=0.07, step=step).consistency(0.07 * ratio[None], begins)[0]
    residual = data.value - data.reward[:, None] + later
    if step is None:
        theirs, _ = oreo.traj_loss(me, summed, 0 * summed, data.value, mask, data.reward)
        ours = (residual[:, 0] ** 2).mean()
    else:
        theirs = oreo.dro_loss(
            me, ratio, 0 * ratio, summed, 0 * summed, data.value, mask, data.reward
        )
        ours = ((residual**2 * data.mask).sum(1) / data.mask.sum(1)).mean()
    same(ours, theirs, data.policy, data.value)


def test_steps_of_oreo_by_its_authors(oreo):
    data = sequences(6, least=9)
    ratio = data.policy - data.reference
    summed = suffix_sum(ratio[None])[0]
    starts = (torch.arange(9) % 3 == 0).double().expand(12, 9)
    theirs = oreo.dro_loss(
        their_trainer(step_level=True), ratio, 0 * ratio, summed, 0 * summed, data.value,
        their_mask(starts), data.reward,
    )  # fmt: skip
    later = OREO(beta=0.07, step=3).consistency(0.07 * ratio[None], starts[:1])[0]
    residual = data.value - data.reward[:, None] + later
    same(((residual**2 * starts).sum(1) / 3).mean(), theirs, data.policy, data.value)


@pytest.fixture
def prime(tmp_path):
    commit = "18ad596"
    tools = functions(
        tmp_path, ("PRIME", commit, "training/verl/utils/torch_functional.py"),
        "masked_mean", "masked_var", "masked_whiten",
    )  # fmt: skip
    module = functions(
        tmp_path, ("PRIME", commit, "training/verl/trainer/ppo/core_algos.py"),
        "compute_gae_advantage_return", "compute_rloo_returns", "compute_policy_loss",
        "compute_ce_dpo_loss_rm",
    )  # fmt: skip
    module.verl_F = tools
    return module


def test_outcome_loss_of_prime_by_its_authors(prime):
    data = sequences(7)
    ratio = data.policy - data.reference
    theirs = prime.compute_ce_dpo_loss_rm(ratio, data.reward, data.mask, 0.05)
    total = (ratio * data.mask).sum(1)
    ours = CE(0.05)(Labelled(total, 0 * total, data.reward, torch.zeros(())))
    same(ours.mean(), theirs, data.policy)


def test_leave_one_out_of_prime_by_its_authors(prime):
    data = sequences(8)
    paid = torch.zeros(12, 9, dtype=torch.float64)
    paid[torch.arange(12), data.length - 1] = data.reward
    full = torch.cat([torch.ones(12, 2), data.mask], 1).long()
    batch = {
        "responses": torch.zeros(12, 9), "prompts": torch.zeros(12, 2), "attention_mask": full,
        "gt_scores": paid,
    }  # fmt: skip
    settings = SimpleNamespace(verifier_gamma=1.0, reward_model_gamma=1.0)
    config = SimpleNamespace(algorithm=SimpleNamespace(adv_params=settings))
    _, returns = prime.compute_rloo_returns(
        SimpleNamespace(batch=batch), data.mask.long(), 4, config
    )
    ours = leave_one_out(data.reward[None], 4)[0][:, None] * data.mask
    torch.testing.assert_close(ours, returns * data.mask, **AGREE)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_token_leave_one_out_of_prime_by_its_authors(discount, prime):
    data = sequences(14)
    reward = torch.tensor(np.random.default_rng(15).normal(size=(12, 9)))
    settings = SimpleNamespace(verifier_gamma=1.0, reward_model_gamma=discount)
    config = SimpleNamespace(algorithm=SimpleNamespace(adv_params=settings))
    batch = {"responses": torch.zeros(12, 9), "rm_scores": reward}
    white, returns = prime.compute_rloo_returns(
        SimpleNamespace(batch=batch), data.mask.long(), 4, config
    )
    ours = discounted(released_leave_one_out(reward[None], data.mask[None], 4), discount)
    torch.testing.assert_close(ours[0], returns, **AGREE)
    shrink = (1 - 1 / data.mask.sum()).sqrt()  # theirs divides by n - 1
    mine = whiten(ours, data.mask[None])[0] * shrink
    torch.testing.assert_close(mine * data.mask, white * data.mask, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("discount", "trace"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0)])
def test_generalised_advantages_of_prime_by_its_authors(discount, trace, prime):
    data = sequences(9, least=9)
    reward = torch.tensor(np.random.default_rng(10).normal(size=(12, 9)))
    value = data.value.detach()
    white, returns = prime.compute_gae_advantage_return(reward, value, data.mask, discount, trace)
    ours = generalised_advantage(reward[None], value[None], discount, trace)
    torch.testing.assert_close(ours[0] + value, returns, **AGREE)
    # Theirs divides by n - 1.
    shrink = (1 - 1 / data.mask.sum()).sqrt()
    torch.testing.assert_close(
        whiten(ours, data.mask[None])[0] * shrink, white, rtol=1e-7, atol=1e-7
    )


def test_clipped_surrogate_of_prime_by_its_authors(prime):
    data = sequences(11)
    advantage = torch.tensor(np.random.default_rng(12).normal(size=(12, 9)))
    theirs, share, _ = prime.compute_policy_loss(
        data.reference, data.policy, advantage, data.mask, 0.2
    )
    each = clipped(data.policy - data.reference, advantage, 0.2)
    same((each * data.mask).sum() / data.mask.sum(), theirs, data.policy)
    assert 0.1 < share < 0.9


def test_advantages_of_dr_po_by_its_authors(tmp_path):
    """The loop stands inside their training script; whitening there divides by n, as ours."""
    place = ("drpo", "bd825df", "src/tldr/drpo.py")
    loops = [
        node for node in ast.walk(source(*place))
        if isinstance(node, ast.For) and "lastgaelam" in ast.unparse(node)
        and not any(isinstance(child, ast.For) for child in ast.walk(node) if child is not node)
    ]  # fmt: skip
    assert len(loops) == 1
    begin = ast.parse("lastgaelam = 0; advantages_reversed = []").body
    finish = ast.parse("return torch.stack(advantages_reversed[::-1], dim=1)").body
    wrapped = ast.parse("def gae(rewards, values, args, gen_length): pass").body[0]
    wrapped.body = [*begin, loops[0], *finish]
    white = [
        n for n in source(*place).body if isinstance(n, ast.FunctionDef) and n.name == "whiten"
    ]
    theirs = loaded(tmp_path, "drpo_peer", [ast.fix_missing_locations(wrapped), *white])
    random = np.random.default_rng(13)
    reward, value = (torch.tensor(random.normal(size=(12, 9))) for _ in "rv")
    args = SimpleNamespace(ppo=SimpleNamespace(gamma=1.0, lam=0.95))
    expected = theirs.gae(reward, value, args, 9)
    ours = generalised_advantage(reward[None], value[None], 1.0, 0.95)
    torch.testing.assert_close(ours[0], expected, **AGREE)
    every = torch.ones_like(ours)
    torch.testing.assert_close(whiten(ours, every)[0], theirs.whiten(expected), **AGREE)

"""CUDA: responses of the small transformer are those of the CPU, and how fast they are written.

Run with `pytest -m gpu tests/gpu/test_generation.py -s`; rates are tokens a second, of
Hugging Face's `generate` as well where `transformers` is installed.
"""

import importlib.util
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from rlkit.alignment.neural import TransformerPolicy
from rlkit.envs.tokens.bigram import TokenBigram
from rlkit.random import Rng

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("default"),
]

BATCH, HORIZON, VOCABULARY = 1024, 32, 64
POLICY = TransformerPolicy(64, 2, 4)
RATIO = 10  # how many times faster than Hugging Face on the CPU ours must be
NEAR_TIES = 0.01  # share of responses that may part ways by a rounding


def setting(device: str) -> tuple[Any, Any]:
    """The problem's disclosure and parameters away from the start, drawn on the CPU."""
    ids = torch.arange(1)
    problem = TokenBigram(vocabulary=VOCABULARY, horizon=HORIZON)
    spec = problem.spec(problem.instance(Rng(0, "instance", ids.to(device))))
    start = POLICY.start(spec, Rng(0, "act", ids.to(device)))
    noise = Rng(0, "noise", ids).normal("head", 64, VOCABULARY).to(device)
    return spec, start._replace(head=start.head._replace(weight=0.05 * noise))


def writer(device: str, batch: int) -> Callable[[int], Any]:
    """`batch` responses at a step of the act stream."""
    spec, parameters = setting(device)
    prompt = torch.zeros(1, batch, dtype=torch.int64, device=device)
    ids = torch.arange(1, device=device)
    return lambda step: POLICY.write(spec, parameters, prompt, Rng(0, "act", ids, step))


def hugging_face(device: str) -> Callable[[int], Any]:
    """GPT-2 of the same size and activation."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=HORIZON + 1,
        n_embd=64,
        n_layer=2,
        n_head=4,
        activation_function="gelu",
        bos_token_id=0,
        eos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(config).eval().to(device)
    prompt = torch.zeros(BATCH, 1, dtype=torch.int64, device=device)
    mask = torch.ones_like(prompt)
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": HORIZON, "use_cache": True}
    return lambda _: model.generate(prompt, attention_mask=mask, **options)


def rate(write: Callable[[int], Any], batch: int, rounds: int) -> float:
    """Tokens a second, median of some rounds after two to warm up."""
    seconds = []
    for step in range(rounds + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        write(step)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return batch * HORIZON / sorted(seconds[2:])[rounds // 2]


def test_responses_are_those_of_the_cpu_up_to_near_ties():
    here, there = writer("cpu", 256)(0), writer("cuda", 256)(0)
    same = (here.token == there.token.cpu()).all(-1).float().mean().item()
    assert same >= 1 - NEAR_TIES


def test_scores_are_those_of_the_cpu():
    spec, parameters = setting("cpu")
    written = writer("cpu", 64)(0)
    here = POLICY.score(spec, parameters, written)
    spec, parameters = setting("cuda")
    moved = tree_map(lambda leaf: leaf.cuda(), written)
    there = POLICY.score(spec, parameters, moved).cpu()
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)


def test_speed_of_writing():
    rates = {f"rlkit cuda {b}": rate(writer("cuda", b), b, 9) for b in (BATCH, 16 * BATCH)}
    rates["rlkit cpu"] = rate(writer("cpu", BATCH), BATCH, 3)
    slow = rates["rlkit cpu"]
    if importlib.util.find_spec("transformers") is not None:
        slow = rates["transformers cpu"] = rate(hugging_face("cpu"), BATCH, 3)
        rates["transformers cuda"] = rate(hugging_face("cuda"), BATCH, 9)
    print(json.dumps({name: round(value) for name, value in rates.items()}), flush=True)
    assert rates[f"rlkit cuda {BATCH}"] >= RATIO * slow

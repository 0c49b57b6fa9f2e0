"""Sampling from the small transformer against `generate` of Hugging Face's GPT-2 with its cache.

Both write 1,024 responses of 32 tokens from 64, with width 64, 2 layers and 4 heads; rates are
tokens a second. Ours adds the reference's log-probabilities and follows the automaton besides.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlkit.alignment.neural import TransformerPolicy
from rlkit.envs.tokens.bigram import TokenBigram
from rlkit.random import Rng

pytestmark = [
    pytest.mark.peers,
    pytest.mark.benchmark(timer=time.process_time, group="generation", warmup=False),
    pytest.mark.filterwarnings("default"),
]

BATCH, HORIZON, VOCABULARY, WIDTH, LAYERS, HEADS = 1024, 32, 64, 64, 2, 4
RATIO = 1.3  # how many times faster ours must be


def ours() -> Callable[[], int]:
    """Our policy, with weights away from the initial zeros."""
    ids = torch.arange(1)
    problem = TokenBigram(vocabulary=VOCABULARY, horizon=HORIZON)
    spec = problem.spec(problem.instance(Rng(0, "instance", ids)))
    policy = TransformerPolicy(WIDTH, LAYERS, HEADS)
    parameters = policy.start(spec, Rng(0, "act", ids))
    noise = Rng(0, "noise", ids).normal("head", WIDTH, VOCABULARY)
    head = parameters.head._replace(weight=0.02 * noise)
    parameters = parameters._replace(head=head)
    prompt = torch.zeros(1, BATCH, dtype=torch.int64)
    steps = iter(range(1000))

    def write() -> int:
        written = policy.write(spec, parameters, prompt, Rng(0, "act", ids, next(steps)))
        return written.token.numel()

    return write


def theirs(transformers: Any) -> Callable[[], int]:
    """A GPT-2 of the same size, with the same activation, that never ends a response."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=HORIZON + 1,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        activation_function="gelu",
        bos_token_id=0,
        eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).eval()
    prompt = torch.zeros(BATCH, 1, dtype=torch.int64)

    def generate() -> int:
        with torch.inference_mode(), torch.random.fork_rng():
            written = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                top_k=0,
                max_new_tokens=HORIZON,
                use_cache=True,
            )
        return written[:, 1:].numel()

    return generate


def test_responses_of_a_transformer_are_written_faster_than_by_generate(
    race: Callable[..., Any],
) -> None:
    transformers = pytest.importorskip("transformers")
    contestants = {"rlkit": ours(), "transformers": theirs(transformers)}
    for contestant in contestants.values():
        assert contestant() == BATCH * HORIZON
    result = race(contestants, 9)
    assert result.ratio("transformers") >= RATIO

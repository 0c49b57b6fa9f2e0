"""A step of every agent of diffusion reads nothing back and stays on the device of its draws."""

import pytest
import torch
from pairs import component

from rlkit import registry
from rlkit.engine import Streams
from rlkit.envs.diffusion.noise_prompt import NoisePrompt
from rlkit.protocol import Transition

AGENTS = [name for name, entry in registry.entries("agent").items() if "diffusion" in entry.needs]
PROBLEMS = {
    "points": lambda: component("problem", "GaussMixDiffusion-v0"),
    "noise": lambda: NoisePrompt(steps=3, modes=2, phrasings=0),
    "phrasings": lambda: NoisePrompt(steps=3, modes=2, focus=0.5, phrasings=0),
    "law": lambda: component("problem", "FewStepGauss-v0"),
    "sequences": lambda: component("problem", "MaskedSeq-v0"),
    "motifs": lambda: component("problem", "MotifDNA-v0"),
}


def refused(problem, agent):
    streams = Streams(0, torch.arange(2))
    instance = problem.instance(streams.at("instance", 0))
    try:
        agent.initial(problem.spec(instance), streams.at("initial", 0))
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("place", PROBLEMS)
@pytest.mark.parametrize("name", AGENTS)
def test_a_step_reads_nothing_back(name, place):
    """The meta device has no values: reading one, or mixing in the CPU, raises."""
    problem, agent = PROBLEMS[place](), component("agent", name)
    if refused(problem, agent):
        pytest.skip("refused")
    streams = Streams(0, torch.zeros(4, dtype=torch.int64, device="meta"))
    instance = problem.instance(streams.at("instance", 0))
    spec = problem.spec(instance)
    state = agent.initial(spec, streams.at("initial", 0))
    now = problem.reset(instance, streams.at("reset", 0))
    seen = problem.observe(instance, now)
    action, state = agent.act(spec, state, seen, streams.at("act", 0))
    out = problem.transition(instance, now, action, streams.at("env", 0))
    last = torch.zeros_like(out.discount, dtype=torch.bool)
    batch = Transition(seen, action, out.reward, out.discount, seen, last, out.feedback)
    state = agent.learn(spec, state, batch, streams.at("learn", 0))
    leaves = torch.utils._pytree.tree_leaves(state)
    assert leaves and all(leaf.is_meta for leaf in leaves)


def test_every_agent_takes_part():
    ran = {a for a in AGENTS if any(not refused(p(), component("agent", a)) for p in
                                    PROBLEMS.values())}  # fmt: skip
    assert ran == set(AGENTS)

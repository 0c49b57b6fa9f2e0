"""Responses as text, and text on the board."""

import torch

from rlkit.envs.tokens.chain import TokenChain
from rlkit.envs.tokens.style import TokenStyle
from rlkit.random import Rng
from rlkit.tokens import walk


def drawn(problem):
    return problem.instance(Rng(3, "instance", torch.arange(2)))


def test_a_chain_reads_as_prompt_steps_and_reward():
    problem = TokenChain(modulus=5, steps=2, form="full")
    instance = drawn(problem)
    known = instance.replica.knowledge
    start, *program = known.prompt_tokens[0, 3].tolist()
    value, said = start, []
    for kind, operand in zip(program[::2], program[1::2], strict=True):
        value = (value * operand if kind == 6 else value + operand) % 5
        said += [kind, operand, value, 7]
    token = torch.tensor(said).expand(2, 1, -1)
    (line,) = problem.transcripts(instance, walk(known.automaton, torch.full((2, 1), 3), token))
    names = {5: "+", 6: "*", 7: ";"}

    def text(words):
        return " ".join(names.get(word, str(word)) for word in words)

    assert line == f"{text([start, *program])} | {text(said)} | 1.000"


def test_padding_is_not_shown():
    problem = TokenStyle(horizon=4, cost=0.25)
    instance = drawn(problem)
    known = instance.replica.knowledge
    end, filler = problem.vocabulary - 1, problem.content
    token = torch.tensor([filler, end, end, end]).expand(2, 1, -1)
    (line,) = problem.transcripts(instance, walk(known.automaton, torch.zeros(2, 1).long(), token))
    asked, said, reward = line.split(" | ")
    assert said == "f0 ."
    assert float(reward) == -0.25
    assert len(asked.split()) == problem.topics

"""What a token MDP consists of, and what agents are told of it."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.tokens.automaton import Automaton, Rewards, ends
from rlkit.tokens.data import Data


class TokenTask(NamedTuple):
    """The tables of a token MDP as a problem draws them; None stands for the usual."""

    automaton: Automaton
    rewards: Rewards  # gold
    proxy: Rewards | None = None  # what is observed and compared; None: gold
    prompt_tokens: Tensor | None = None  # [N, X, P] int64 words of each prompt; None: no words
    step_start: Tensor | None = None  # [N, H] 1 where a step of reasoning begins; None: always
    sound: Tensor | None = None  # [N, Z] bool: no mistake so far; None: always

    @property
    def observed(self) -> Rewards:
        """What agents observe."""
        return self.rewards if self.proxy is None else self.proxy


class TokenKnowledge(NamedTuple):
    """What a token MDP discloses; `rewards` and `sound` for measuring, not for learning."""

    automaton: Automaton
    rewards: Rewards  # gold
    data: Data
    proxy: Rewards  # what agents observe; gold where the reward is specified well
    prompt_tokens: Tensor  # [N, X, P] int64 below V; P = 0 where the state alone tells the prompt
    step_start: Tensor  # [N, H] 1 where a step of reasoning begins, else 0
    sound: Tensor  # [N, Z] bool: no mistake so far
    over: Tensor  # [N, Z] bool: only padding follows


def either(mask: Tensor, yes: float, no: float) -> Tensor:
    """`yes` where `mask` holds, else `no`, in float64 (numbers in `torch.where` are float32)."""
    a, b = (torch.tensor(x, dtype=torch.float64, device=mask.device) for x in (yes, no))
    return torch.where(mask, a, b)


def disclosed(task: TokenTask, data: Data) -> TokenKnowledge:
    """What agents see of a task, with the usual where the task has nothing special."""
    like = task.automaton.prompt
    n, count = like.shape
    words, starts, sound = task.prompt_tokens, task.step_start, task.sound
    if words is None:
        words = torch.zeros(n, count, 0, dtype=torch.int64, device=like.device)
    if starts is None:
        starts = torch.ones(n, task.automaton.horizon, dtype=torch.float64, device=like.device)
    if sound is None:
        sound = torch.ones(n, task.automaton.states, dtype=torch.bool, device=like.device)
    over = ends(task.automaton, (task.rewards, task.observed))
    return TokenKnowledge(
        task.automaton, task.rewards, data, task.observed, words, starts, sound, over
    )

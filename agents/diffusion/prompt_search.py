"""Prompt search: learn which phrasing to give the frozen sampler for each prompt."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.training import Trained, improve, start_training
from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.measures import LOOK
from rlkit.diffusion.noise_agents import fresh
from rlkit.diffusion.noise_policies import by_prompt, every_prompt
from rlkit.diffusion.policies import gaussian_task
from rlkit.diffusion.task import Samples, run_reference
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_integer, check_real


class Searcher(NamedTuple):
    """State of the agent."""

    logits: Trained  # [N, C, P] of the phrasings for each prompt
    chosen: Tensor  # [N, C, B] int64 phrasings of the batch under way
    reward: Tensor  # [N, C, P] sums of rewards
    uses: Tensor  # [N, C, P] how often each was used
    iteration: Tensor  # [N] int64
    replica: Tensor  # [N] int64


@agent("prompt_search")
@dataclass(frozen=True)
class PromptSearch:
    """A bandit over the finite set of phrasings, each a law of samples of the frozen sampler.

    "reinforce" follows the policy gradient of a softmax over phrasings, with a leave-one-out
    baseline; as in Hao et al. (2023), "Optimizing prompts for text-to-image generation", without
    its language model. "ucb" is UCB1 (Auer et al., 2002) on mean rewards in [0, 1].

    Raises:
        ValueError: a field outside its range.
    """

    batch: int = 8  # samples for each prompt an iteration, >= 2
    rate: float = 0.1  # step size of Adam on the logits, > 0
    method: str = "reinforce"  # "reinforce" or "ucb"
    width: float = 1.0  # of the confidence bound of "ucb", > 0

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_integer("batch", self.batch, 2)
        check_real("rate", self.rate, 0, open_low=True)
        check_choice("method", self.method, ("reinforce", "ucb"))
        check_real("width", self.width, 0, open_low=True)

    def initial(self, spec: Spec, rng: Rng) -> Searcher:
        """All phrasings alike.

        Raises:
            ValueError: no points in R^d, or a law of samples that no prompt changes.
        """
        task = gaussian_task(spec)
        size = task.mixture.log_weight.shape[1]
        if size == 1:
            raise ValueError("one law of samples for all prompts; needs several phrasings")
        zero = task.mixture.mean.new_zeros(rng.n, task.prompts, size)
        chosen = torch.zeros_like(rng.replica)[:, None, None].expand(-1, task.prompts, self.batch)
        first = fresh(rng)
        return Searcher(start_training(zero), chosen + 0, zero, zero, first, rng.replica)

    def act(
        self, spec: Spec, state: Searcher, observation: Tree, rng: Rng
    ) -> tuple[Samples, Searcher]:
        """Samples that the frozen sampler makes of the chosen phrasings."""
        task = gaussian_task(spec)
        if self.method == "ucb":
            chosen = self.optimistic(state, rng)
        else:
            chosen = drawn(torch.softmax(state.logits.parameters, -1), rng, "phrasing", self.batch)
        point = sampled(task, chosen, rng)
        prompt = every_prompt(task, rng.replica, self.batch)
        return Samples(point, prompt), state._replace(chosen=chosen)

    def optimistic(self, state: Searcher, rng: Rng) -> Tensor:
        """The phrasing of the largest upper bound, untried ones first, `[N, C, B]`."""
        total = state.uses.sum(-1, keepdim=True).clamp(min=1)
        bound = state.reward / state.uses.clamp(min=1)
        bound = bound + self.width * torch.sqrt(2 * torch.log(total) / state.uses.clamp(min=1))
        ties = rng.uniform("tie", *bound.shape[1:], dtype=bound.dtype).contiguous()
        untried = state.uses == 0
        best = torch.where(untried, 1e9 + ties, bound).argmax(-1, keepdim=True)
        return best.expand(-1, -1, self.batch)

    def learn(self, spec: Spec, state: Searcher, batch: Transition, rng: Rng) -> Searcher:
        """Count, and step along the policy gradient."""
        reward = batch.feedback.reward.double().reshape(state.chosen.shape)
        total = state.reward.scatter_add(2, state.chosen, reward)
        uses = state.uses.scatter_add(2, state.chosen, torch.ones_like(reward))
        logits = state.logits
        if self.method == "reinforce":
            others = (reward.sum(2, keepdim=True) - reward) / (self.batch - 1)
            advantage = reward - others

            def loss(parameters: Tensor) -> Tensor:
                log = torch.log_softmax(parameters, -1).gather(2, state.chosen)
                return -(advantage * log).mean(2).sum(1)

            logits = improve(logits, loss, self.rate)
        return state._replace(logits=logits, reward=total, uses=uses, iteration=state.iteration + 1)

    def preference(self, state: Searcher) -> Tensor:
        """Probability of each phrasing, or for "ucb" of the best mean so far, `[N, C, P]`."""
        if self.method == "reinforce":
            return torch.softmax(state.logits.parameters, -1)
        mean = state.reward / state.uses.clamp(min=1)
        return torch.nn.functional.one_hot(mean.argmax(-1), mean.shape[-1]).to(mean)

    def diagnostics(self, spec: Spec, state: Searcher) -> dict[str, Tensor]:
        """Expected rewards and denoiser evaluations so far, `[N]` each."""
        task, rng = gaussian_task(spec), Rng(0, "look", state.replica)
        count = max(1, LOOK // task.prompts)
        with torch.no_grad():
            chosen = drawn(self.preference(state), rng, "phrasing", count)
            prompt = every_prompt(task, rng.replica, count)
            reward = task.gold(sampled(task, chosen, rng), prompt).reshape(chosen.shape)
        spent = state.iteration.double() * (self.batch * task.prompts * task.steps)
        return {**by_prompt(reward), "evaluations": spent}


def drawn(law: Tensor, rng: Rng, name: str, count: int) -> Tensor:
    """`count` indices from each of the laws `[N, C, P]`, `[N, C, count]` int64."""
    u = rng.uniform(name, law.shape[1], count, dtype=law.dtype).contiguous()
    edges = torch.cumsum(law, -1)[..., :-1]
    return (u[..., None] >= edges[:, :, None]).sum(-1)


def sampled(task: GaussianDiffusion, chosen: Tensor, rng: Rng) -> Tensor:
    """Samples `[N, C B, d]` of the frozen sampler for phrasings `[N, C, B]`."""
    phrasing = chosen.flatten(1)
    with torch.no_grad():
        start = task.start(rng, "start", phrasing.shape[1])
        return run_reference(task, start, phrasing, rng)

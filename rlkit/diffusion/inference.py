"""What agents share that steer a frozen sampler while it runs; nothing of it is trained."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.masked import LETTERS, place
from rlkit.diffusion.masked_task import MaskedDiffusion
from rlkit.diffusion.task import DiffusionTask, Samples, asked, knowledge
from rlkit.diffusion.value_models import ValueModel
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.validation import check_integer, check_real


class Written(NamedTuple):
    """Outputs of one iteration."""

    point: Tensor  # [N, B, ...]
    share: Tensor  # [N] effective share of candidates or particles, mean over steps, in (0, 1]


class Tally(NamedTuple):
    """Sums over all outputs so far."""

    gold: Tensor  # [N] true rewards
    proxy: Tensor  # [N] observed rewards
    share: Tensor  # [N] effective shares of iterations
    seen: Tensor  # [N, 4^L] outputs of each sequence, or [N, 0] where they are not enumerated


class Steering(NamedTuple):
    """State of such an agent."""

    memory: Tree  # what the value model learnt, () for most
    tally: Tally
    iteration: Tensor  # [N] int64 iterations so far


class SteeringAgent:
    """A frozen sampler, a value estimate and the record of what came out.

    A step of the engine is an iteration of `batch` outputs. Agents add fields, `generate` and the
    number of calls.
    """

    # Set in every class, where the catalogue reads them: ("diffusion",) and False.
    needs: ClassVar[tuple[str, ...]]
    compilable: ClassVar[bool]

    # Fields of every such agent.
    alpha: float
    batch: int

    def check(self, group: int = 1) -> None:
        """Refuse shared fields outside their range; a batch is a multiple of `group`.

        Raises:
            ValueError: naming the field.
        """
        check_real("alpha", self.alpha, 0, open_low=True, infinite=True)
        check_integer("batch", self.batch, 1)
        if self.batch % group != 0:
            raise ValueError(f"batch = {self.batch}; accepted: multiples of particles = {group}")

    @property
    def model(self) -> ValueModel:
        """The value estimate; by default the reward of the posterior mean, which none asks for."""
        return ValueModel("pm", self.alpha)

    @property
    def group(self) -> int:
        """Outputs in a row that have one prompt."""
        return 1

    def suits(self, task: DiffusionTask) -> None:
        """Refuse unsuitable tasks.

        Raises:
            ValueError: saying what is needed.
        """

    def initial(self, spec: Spec, rng: Rng) -> Steering:
        """The value model, fitted to chains of the reference where it is.

        Raises:
            ValueError: the problem is no diffusion MDP, or does not suit the agent.
        """
        task = knowledge(spec)
        self.suits(task)
        memory = self.model.start(task, rng.child("pretrain"))
        zero = torch.zeros_like(rng.replica, dtype=torch.float64)
        size = LETTERS**task.length if isinstance(task, MaskedDiffusion) and task.exact else 0
        count = torch.zeros(len(zero), size, dtype=torch.float64, device=zero.device)
        return Steering(memory, Tally(zero, zero, zero, count), torch.zeros_like(rng.replica))

    def generate(self, task: DiffusionTask, memory: Tree, prompt: Tensor, rng: Rng) -> Written:
        """Outputs for `prompt` `[N, B]`."""
        raise NotImplementedError(f"{type(self).__name__} does not sample")

    def act(
        self, spec: Spec, state: Steering, observation: Tree, rng: Rng
    ) -> tuple[Samples, Steering]:
        """A batch of outputs."""
        task = knowledge(spec)
        prompt = asked(task, rng, self.batch, self.group)
        with torch.no_grad():
            written = self.generate(task, state.memory, prompt, rng)
        tally = state.tally._replace(share=state.tally.share + written.share)
        return Samples(written.point, prompt), state._replace(tally=tally)

    def learn(self, spec: Spec, state: Steering, batch: Transition, rng: Rng) -> Steering:
        """Record the outputs."""
        task, scores = knowledge(spec), batch.feedback
        tally = state.tally
        with torch.no_grad():
            gold = task.gold(scores.point, batch.action.prompt).double().mean(1)
        tally = tally._replace(
            gold=tally.gold + gold, proxy=tally.proxy + scores.reward.double().mean(1)
        )
        if tally.seen.shape[1]:
            code = (scores.point * place(scores.point.shape[2], LETTERS).to(gold.device)).sum(2)
            ones = torch.ones_like(code, dtype=torch.float64)
            tally = tally._replace(seen=tally.seen.scatter_add(1, code, ones))
        return state._replace(tally=tally, iteration=state.iteration + 1)

    def calls(self, task: DiffusionTask) -> tuple[float, float]:
        """Evaluations of the denoiser (a backward pass counts two) and rewards, an output."""
        raise NotImplementedError(f"{type(self).__name__} does not count calls")

    def diagnostics(self, spec: Spec, state: Steering) -> dict[str, Tensor]:
        """Means over all outputs so far, `[N]` each; zeros before the first iteration.

        `evaluations` of the denoiser and `reward_calls` count what the agent spent, fits included.
        On enumerated sequences plug-in estimates from the outputs: `kl` to the data law, `tv` to
        the tilted law at `alpha`, `gap` of reward minus `alpha kl` from its best, `alpha log Z`.
        """
        task, tally = knowledge(spec), state.tally
        times = state.iteration.double().clamp(min=1)
        model, outputs = self.model, state.iteration.double() * self.batch
        fitted = model.pretrain if model.kind == "mc" else 0
        evaluations, rewards = self.calls(task)
        found = {
            "gold_reward": tally.gold / times,
            "proxy_reward": tally.proxy / times,
            "ess": tally.share / times,
            "evaluations": outputs * evaluations + fitted * task.steps,
            "reward_calls": outputs * rewards + fitted,
        }
        if isinstance(task, MaskedDiffusion) and task.exact and self.alpha < float("inf"):
            found |= plug_in(task, tally.seen, self.alpha)
        return found


def plug_in(task: MaskedDiffusion, count: Tensor, alpha: float) -> dict[str, Tensor]:
    """`kl`, `tv` and `gap` of the empirical law of counts `[N, 4^L]`; zeros without any."""
    assert task.table is not None
    total = count.sum(1, keepdim=True)
    law, tilted = count / total.clamp(min=1), task.tilt(alpha)
    ratio = torch.log(law.clamp(min=1e-300)) - torch.log(task.table.law)
    kl = (law * ratio).sum(1)
    reward = (law * task.rewards()).sum(1)
    seen = (total[:, 0] > 0).double()
    return {
        "kl": kl,
        "tv": seen * 0.5 * (law - tilted.table.law).abs().sum(1),
        "gap": seen * (alpha * tilted.log_partition.expand_as(kl) - reward + alpha * kl),
    }


class ValuedAgent(SteeringAgent):
    """One that chooses its value estimate by fields."""

    value: str
    target: str
    pretrain: int
    hidden: tuple[int, ...]
    rate: float
    updates: int

    @property
    def model(self) -> ValueModel:
        """The value estimate."""
        return ValueModel(
            self.value,
            self.alpha,
            self.target,
            self.pretrain,
            self.hidden,
            self.rate,
            self.updates,
        )

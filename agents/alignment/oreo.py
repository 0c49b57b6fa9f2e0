"""OREO: offline policy and value from one soft Bellman equation."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.advantages import suffix_sum
from rlkit.alignment.offline import choose_rows, collected
from rlkit.alignment.proximal import ActorCritic, spread_over, start_actor_critic, values_at
from rlkit.alignment.tables import improve, knowledge, log_ratio, measure, respond, rows
from rlkit.optimizers import descend
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses
from rlkit.tokens.sequences import look_up
from rlkit.validation import check_choice, check_integer, check_real


@agent("oreo")
@dataclass(frozen=True)
class OREO:
    """Path consistency on demonstrations with a sparse outcome: `V = R - beta sum log(pi / ref)`.

    Wang et al. (2024), "Offline reinforcement learning for LLM multi-step reasoning", equations 8
    and 9. `step` tokens share one residual: 1 is their token level, the horizon their response
    level. Near the data, `alpha` acts as a further temperature of about `alpha / (2 beta)`.

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.03  # weight of the divergence, > 0
    alpha: float = 0.01  # weight of the divergence at the states of the data, >= 0
    step: int | None = 1  # tokens of a step, >= 1; None: the whole response
    stop_gradient: bool = True  # later log-ratios of a residual are constants
    batch: int = 128  # demonstrations a step, >= 1
    rate: float = 0.05  # step size of the policy, > 0
    value_rate: float = 0.05  # step size of the value, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("beta", "rate", "value_rate"):
            check_real(name, getattr(self, name), 0, open_low=True)
        check_real("alpha", self.alpha, 0)
        if self.step is not None:
            check_integer("step", self.step, 1)
        check_choice("stop_gradient", self.stop_gradient, (True, False))
        check_integer("batch", self.batch, 1)
        check_integer("responses", self.responses, 2)

    def initial(self, spec: Spec, rng: Rng) -> ActorCritic:
        """The reference, and values of zero.

        Raises:
            ValueError: there are no demonstrations.
        """
        collected(spec, "demonstrations")
        return start_actor_critic(spec)

    def act(
        self, spec: Spec, state: ActorCritic, observation: Tree, rng: Rng
    ) -> tuple[Responses, ActorCritic]:
        """Responses of the present policy; learning does not use them."""
        return respond(spec, state.policy.table, self.responses, rng), state

    def learn(self, spec: Spec, state: ActorCritic, batch: Transition, rng: Rng) -> ActorCritic:
        """A step of the value, then one of the policy against the value before it."""
        data = collected(spec, "demonstrations")
        index = rng.integers("demonstration", data.outcome.shape[1], self.batch)
        shown = rows(data.demonstration, index)
        reward = choose_rows(data.outcome, index)[..., None]
        starts = self.starts(spec)
        value = values_at(state.value, shown)
        rest = self.beta * suffix_sum(log_ratio(state.policy.table, spec, shown))
        miss = (value - reward + rest) * starts / starts.sum()
        gradient = spread_over(state.value, shown, 2 * miss / self.batch)
        critic, adam = descend(state.value, gradient, state.adam, self.value_rate)

        def loss(table: Tensor) -> Tensor:
            ratio = self.beta * log_ratio(table, spec, shown)
            residual = value - reward + self.consistency(ratio)
            square = (residual * residual * starts).sum(-1) / starts.sum()
            return (square + self.alpha * self.divergence(spec, table, shown)).mean(1)

        return ActorCritic(improve(state.policy, loss, self.rate), critic, adam)

    def length(self, horizon: int) -> int:
        """Tokens of a step."""
        return horizon if self.step is None else min(self.step, horizon)

    def starts(self, spec: Spec) -> Tensor:
        """1 where a step begins, `[H]`."""
        reference = knowledge(spec).automaton.reference
        time = torch.arange(reference.shape[1], device=reference.device)
        return (time % self.length(len(time)) == 0).double()

    def consistency(self, ratio: Tensor) -> Tensor:
        """Log-ratios of this and all later tokens `[N, B, H]`; those after the step are constants.

        Read where a step starts only.
        """
        if not self.stop_gradient:
            return suffix_sum(ratio)
        length = self.length(ratio.shape[-1])
        time = torch.arange(ratio.shape[-1], device=ratio.device)
        after = ((time // length + 1) * length).clamp(max=len(time))
        padded = torch.cat([suffix_sum(ratio), torch.zeros_like(ratio[..., :1])], -1)
        later = padded[..., after]
        return padded[..., :-1] - later + later.detach()

    def divergence(self, spec: Spec, table: Tensor, shown: Responses) -> Tensor:
        """Mean over tokens of `KL(pi || pi_ref)` at the states of responses, `[N, B]`."""
        reference = knowledge(spec).automaton.reference
        each = torch.where(table > -torch.inf, table.exp() * (table - reference), 0.0).sum(-1)
        state = shown.state[..., :-1]
        at = [look_up(each[:, t], state[..., t]) for t in range(state.shape[-1])]
        return torch.stack(at, -1).mean(-1)

    def diagnostics(self, spec: Spec, state: ActorCritic) -> dict[str, Tensor]:
        """Exact gold reward, divergence, entropy and gap `[N]`."""
        return measure(spec, state.policy.table, self.beta)

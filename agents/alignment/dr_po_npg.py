"""DR-PO as analysed: natural policy gradient with resets and estimated Q."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.agents import AlignmentAgent, Learner
from rlkit.alignment.knowledge import collected, knowledge, places, rows
from rlkit.alignment.measures import measure
from rlkit.alignment.training import Trained
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Automaton, Responses, occupancy
from rlkit.tokens.sequences import look_up
from rlkit.validation import check_choice


@agent("dr_po_npg")
@dataclass(frozen=True)
class DRPONPG(AlignmentAgent):
    """Every response resets to a demonstration, tries a token and goes on; Q is the mean return.

    Chang et al. (2024), "Dataset reset policy optimization for RLHF", its theory, with a table of
    Q and one batch of resets a step. Their Q is without divergence, so that the limit is
    `pi = pi_ref exp(Q_pi / beta)` and not the best policy; with "regularised" it is the best. Their
    theory takes `rate = 1 / (r_max sqrt(T))`. The divergence of each state grows by no more than
    the range of Q over `beta` a step.

    Raises:
        ValueError: a field outside its range.
    """

    q_target: str = "paper"  # of Q: "paper" (rewards) or "regularised" (less later log-ratios)
    mixture: bool = True  # measure the uniform mixture of all policies, their output; or the last
    beta: float = 0.1  # weight of the divergence from the reference, > 0
    batch: int = 128  # responses a step, >= 1
    rate: float = 0.5  # step size eta, > 0
    reward: str = "observed"  # or fitted to the comparisons: "final_model", "token_model"

    policy = "table"
    network = (64, 2, 4)
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("q_target", self.q_target, ("paper", "regularised"))
        check_choice("mixture", self.mixture, (True, False))
        self.check()

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference.

        Raises:
            ValueError: no demonstrations to reset to.
        """
        collected(spec, "demonstrations")
        reference = knowledge(spec).automaton.reference
        start = Trained(reference.clone(memory_format=torch.contiguous_format), ())
        memory = super().remember(spec, rng), torch.zeros_like(start.parameters)
        return Learner(start, (), memory, rng.replica)

    def act(
        self, spec: Spec, state: Learner, observation: Tree, rng: Rng
    ) -> tuple[Responses, Learner]:
        """Demonstrations up to a random time, a token of policy or reference, then the policy."""
        known, table = knowledge(spec), self.model.table(state.policy.parameters)
        automaton, shown = known.automaton, known.data.demonstration
        chosen = rows(shown, rng.integers("demonstration", shown.prompt.shape[1], self.batch))
        time = places(self.model.mask(spec, chosen).sum(-1).long(), rng)
        here = (
            laws_over_time(table, chosen, time),
            laws_over_time(automaton.reference, chosen, time),
        )
        own = rng.integers("whose", 2, self.batch) == 0
        tried = draw(torch.where(own[..., None], *here), rng.child("tried"))
        token = chosen.token.scatter(2, time[..., None], tried[..., None])
        written = self.model.write(
            spec, state.policy.parameters, chosen.prompt, rng, token, time + 1
        )
        return written, state

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """Q from the returns, and the closed form of the next policy."""
        written: Responses = batch.action
        automaton, table = knowledge(spec).automaton, self.model.table(state.policy.parameters)
        fitted, flow = state.memory
        target = self.paid(spec, state._replace(memory=fitted), batch)
        if self.q_target == "regularised":
            ratio = self.log_ratio(spec, state.policy.parameters, written)
            time = torch.arange(automaton.horizon, device=ratio.device)
            later = time >= written.given[..., None]
            target = target - self.beta * torch.where(later, ratio, 0.0).sum(-1)
        q = mean_q(automaton, written, target)
        after = npg_step(automaton.reference, table, q, self.rate, self.beta)
        flow = flow + flows(automaton, table)
        return state._replace(policy=Trained(after, ()), memory=(fitted, flow))

    def told(self, spec: Spec, state: Learner) -> Spec:
        """The specification, in which a fitted reward takes the place of the observed one."""
        return super().told(spec, state._replace(memory=state.memory[0]))

    def diagnostics(self, spec: Spec, state: Learner) -> dict[str, Tensor]:
        """Gold and proxy reward, divergence, entropy and gap `[N]`, exact.

        The mixture draws a policy once a response. Measured is the policy that visits states and
        tokens as often, which on trees has the same law of responses.
        """
        if not self.mixture:
            return super().diagnostics(spec, state)
        return measure(self.told(spec, state), self.output(spec, state), self.beta)

    def output(self, spec: Spec, state: Learner) -> Tensor:
        """Log-probabilities `[N, H, Z, V]` of the mixture; the reference where it never comes."""
        automaton, flow = knowledge(spec).automaton, state.memory[1]
        mass = flow.sum(-1, keepdim=True)
        law = torch.log(flow / mass.clamp(min=1e-300))
        return torch.where(mass > 0, law, automaton.reference)


def npg_step(reference: Tensor, law: Tensor, q: Tensor, rate: float, beta: float) -> Tensor:
    """Maximiser of `<q, pi> - beta KL(pi || pi_ref) - KL(pi || law) / rate`, `[..., V]`.

    Log-probabilities proportional to `(rate beta log pi_ref + log law + rate q) / (1 + rate beta)`.
    """
    pull = rate * beta
    return torch.log_softmax((pull * reference + law + rate * q) / (1 + pull), -1)


def mean_q(automaton: Automaton, written: Responses, target: Tensor) -> Tensor:
    """Mean `target` `[N, B]` of each time, state and tried token, `[N, H, Z, V]`.

    Tokens that were not tried get the mean of their state, states that were not met 0: the next
    policy neither gains nor loses there.
    """
    time = (written.given - 1)[..., None]
    state, token = (leaf.gather(2, time) for leaf in (written.state[..., :-1], written.token))
    shape = automaton.reference.shape
    place = (((time * shape[2]) + state) * shape[3] + token).squeeze(-1)
    empty = torch.zeros_like(automaton.reference.flatten(1), memory_format=torch.contiguous_format)
    total = empty.scatter_add(1, place, target).reshape(shape)
    count = empty.scatter_add(1, place, torch.ones_like(target)).reshape(shape)
    usual = total.sum(-1, keepdim=True) / count.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(count > 0, total / count.clamp(min=1), usual)


def flows(automaton: Automaton, table: Tensor) -> Tensor:
    """Probability of every time, state and token under a policy, `[N, H, Z, V]`."""
    return occupancy(automaton, table)[:, :-1, :, None] * table.exp()


def laws_over_time(table: Tensor, shown: Responses, time: Tensor) -> Tensor:
    """Rows of `table` `[N, H, Z, V]` where responses are at `time` `[N, B]`, `[N, B, V]`."""
    state = shown.state.gather(2, time[..., None]).squeeze(-1)
    return look_up(table.flatten(1, 2), time * table.shape[2] + state)


def draw(law: Tensor, rng: Rng) -> Tensor:
    """Tokens `[N, B]` from log-probabilities `[N, B, V]`."""
    cdf = torch.cumsum(law.exp(), -1)
    u = rng.uniform("token", law.shape[1], dtype=cdf.dtype)[..., None]
    return (u * cdf[..., -1:] >= cdf[..., :-1]).sum(-1)

"""What diffusion MDPs on masked sequences share: which steps are legal, and what others become."""

import torch
from torch import Tensor

from rlkit.diffusion.masked import LETTERS, MASK, check_tokens
from rlkit.diffusion.problem import ChainState, DiffusionProblem
from rlkit.diffusion.task import DiffusionTask
from rlkit.protocol import Instance, MultiDiscrete


class SequenceProblem(DiffusionProblem):
    """Chains of tokens; subclasses have the fields `length`, `chain` and `steps`."""

    length: int
    chain: str
    steps: int

    @property
    def horizon(self) -> int:
        """Denoising steps of a chain."""
        return self.steps if self.chain == "parallel" else self.length

    def point_space(self, task: DiffusionTask) -> MultiDiscrete:
        """Four letters and the mask."""
        return MultiDiscrete(LETTERS + 1, self.length)

    def check_start(self, task: DiffusionTask, start: Tensor) -> None:
        """Refuse tokens outside 0 .. 4 or of probability 0, and in the single chain all but masks.

        Raises:
            ValueError: naming the token, or the sequence.
        """
        tokens = start[:, None]
        check_tokens("x_T", tokens, self.length)
        if self.chain == "single" and bool((tokens != MASK).any()):
            raise ValueError(
                f"x_T = {start[(start != MASK).any(1)][0].tolist()} has fewer masks than the "
                f"single chain has steps; accepted: {MASK} everywhere"
            )
        task.expect(tokens, task.steps, tokens[..., 0])

    def check_action(self, instance: Instance, state: ChainState, action: Tensor) -> None:
        """Refuse a step of the single chain that reveals another number of positions than one.

        Raises:
            ValueError: naming the number.
        """
        if self.chain == "single":
            count = (action != state.point).sum(1)
            if bool((count != 1).any()):
                wrong = int(count[count != 1][0])
                raise ValueError(f"action reveals {wrong} positions of a chain; accepted: 1")

    def action_mask(self, instance: Instance, state: ChainState) -> Tensor:
        """Legal tokens of each position, `[N, L, 5]` bool."""
        return legal_letters(state)

    def finished(self, over: Tensor, following: Tensor) -> Tensor:
        """`following` `[N, L]` where chains are over, else some letters."""
        return torch.where(over[:, None], following, 0)

    def legalise(self, state: ChainState, action: Tensor) -> Tensor:
        """`action` with known letters kept, at the end no mask, and as many revealed as may be."""
        legal = legal_letters(state)
        fine = legal.gather(2, action[..., None]).squeeze(2)
        following = torch.where(fine, action, legal.to(torch.int8).argmax(2))
        return following if self.chain == "parallel" else first_revealed(state.point, following)


def first_revealed(tokens: Tensor, following: Tensor) -> Tensor:
    """`tokens` `[N, L]` with one mask revealed: the first that `following` reveals, else as A."""
    masked = tokens == MASK
    revealed = masked & (following != MASK)
    none = ~revealed.any(1, keepdim=True)
    candidate = torch.where(none, masked, revealed)
    first = candidate & (candidate.cumsum(1) == 1)
    letter = torch.where(following == MASK, 0, following)
    return torch.where(first, letter, tokens)


def legal_letters(state: ChainState) -> Tensor:
    """Tokens that each position may take, `[N, L, 5]` bool: masks stay masks but for the end."""
    token = torch.arange(LETTERS + 1, device=state.point.device)
    own = state.point[..., None] == token
    free = (state.point == MASK)[..., None] & (token < MASK)
    last = (state.time == 1)[:, None, None]
    return torch.where(last & free.any(-1, keepdim=True), free, own | free)

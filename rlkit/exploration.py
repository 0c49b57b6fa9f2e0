"""Tables of action values and their epsilon-greedy policies."""

import torch
from torch import Tensor

from rlkit.protocol import Discrete, Spec


def greedy_policy(q: Tensor) -> Tensor:
    """Probabilities `[..., A]` that share all mass equally among the maximisers of `q`."""
    greedy = (q == q.amax(-1, keepdim=True)).to(q.dtype)
    return greedy / greedy.sum(-1, keepdim=True)


def epsilon_greedy(q: Tensor, epsilon: float | Tensor) -> Tensor:
    """Probabilities `[..., A]` of the epsilon-greedy policy of `q` `[..., A]`.

    Args:
        q: action values.
        epsilon: mass spread over all actions, in [0, 1], broadcast with `q`.
    """
    return epsilon_mixture(greedy_policy(q), epsilon, q.shape[-1])


def epsilon_mixture(greedy: Tensor, epsilon: float | Tensor, actions: int) -> Tensor:
    """Greedy probabilities `[...]` mixed with the uniform law on `actions`, weight `epsilon`."""
    return epsilon / actions + (1 - epsilon) * greedy


def epsilon_greedy_value(q: Tensor, epsilon: float) -> Tensor:
    """Expectation `[...]` of `q` `[..., A]` under its epsilon-greedy policy."""
    return epsilon * q.mean(-1) + (1 - epsilon) * q.amax(-1)


def warm_up(episodes: Tensor, warmup_episodes: int, epsilon: float) -> Tensor:
    """Exploration rate `[N]`: 1 in the first episodes, then `epsilon`.

    Args:
        episodes: episodes finished so far, `[N]`.
        warmup_episodes: number of uniformly random episodes, >= 0.
        epsilon: rate of all others.
    """
    return torch.where(episodes < warmup_episodes, 1.0, epsilon)


def table_size(spec: Spec) -> tuple[int, int]:
    """Numbers of states and actions.

    Raises:
        ValueError: observations or actions that are not Discrete.
    """
    if not isinstance(spec.observation, Discrete) or not isinstance(spec.action, Discrete):
        raise ValueError(
            f"observation space = {spec.observation}, action space = {spec.action}: a table of "
            "action values needs Discrete states and Discrete actions"
        )
    return spec.observation.n, spec.action.n

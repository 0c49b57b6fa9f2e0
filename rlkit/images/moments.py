"""Adam's moments as entries of a flat state, so that a checkpoint is the state itself."""

from torch import Tensor

from rlkit.optimizers import Adam, descend, start_adam

State = dict[str, Tensor]


def started(state: State, names: list[str]) -> State:
    """The state with moments of the parameters `names`, whose first dimension is kept apart."""
    after = dict(state)
    for name in names:
        after |= _entries(name, start_adam(state[name]))
    return after


def stepped(state: State, gradients: dict[str, Tensor], rate: float, decay: float = 0.0) -> State:
    """The state after a step of Adam, or with `decay` of AdamW.

    Args:
        state: with moments.
        gradients: `[N, ...]` by name.
        rate: step size.
        decay: of the weights, times the rate.
    """
    after = dict(state)
    for name, gradient in gradients.items():
        moments = Adam(*(state[f"adam/{name}/{field}"] for field in Adam._fields))
        value = state[name] * (1 - rate * decay) if decay else state[name]
        value, moments = descend(value, gradient, moments, rate)
        after |= {name: value, **_entries(name, moments)}
    return after


def _entries(name: str, moments: Adam) -> State:
    return {f"adam/{name}/{field}": leaf for field, leaf in moments._asdict().items()}

"""Linear MDPs: features, measures and weights, laid out as finite models; features as tables.

In a linear MDP (Jin, Yang, Wang and Jordan 2020, assumption A) `P_h(s' | s, a) = phi' mu_h(s')`
and `r_h(s, a) = phi' theta_h` with features `phi` of `(s, a)`, so that `Q_h` of every policy is
linear in them.
"""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import Model, from_outcomes
from rlkit.protocol import Discrete, Spec
from rlkit.random import Rng
from rlkit.validation import check_integer, check_real


class LinearMDPs(NamedTuple):
    """A linear MDP for each replica, with features of its own at every stage."""

    features: Tensor  # [N, H, S, A, d] in the simplex
    measures: Tensor  # [N, H, d, S] laws of the next state, rows sum to 1
    weights: Tensor  # [N, H, d] of the rewards, in [0, 1]


class FeatureTable(NamedTuple):
    """Features of finitely many states and actions, as a problem discloses them."""

    table: Tensor  # [S, A, d] or [N, S, A, d] float64

    def __call__(self, observation: Tensor, action: Tensor) -> Tensor:
        """Features `[N, d]` of states and actions `[N]`."""
        states, actions, size = self.table.shape[-3:]
        row = observation * actions + action
        if self.table.dim() == 4:
            row = row + torch.arange(row.shape[0], device=row.device) * (states * actions)
        return self.table.reshape(-1, size).index_select(0, row)


def make_linear_mdp(
    states: int,
    actions: int,
    dimension: int,
    horizon: int,
    feature_concentration: float,
    measure_concentration: float,
    rng: Rng,
) -> LinearMDPs:
    """Linear MDPs with Dirichlet features and measures and uniform reward weights.

    Features in the simplex make every row `phi' mu` a mixture of `d` laws and every reward a
    mixture of numbers in [0, 1]; `|phi| <= 1` and `|theta| <= sqrt(d)` follow.

    Args:
        states: `S`, >= 1.
        actions: `A`, >= 1.
        dimension: `d`, >= 1.
        horizon: `H`, >= 1.
        feature_concentration: Dirichlet parameter of every feature, > 0.
        measure_concentration: Dirichlet parameter of every next state, > 0.
        rng: the instance stream.

    Raises:
        ValueError: an argument outside its range.
    """
    sizes = {"states": states, "actions": actions, "dimension": dimension, "horizon": horizon}
    for name, size in sizes.items():
        check_integer(name, size, 1)
    check_real("feature_concentration", feature_concentration, 0, open_low=True)
    check_real("measure_concentration", measure_concentration, 0, open_low=True)
    ones = torch.ones((), dtype=torch.float64, device=rng.device)
    flat = feature_concentration * ones.expand(rng.n, horizon, states, actions, dimension)
    wide = measure_concentration * ones.expand(rng.n, horizon, dimension, states)
    return LinearMDPs(
        rng.dirichlet("features", flat),
        rng.dirichlet("measures", wide),
        rng.uniform("weights", horizon, dimension, dtype=torch.float64),
    )


def mixture(features: Tensor, parts: Tensor) -> Tensor:
    """`sum_i features_i parts_i`: `[N, H, S, A, d]` and `[N, H, d, K]` to `[N, H, S, A, K]`."""
    each = zip(features.unbind(-1), parts.unbind(2), strict=True)
    return reduce(torch.add, [f[..., None] * p[:, :, None, None] for f, p in each])


def layered(tables: LinearMDPs) -> Model:
    """The same MDPs as models that know no stage: state `h * S + s` is `s` after `h` steps.

    Start: state 0. The last of the `H * S + 1` states is terminal: there the episode is over.
    """
    replicas, horizon, states, actions, _ = tables.features.shape
    device, last = tables.features.device, horizon * states
    kernel = mixture(tables.features, tables.measures).reshape(replicas, last, actions, states)
    reward = mixture(tables.features, tables.weights[..., None]).reshape(replicas, last, actions, 1)
    layer = torch.arange(last + 1, device=device) // states
    reached = (layer[:, None] + 1) * states + torch.arange(states, device=device)
    successor = reached.clamp(max=last)[None, :, None].expand(replicas, -1, actions, -1)
    start, terminal = (torch.zeros(last + 1, device=device) for _ in range(2))
    start[0], terminal[last] = 1, 1
    kernel, reward = (torch.cat([table, table[:, :1]], 1) for table in (kernel, reward))
    return from_outcomes(successor, kernel, reward, start, terminal > 0)


def layered_features(tables: LinearMDPs) -> FeatureTable:
    """Features of the states of `layered`, those of the terminal one zero."""
    flat = tables.features.flatten(1, 2)
    return FeatureTable(torch.cat([flat, torch.zeros_like(flat[:, :1])], 1))


def feature_table(spec: Spec) -> Tensor:
    """The disclosed features `[S, A, d]` or `[N, S, A, d]`; without any, one for each pair.

    Raises:
        ValueError: states or actions are not Discrete; features that are no table, or a table of
            other states and actions.
    """
    if not isinstance(spec.observation, Discrete) or not isinstance(spec.action, Discrete):
        raise ValueError(
            f"observations are {spec.observation}, actions are {spec.action}; the agent needs "
            "Discrete ones"
        )
    states, actions = spec.observation.n, spec.action.n
    known = spec.known.features
    if known is None:
        eye = torch.eye(states * actions, dtype=torch.float64)
        return eye.reshape(states, actions, states * actions)
    if not isinstance(known, FeatureTable):
        raise ValueError(f"features are a {type(known).__name__}; accepted: a FeatureTable")
    table = known.table
    if table.dim() not in (3, 4) or table.shape[-3:-1] != (states, actions):
        raise ValueError(
            f"features have shape {tuple(table.shape)}; accepted: [N, {states}, {actions}, d] or "
            f"[{states}, {actions}, d], for {states} states and {actions} actions"
        )
    return table

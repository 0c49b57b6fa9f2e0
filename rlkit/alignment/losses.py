"""Offline preference losses, one value an example.

Each is a frozen dataclass of its coefficients, called on the scores of a batch; `needs` says of
which kind. `s` is the log-probability of a response under the policy, summed over its tokens;
`rho = s - s_ref` its log-ratio; `h = rho_w - rho_l` the margin of the preferred response.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rlkit.validation import check_choice, check_real

POSITIVE = 1e-6  # by how much a log-probability may exceed 0


class Pairs(NamedTuple):
    """Scores of preferred (`w`) and other (`l`) responses, of one shape `[..., B]`."""

    chosen: Tensor  # s_w, nats
    rejected: Tensor  # s_l
    chosen_reference: Tensor  # log-probability under the reference
    rejected_reference: Tensor
    chosen_length: Tensor  # tokens, >= 1
    rejected_length: Tensor

    @property
    def margin(self) -> Tensor:
        """`h`."""
        return (self.chosen - self.chosen_reference) - (self.rejected - self.rejected_reference)


class Labelled(NamedTuple):
    """Scores of single responses with a verdict, of one shape `[..., B]`."""

    score: Tensor  # s, nats
    reference: Tensor  # log-probability under the reference
    desirable: Tensor  # 1 or 0
    baseline: Tensor  # divergence estimate of the batch, >= 0, `[...]` or `[..., B]`; no gradient


def check_pairs(pairs: Pairs) -> None:
    """Refuse scores that are no log-probabilities, and empty responses.

    Raises:
        ValueError: naming the field and the row.
    """
    for name in ("chosen", "rejected", "chosen_reference", "rejected_reference"):
        refuse(name, getattr(pairs, name), lambda x: x <= POSITIVE, "finite numbers <= 0")
    for name in ("chosen_length", "rejected_length"):
        refuse(name, getattr(pairs, name), lambda x: x >= 1, "[1, inf)")


def check_labelled(batch: Labelled) -> None:
    """Refuse scores that are no log-probabilities, verdicts other than 0 and 1.

    Raises:
        ValueError: naming the field and the row.
    """
    for name in ("score", "reference"):
        refuse(name, getattr(batch, name), lambda x: x <= POSITIVE, "finite numbers <= 0")
    refuse("desirable", batch.desirable, lambda x: (x == 0) | (x == 1), "0 or 1")
    refuse("baseline", batch.baseline, lambda x: x >= 0, "[0, inf)")


def refuse(name: str, values: Tensor, accept: object, accepted: str) -> None:
    """Raise for the first value that is not finite or not accepted."""
    values = values.detach()
    good = torch.isfinite(values) & accept(values)  # type: ignore[operator]
    if not bool(good.all()):
        row = (~good).nonzero()[0].tolist()
        raise ValueError(
            f"{name} of row {row} is {values[tuple(row)].item()}; accepted: {accepted}"
        )


@dataclass(frozen=True)
class DPO:
    """`-log sigma(beta h)`: Rafailov et al. (2023), equation 7, with label smoothing.

    Raises:
        ValueError: a coefficient outside its range.
    """

    beta: float = 0.1  # weight of the divergence, > 0
    label_smoothing: float = 0.0  # assumed share of flipped labels, in [0, 0.5)

    needs: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        check_real("beta", self.beta, 0, open_low=True)
        check_real("label_smoothing", self.label_smoothing, 0, 0.5, open_high=True)

    def __call__(self, pairs: Pairs) -> Tensor:
        """`[..., B]`."""
        h, flipped = self.beta * pairs.margin, self.label_smoothing
        return (1 - flipped) * softplus(-h) + flipped * softplus(h)


@dataclass(frozen=True)
class IPO:
    """`(h - 1 / (2 tau))^2`: Azar et al. (2024), equation 17.

    Raises:
        ValueError: a coefficient outside its range.
    """

    tau: float = 0.1  # weight of the divergence, > 0

    needs: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        check_real("tau", self.tau, 0, open_low=True)

    def __call__(self, pairs: Pairs) -> Tensor:
        """`[..., B]`."""
        miss = pairs.margin - 1 / (2 * self.tau)
        return miss * miss


@dataclass(frozen=True)
class SLiC:
    """`max(0, delta - s_w + s_l) - lambda s_w`: Zhao et al. (2023), equation 1.

    The regulariser imitates the preferred response. No reference enters.

    Raises:
        ValueError: a coefficient outside its range.
    """

    delta: float = 1.0  # margin in nats, > 0
    lambda_: float = 0.0  # weight of imitation, >= 0

    needs: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        check_real("delta", self.delta, 0, open_low=True)
        check_real("lambda_", self.lambda_, 0)

    def __call__(self, pairs: Pairs) -> Tensor:
        """`[..., B]`."""
        hinge = torch.relu(self.delta - pairs.chosen + pairs.rejected)
        return hinge - self.lambda_ * pairs.chosen


@dataclass(frozen=True)
class SimPO:
    """`-log sigma(beta (s_w / L_w - s_l / L_l) - gamma)`: Meng, Xia, Chen (2024), equation 6.

    Raises:
        ValueError: a coefficient outside its range.
    """

    beta: float = 2.0  # scale of the mean log-probabilities, > 0
    gamma: float = 1.0  # margin, >= 0

    needs: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        check_real("beta", self.beta, 0, open_low=True)
        check_real("gamma", self.gamma, 0)

    def __call__(self, pairs: Pairs) -> Tensor:
        """`[..., B]`."""
        mean_w = pairs.chosen / pairs.chosen_length
        mean_l = pairs.rejected / pairs.rejected_length
        return softplus(self.gamma - self.beta * (mean_w - mean_l))


@dataclass(frozen=True)
class KTO:
    """`lambda (1 - sigma(+-beta (rho - z0)))`: Ethayarajh et al. (2024), equation 8.

    Raises:
        ValueError: a coefficient outside its range.
    """

    beta: float = 0.1  # risk aversion, > 0
    desirable_weight: float = 1.0  # of desirable responses, > 0
    undesirable_weight: float = 1.0  # of the others, > 0

    needs: ClassVar[str] = "labels"

    def __post_init__(self) -> None:
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            check_real(name, getattr(self, name), 0, open_low=True)

    def __call__(self, batch: Labelled) -> Tensor:
        """`[..., B]`."""
        baseline = batch.baseline.detach()
        gain = self.beta * (batch.score - batch.reference - baseline)
        good = self.desirable_weight * torch.sigmoid(-gain)
        bad = self.undesirable_weight * torch.sigmoid(gain)
        return torch.where(batch.desirable > 0, good, bad)


@dataclass(frozen=True)
class NCA:
    """`-log sigma(beta rho_w) - (log sigma(-beta rho_w) + log sigma(-beta rho_l)) / 2`.

    Chen et al. (2024), "Noise contrastive alignment of language models with explicit rewards", for
    comparisons: it fits each log-ratio, not only their difference.

    Raises:
        ValueError: a coefficient outside its range.
    """

    beta: float = 0.01  # weight of the divergence, > 0

    needs: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        check_real("beta", self.beta, 0, open_low=True)

    def __call__(self, pairs: Pairs) -> Tensor:
        """`[..., B]`."""
        chosen = self.beta * (pairs.chosen - pairs.chosen_reference)
        rejected = self.beta * (pairs.rejected - pairs.rejected_reference)
        return softplus(-chosen) + 0.5 * (softplus(chosen) + softplus(rejected))


@dataclass(frozen=True)
class CE:
    """`-l log sigma(s) - (1 - l) log sigma(-s)`, `s = beta rho + bias`, of a label `l`.

    Yuan et al. (2024), "Free process rewards without process labels": the log-ratio as the logit of
    success. A policy sums to 1, so that without a bias it cannot be calibrated in general.

    Raises:
        ValueError: a coefficient outside its range.
    """

    beta: float = 0.05  # scale of the log-ratio, > 0

    needs: ClassVar[str] = "labels"

    def __post_init__(self) -> None:
        check_real("beta", self.beta, 0, open_low=True)

    def __call__(self, batch: Labelled, bias: Tensor | float = 0.0) -> Tensor:
        """`[..., B]`; `bias` is a number or `[..., B]`, one a prompt. The baseline is not read."""
        logit = self.beta * (batch.score - batch.reference) + bias
        label = batch.desirable.to(logit.dtype)
        return label * softplus(-logit) + (1 - label) * softplus(logit)


class PairLoss(Protocol):
    """A loss of comparisons: `needs = "pairs"`."""

    def __call__(self, pairs: Pairs, /) -> Tensor:
        """`[..., B]`."""


class LabelLoss(Protocol):
    """A loss of single responses with a verdict: `needs = "labels"`."""

    def __call__(self, batch: Labelled, /) -> Tensor:
        """`[..., B]`."""


LossClass = type[Any]  # a frozen dataclass of coefficients: a `PairLoss` or a `LabelLoss`
LOSSES: dict[str, LossClass] = {
    "dpo": DPO,
    "ipo": IPO,
    "slic": SLiC,
    "simpo": SimPO,
    "nca": NCA,
    "kto": KTO,
    "ce": CE,
}


def loss_class(name: str) -> LossClass:
    """The loss of a name.

    Raises:
        ValueError: unknown; names the nearest and lists all.
    """
    check_choice("loss", name, LOSSES)
    return LOSSES[name]

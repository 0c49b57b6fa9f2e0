"""Per-example losses and their gradients beside those of TRL 1.16.

TRL's formulas live inside its trainers' `_compute_loss`, which is called here on a stand-in for
the trainer with a batch of one: no model, no data.
"""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlkit.alignment.losses import DPO, IPO, KTO, NCA, Labelled, Pairs, SimPO, SLiC

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("default"),  # the peers are not ours to mend
]
AGREE = 1e-6  # absolute, of values and of gradients
EXAMPLES, LENGTH = 40, 9  # most tokens of a response


@pytest.fixture(scope="module")
def trl():
    """Trainers of the compared version."""
    module = pytest.importorskip("trl")
    if not module.__version__.startswith("1.16."):
        pytest.skip(f"trl {module.__version__}; the comparison is with 1.16")
    dpo = pytest.importorskip("trl.trainer.dpo_trainer").DPOTrainer
    kto = pytest.importorskip("trl.trainer.kto_trainer").KTOTrainer
    cpo = pytest.importorskip("trl.experimental.cpo").CPOTrainer
    return SimpleNamespace(dpo=dpo, kto=kto, cpo=cpo)


class Stub:
    """Stands for a policy whose token log-probabilities are known."""

    training = True

    def __init__(self, scores):
        same = 0 * scores
        self.output = SimpleNamespace(
            log_probs=scores, entropy=same, mean_logits=same, is_top1=scores > 0,
            log_sum_sq_probs=same, aux_loss=None,
        )  # fmt: skip

    def __call__(self, **_ignored):
        return self.output


def trainer(model, **fields):
    """What the loss functions read of a trainer."""
    device = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
    )
    return SimpleNamespace(
        model=model, accelerator=device, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5,
        loss_weights=[1.0], label_smoothing=0.0, use_weighting=False,
        args=SimpleNamespace(discopop_tau=0.05), _metrics={"train": defaultdict(list)},
        _total_train_tokens=0, _tp_size=1, **fields,
    )  # fmt: skip


def tokens(random, length):
    """Log-probabilities of the tokens of a response, and of a reference for all of it."""
    each = -torch.tensor(random.gamma(1.5, 1.0, length))
    return each, each.sum() + float(random.normal(0, 3)) - 3


def padded(each):
    return torch.cat([each, torch.zeros(LENGTH - len(each), dtype=each.dtype)])


def examples(seed, lengths=None):
    """Pairs of responses as token log-probabilities, with their reference scores."""
    random = np.random.default_rng(seed)
    for _ in range(EXAMPLES):
        long = random.integers(1, LENGTH + 1, 2) if lengths is None else lengths
        (w, w_ref), (x, x_ref) = tokens(random, long[0]), tokens(random, long[1])
        yield w.requires_grad_(), x.requires_grad_(), w_ref.detach(), x_ref.detach()


def mask_of(*responses):
    """One prompt token, then the response: TRL's completion mask."""
    rows = [[0] + [1] * len(r) + [0] * (LENGTH - len(r)) for r in responses]
    return torch.tensor(rows)


def theirs_paired(trl, kind, beta, w, x, w_ref, x_ref):
    model = Stub(torch.stack([padded(w), padded(x)]))
    mask = mask_of(w, x)
    batch = {
        "input_ids": torch.ones_like(mask), "attention_mask": torch.ones_like(mask),
        "completion_mask": mask, "ref_chosen_logps": w_ref[None], "ref_rejected_logps": x_ref[None],
    }  # fmt: skip
    return trl.dpo._compute_loss(trainer(model, loss_types=[kind], beta=beta), model, batch, False)


def pairs(w, x, w_ref, x_ref):
    long = torch.tensor([len(w)]).double(), torch.tensor([len(x)]).double()
    return Pairs(w.sum()[None], x.sum()[None], w_ref[None], x_ref[None], *long)


def agree(ours, theirs, *inputs):
    """Values and gradients are the same."""
    assert (ours - theirs).abs().item() < AGREE
    mine, other = (torch.autograd.grad(x.sum(), inputs) for x in (ours, theirs))
    assert all((a - b).abs().max() < AGREE for a, b in zip(mine, other, strict=True))


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
@pytest.mark.parametrize(("kind", "made"), [("sigmoid", DPO), ("nca_pair", NCA)])
def test_dpo_and_nca(kind, made, beta, trl):
    for w, x, *reference in examples(1):
        theirs = theirs_paired(trl, kind, beta, w, x, *reference)
        agree(made(beta)(pairs(w, x, *reference)), theirs, w, x)


@pytest.mark.parametrize("smoothing", [0.05, 0.3])
def test_dpo_with_flipped_labels_is_their_cpo_on_log_ratios(smoothing, trl):
    for w, x, *reference in examples(2):
        me = trainer(None, alpha=0.0, loss_type="sigmoid", beta=0.3)
        me.label_smoothing = smoothing
        ratios = w.sum()[None] - reference[0], x.sum()[None] - reference[1]
        theirs = trl.cpo.cpo_loss(me, *ratios)[0]
        agree(DPO(0.3, smoothing)(pairs(w, x, *reference)), theirs, w, x)


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_ipo_where_lengths_do_not_matter(tau, trl):
    """Theirs divides every log-ratio by the tokens of its response; ours is the paper's."""
    for w, x, *reference in examples(3, lengths=(1, 1)):
        theirs = theirs_paired(trl, "ipo", tau, w, x, *reference)
        agree(IPO(tau)(pairs(w, x, *reference)), theirs, w, x)


def test_ipo_on_means_of_log_ratios_is_theirs_at_any_length(trl):
    for w, x, w_ref, x_ref in examples(4):
        theirs = theirs_paired(trl, "ipo", 0.2, w, x, w_ref, x_ref)
        one = torch.ones(1).double()
        means = Pairs(
            w.mean()[None], x.mean()[None], w_ref[None] / len(w), x_ref[None] / len(x), one, one
        )
        agree(IPO(0.2)(means), theirs, w, x)
        assert len(w) == len(x) == 1 or abs(IPO(0.2)(pairs(w, x, w_ref, x_ref)) - theirs) > AGREE


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_slic_without_imitation_is_their_hinge_without_reference(beta, trl):
    """Theirs is `max(0, 1 - beta (s_w - s_l))`: ours at `delta = 1 / beta`, times beta."""
    active = 0
    for w, x, *reference in examples(5):
        me = trainer(None, alpha=0.0, loss_type="hinge", beta=beta)
        theirs = trl.cpo.cpo_loss(me, w.sum()[None], x.sum()[None])[0]
        ours = SLiC(1 / beta)(pairs(w, x, *reference))
        agree(beta * ours, theirs, w, x)
        active += int(ours.item() > 0)
    assert 0 < active < EXAMPLES


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_slic_on_log_ratios_is_the_hinge_of_their_dpo(beta, trl):
    for w, x, w_ref, x_ref in examples(6):
        theirs = theirs_paired(trl, "hinge", beta, w, x, w_ref, x_ref)
        ratios = pairs(w, x, w_ref, x_ref)._replace(
            chosen=w.sum()[None] - w_ref, rejected=x.sum()[None] - x_ref
        )
        agree(beta * SLiC(1 / beta)(ratios), theirs, w, x)


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (2.5, 0.3), (10.0, 0.0)])
def test_simpo(beta, gamma, trl):
    for w, x, *reference in examples(7):
        me = trainer(None, alpha=0.0, loss_type="simpo", beta=beta, simpo_gamma=gamma)
        theirs = trl.cpo.cpo_loss(me, w.mean()[None], x.mean()[None])[0]
        agree(SimPO(beta, gamma)(pairs(w, x, *reference)), theirs, w, x)


@pytest.mark.parametrize("desirable", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.3, 0.6)])
def test_kto(desirable, weights, trl):
    random = np.random.default_rng(8)
    baselines = []
    for w, _x, reference, _ in examples(9):
        model = Stub(padded(w)[None])
        divergence = torch.tensor(random.normal(0.5, 1.0, 6))  # of responses to other prompts
        me = trainer(
            model, loss_type="kto", beta=0.2, calculate_KL=True, desirable_weight=weights[0],
            undesirable_weight=weights[1], _compute_kl_logps=lambda m, b, d=divergence: d,
        )  # fmt: skip
        mask = mask_of(w)
        batch = {
            "input_ids": torch.ones_like(mask), "attention_mask": torch.ones_like(mask),
            "completion_mask": mask, "label": torch.tensor([desirable]),
            "ref_logps": reference[None], "ref_KL_logps": torch.zeros(6).double(),
        }  # fmt: skip
        theirs = trl.kto._compute_loss(me, model, batch, False)
        baselines.append(divergence.mean().clamp(min=0))
        label = torch.tensor([float(desirable)]).double()
        data = Labelled(w.sum()[None], reference[None], label, baselines[-1])
        agree(KTO(0.2, *weights)(data), theirs, w)
    assert 0 < sum(b.item() == 0 for b in baselines) < EXAMPLES

"""A sampler of long masked sequences: the trained denoiser itself, fine-tuned."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rlkit.diffusion.masked import MASK, one_hot
from rlkit.diffusion.masked_policies import MaskedSampler, masked_task
from rlkit.diffusion.masked_training import NetworkDenoiser, channels, logits
from rlkit.networks.convolution import Tagger
from rlkit.protocol import Spec
from rlkit.random import Rng


@dataclass(frozen=True)
class ConvPolicy(MaskedSampler):
    """A copy of the reference's network for each replica; it does not read the time."""

    def start(self, spec: Spec, rng: Rng) -> Tagger:
        """The reference's weights, leaves `[N, ...]`.

        Raises:
            ValueError: the reference is no network.
        """
        denoiser = masked_task(spec).denoiser
        if not isinstance(denoiser, NetworkDenoiser):
            raise ValueError(
                f"policy = 'conv' with a reference {type(denoiser).__name__}; accepted: a trained "
                "network, as that of MotifDNA-v0"
            )

        def copied(leaf: Tensor) -> Tensor:
            return leaf.detach().expand(rng.n, *leaf.shape[1:]).clone()

        return cast(Tagger, tree_map(copied, denoiser.parameters))

    def laws(self, spec: Spec, parameters: Tagger, tokens: Tensor, t: Tensor) -> Tensor:
        """Log-probabilities of letters `[N, M, L, 4]`."""
        law = torch.log_softmax(logits(parameters, channels(tokens)), -1)
        own = one_hot(tokens).log().to(law.dtype)
        return torch.where((tokens == MASK)[..., None], law, own)

    def relaxed_laws(self, spec: Spec, parameters: Tagger, x: Tensor, t: Tensor) -> Tensor:
        """Log-probabilities of letters `[N, M, L, 4]`."""
        return torch.log_softmax(logits(parameters, x.float()).to(x.dtype), -1)

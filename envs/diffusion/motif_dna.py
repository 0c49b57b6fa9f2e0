"""MotifDNA: masked diffusion on sequences with motifs, with trained denoiser and rewards."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

from torch.utils._pytree import tree_map

from rlkit.diffusion.masked import Denoiser
from rlkit.diffusion.masked_task import CHAINS
from rlkit.diffusion.masked_tasks import Reward
from rlkit.diffusion.masked_training import (
    NetworkDenoiser,
    Proxies,
    Training,
    scores,
    trained_denoiser,
    trained_rewards,
)
from rlkit.diffusion.motif_rewards import MotifCount, MotifReward
from rlkit.diffusion.motif_task import MotifDiffusion
from rlkit.diffusion.motifs import MotifLaw
from rlkit.diffusion.sequence_problem import SequenceProblem
from rlkit.networks.convolution import Tagger
from rlkit.protocol import Instance
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.validation import check_choice, check_integer, check_real

REWARDS = ("smooth", "count", "learned")
DENOISERS = ("network", "exact")


class MotifNetworks(NamedTuple):
    """What was trained, for all replicas; `()` where nothing is."""

    denoiser: Tagger | tuple[()]
    rewards: Proxies | tuple[()]


@problem("MotifDNA-v0")
@dataclass(frozen=True)
class MotifDNA(SequenceProblem):
    """Reverse masked diffusion on DNA-like sequences; the reward is how well two motifs fit.

    State x_t with its time t, action x_(t-1), which may only reveal masked positions. The defaults
    are the small task on plain Markov sequences; `length=50, share=0.3, reward=learned` is the
    realistic one. The networks are trained where the instance is drawn, once a process, and are
    the same for all replicas and seeds of a run.

    Raises:
        ValueError: a field outside its range, or an exact denoiser of sequences with motifs.
    """

    length: int = 30  # letters of a sequence, 6 .. 200
    share: float = 0.0  # probability that the data carry each motif, in [0, 1]
    reward: str = "smooth"  # observed: "smooth", "count" (no gradient) or "learned" (a network)
    motifs: tuple[str, ...] = ("GATAAG", "CACGTG")  # consensus of both, over A, C, G, T
    spacing: float = 0.0  # weight of the bonus for a distance of 12 between the motifs, >= 0
    noise: float = 0.1  # standard deviation of the labels of learned rewards, >= 0
    denoiser: str = "network"  # "network" or, without motifs in the data, "exact"
    chain: str = "parallel"  # "parallel" (T steps) or "single" (one position a step)
    steps: int = 12  # T of the parallel chain, >= 1
    width: int = 32  # of the networks, >= 1
    training_steps: int = 600  # of Adam for each network, >= 1
    training_batch: int = 64  # sequences a step, >= 1
    training_rate: float = 4e-3  # first step size, > 0; it falls to 0
    training_seed: int = 0  # of the training set and the networks, in [0, 2^32)

    def __post_init__(self) -> None:
        check_choice("reward", self.reward, REWARDS)
        check_choice("denoiser", self.denoiser, DENOISERS)
        check_choice("chain", self.chain, CHAINS)
        check_integer("steps", self.steps, 1)
        check_real("noise", self.noise, 0)
        check_integer("width", self.width, 1)
        check_integer("training_steps", self.training_steps, 1)
        check_integer("training_batch", self.training_batch, 1)
        check_real("training_rate", self.training_rate, 0, open_low=True)
        check_integer("training_seed", self.training_seed, 0, 2**32 - 1)
        share, spacing = self.law.share, self.truth.spacing  # checked where they are made
        if self.denoiser == "exact" and share > 0:
            raise ValueError(f"denoiser = 'exact' with share = {share}; accepted: share = 0")
        if spacing > 0 and self.reward == "count":
            raise ValueError(f"reward = 'count' with spacing = {spacing}; accepted: 0")

    @cached_property
    def law(self) -> MotifLaw:
        """The law of the data."""
        return MotifLaw(self.length, self.share, motifs=self.motifs)

    @cached_property
    def truth(self) -> MotifReward:
        """The smooth reward."""
        return MotifReward(self.spacing, self.motifs)

    @property
    def training(self) -> Training:
        """How networks are trained."""
        return Training(
            self.width,
            self.training_steps,
            self.training_batch,
            self.training_rate,
            self.training_seed,
        )

    def instance(self, rng: Rng) -> Instance:
        """The trained networks, the same for all replicas; which replicas there are."""
        denoiser: Tagger | tuple[()] = ()
        rewards: Proxies | tuple[()] = ()
        if self.denoiser == "network":
            denoiser = trained_denoiser(self.law, self.training).parameters
        if self.reward == "learned":
            rewards = trained_rewards(self.law, self.truth, self.noise, self.training)
        networks: Any = MotifNetworks(denoiser, rewards)
        there = tree_map(lambda leaf: leaf.to(rng.device), networks)
        return Instance(there, rng.replica)

    def task(self, instance: Instance) -> MotifDiffusion:
        """The sampler with its reward."""
        networks: MotifNetworks = instance.shared
        denoiser: Denoiser = self.law.background_on(instance.replica.device)
        if networks.denoiser:
            denoiser = NetworkDenoiser(networks.denoiser, self.length)
        learned: list[Reward | None] = [None, None]
        if networks.rewards:
            learned = [partial(scores, network) for network in networks.rewards]
        return MotifDiffusion(
            denoiser,
            self.chain,
            MotifCount(motifs=self.motifs) if self.reward == "count" else self.truth,
            self.steps,
            proxy=learned[0],
            smooth=self.reward != "count",
            law=self.law,
            seed=self.training_seed,
            truth=self.truth,
            judging=learned[1],
        )

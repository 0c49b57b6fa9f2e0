"""Diffusion models as Markov decision processes whose optimum is known.

The state is a noisy point and its noise level, the action the next point, the reward that of the
last one. On Gaussian mixtures marginals, kernels, tilted laws and soft values are closed forms; on
masked sequences they are sums over tables, or over the nearest neighbours of a Markov chain.
"""

from rlkit.diffusion.explicit_noise import given_noise as given_noise
from rlkit.diffusion.kernels import Chain as Chain
from rlkit.diffusion.kernels import Kernel as Kernel
from rlkit.diffusion.kernels import gaussian_log_density as gaussian_log_density
from rlkit.diffusion.kernels import white_noise as white_noise
from rlkit.diffusion.masked import MarkovMask as MarkovMask
from rlkit.diffusion.masked import MaskTable as MaskTable
from rlkit.diffusion.masked import product_law as product_law
from rlkit.diffusion.masked_chains import OneAtATime as OneAtATime
from rlkit.diffusion.masked_chains import ParallelSteps as ParallelSteps
from rlkit.diffusion.masked_hmm import HMMMask as HMMMask
from rlkit.diffusion.masked_oracles import ChainLaw as ChainLaw
from rlkit.diffusion.masked_oracles import objective as objective
from rlkit.diffusion.masked_oracles import parallel_law as parallel_law
from rlkit.diffusion.masked_oracles import parallel_optimal as parallel_optimal
from rlkit.diffusion.masked_oracles import parallel_values as parallel_values
from rlkit.diffusion.masked_oracles import single_law as single_law
from rlkit.diffusion.masked_oracles import single_optimal as single_optimal
from rlkit.diffusion.masked_tasks import MaskedTask as MaskedTask
from rlkit.diffusion.masked_tasks import MaskedTilt as MaskedTilt
from rlkit.diffusion.masked_tasks import motif_reward as motif_reward
from rlkit.diffusion.masked_tasks import pair_reward as pair_reward
from rlkit.diffusion.mixtures import Mixture as Mixture
from rlkit.diffusion.mixtures import gaussian_mixture as gaussian_mixture
from rlkit.diffusion.mixtures import gm1 as gm1
from rlkit.diffusion.mixtures import gm2 as gm2
from rlkit.diffusion.mixtures import lqg as lqg
from rlkit.diffusion.mixtures import ring as ring
from rlkit.diffusion.quadrature import GridTilt as GridTilt
from rlkit.diffusion.quadrature import grid_tilt as grid_tilt
from rlkit.diffusion.sampling import sample as sample
from rlkit.diffusion.schedules import Schedule as Schedule
from rlkit.diffusion.schedules import cosine_schedule as cosine_schedule
from rlkit.diffusion.schedules import linear_schedule as linear_schedule
from rlkit.diffusion.schedules import terminal_schedule as terminal_schedule
from rlkit.diffusion.tilting import Grid as Grid
from rlkit.diffusion.tilting import Tilt as Tilt
from rlkit.diffusion.tilting import linear_reward as linear_reward
from rlkit.diffusion.tilting import linear_tilt as linear_tilt
from rlkit.diffusion.tilting import mixture_tilt as mixture_tilt
from rlkit.diffusion.tilting import mode_reward as mode_reward
from rlkit.diffusion.tilting import quadratic_reward as quadratic_reward
from rlkit.diffusion.tilting import quadratic_tilt as quadratic_tilt

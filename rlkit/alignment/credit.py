"""Token credit: log-ratios read as advantages of the token MDP.

Rafailov et al. (2024), "From r to Q*": the logits of a policy trained on preferences are an optimal
soft Q-function, and `beta log(pi / pi_ref)` of a token is its optimal advantage
`r(s, a) + V(s') - V(s)`. Here Q excludes `beta log pi_ref`.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rlkit.alignment.policies import Policy
from rlkit.protocol import Spec, Tree
from rlkit.tokens import Automaton, Optimum, Responses, Rewards, occupancy
from rlkit.tokens.oracle import expectation, following
from rlkit.tokens.sequences import log_probability, look_up, returns, walk
from rlkit.validation import check_integer, check_real

LARGEST = 1 << 20  # responses that are listed


def token_credit(
    spec: Spec, policy: Policy, parameters: Tree, responses: Responses, beta: float
) -> Tensor:
    """`beta log(pi / pi_ref)` of each token `[N, B, H]`, in units of reward."""
    score = policy.score(spec, parameters, responses)
    return beta * (score - policy.reference(spec, responses))


def credit_table(automaton: Automaton, policy: Tensor, beta: float) -> Tensor:
    """`beta log(pi / pi_ref)` of a table `[N, H, Z, V]`; 0 for illegal tokens."""
    legal = automaton.reference > -torch.inf
    ratio = torch.where(legal, policy, 0.0) - torch.where(legal, automaton.reference, 0.0)
    return beta * ratio


def optimal_advantage(optimum: Optimum) -> Tensor:
    """`r(s, a) + V(s') - V(s)` of the soft optimum, `[N, H, Z, V]`."""
    return optimum.q - optimum.value[:, :-1, :, None]


def reward_of(automaton: Automaton, q: Tensor, final: Tensor, beta: float) -> Tensor:
    """The token rewards `[N, H, Z, V]` of which `q` is the optimal soft Q-function.

    The inverse of soft backward induction: `r = Q(s, a) - V(s')`.

    Args:
        automaton: the token MDP.
        q: `[N, H, Z, V]`, without `beta log pi_ref`.
        final: `[N, Z]` what the last state pays.
        beta: weight of the divergence, > 0.
    """
    check_real("beta", beta, 0, open_low=True)
    value = beta * torch.logsumexp(automaton.reference + q / beta, -1)
    value = torch.cat([value, final[:, None]], 1)
    after = [following(automaton, value[:, time + 1], time) for time in range(automaton.horizon)]
    return q - torch.stack(after, 1)


def implicit_reward(automaton: Automaton, law: Tensor, policy: Tensor, beta: float) -> Tensor:
    """Mean implicit reward `[N]` of responses drawn from the policy `law` `[N, H, Z, V]`.

    `E_law[beta log(pi / pi_ref)]`; where the reference is `law` itself, `-beta KL(law || pi)`.
    """
    return expectation(
        automaton, law, occupancy(automaton, law), credit_table(automaton, policy, beta)
    )


def expected_dpo(
    ratio: Tensor, weight: Tensor, reward: Tensor, beta: float, slope: float
) -> Tensor:
    """Expected DPO loss `[N]` over pairs of independent responses and their Boltzmann labels.

    Args:
        ratio: `[N, Y]` log-ratio of every response to a prompt.
        weight: `[N, Y]` its probability.
        reward: `[N, Y]`.
        beta: weight of the divergence, > 0.
        slope: inverse temperature of the labels, > 0.
    """
    check_real("beta", beta, 0, open_low=True)
    check_real("slope", slope, 0, open_low=True)
    margin = beta * (ratio[:, :, None] - ratio[:, None])
    wins = torch.exp(-softplus(slope * (reward[:, None] - reward[:, :, None])))
    loss = wins * softplus(-margin) + (1 - wins) * softplus(margin)
    return (weight[:, :, None] * weight[:, None] * loss).sum((1, 2))


def preferred_policy(tree: Automaton, rewards: Rewards, slope: float) -> Tensor:
    """The law of the preferred one of two responses of the reference, as a policy `[N, H, Z, V]`.

    What supervised fine-tuning on infinitely many preferred responses ends at. Labels are
    Boltzmann with inverse temperature `slope`.

    Args:
        tree: a token MDP whose states are prefixes, as `unrolled` makes them.
        rewards: of it.
        slope: inverse temperature of the labels, > 0.
    """
    check_real("slope", slope, 0, open_low=True)
    n, prompts = tree.prompt.shape
    horizon, size = tree.horizon, tree.vocabulary
    laws = []
    for prompt in range(prompts):
        every = every_response(tree, prompt)
        weight = log_probability(tree.reference, every).sum(-1).exp()
        reward = slope * returns(rewards, every)
        laws.append(weight * wins_against(reward, weight))
    law = torch.stack(laws, 1)
    table = []
    for time in range(horizon):
        mass = law.reshape(n, prompts, size**time, size, -1).sum(-1)
        usual = tree.reference[:, time].reshape(n, prompts, -1, size)
        total = mass.sum(-1, keepdim=True)
        met = torch.where(total > 0, mass.log() - total.log(), usual[:, :, : size**time])
        table.append(torch.cat([met, usual[:, :, size**time :]], 2).flatten(1, 2))
    return torch.stack(table, 1)


def wins_against(reward: Tensor, weight: Tensor) -> Tensor:
    """Twice the probability `[N, Y]` that a response is preferred to one drawn by `weight`."""
    out = torch.zeros_like(reward)
    for other in range(reward.shape[1]):
        margin = reward - reward[:, other, None]
        out = out + 2 * weight[:, other, None] * torch.exp(-softplus(-margin))
    return out


def likeliest(automaton: Automaton, policy: Tensor, prompt: Tensor) -> Responses:
    """The most probable response to each prompt `[N, P]`, by exhaustive search.

    The search is a dynamic program over (time, state). By the optimal policy the most probable
    response maximises `R + beta log pi_ref`: Rafailov et al. (2024), section 5.2, where equation
    13 should read `+V(s_0)`.
    """
    best = torch.zeros_like(policy[:, 0, :, 0])
    choice = []
    for time in reversed(range(automaton.horizon)):
        best, token = (policy[:, time] + following(automaton, best, time)).max(-1)
        choice.append(token)
    state, tokens = automaton.origin.gather(1, prompt), []
    for time, table in enumerate(reversed(choice)):
        tokens.append(look_up(table, state))
        row = look_up(automaton.successor[:, time], state)
        state = row.gather(-1, tokens[-1][..., None]).squeeze(-1)
    return walk(automaton, prompt, torch.stack(tokens, -1))


def every_response(automaton: Automaton, prompt: int = 0) -> Responses:
    """All `V**H` sequences of tokens after one prompt, legal or not, in the order of numbers.

    Raises:
        ValueError: more than 2**20.
    """
    size, horizon = automaton.vocabulary, automaton.horizon
    check_integer("vocabulary ** horizon", size**horizon, 1, LARGEST)
    device = automaton.prompt.device
    place = size ** torch.arange(horizon - 1, -1, -1, device=device)
    token = torch.arange(size**horizon, device=device)[:, None] // place % size
    token = token.expand(len(automaton.prompt), -1, -1)
    return walk(automaton, torch.full_like(token[..., 0], prompt), token)


def unrolled(automaton: Automaton, rewards: Rewards) -> tuple[Automaton, Rewards]:
    """The same token MDP on the tree of all prefixes, where policies are unrestricted.

    A prefix of `t` tokens is state `prompt * V**H + n`, `n` its number in base `V`.

    Raises:
        ValueError: more than 2**20 responses to all prompts.
    """
    n, prompts = automaton.prompt.shape
    size, horizon = automaton.vocabulary, automaton.horizon
    width = size**horizon
    check_integer("prompts * vocabulary ** horizon", prompts * width, 1, LARGEST)
    number = torch.arange(prompts * width, device=automaton.prompt.device)
    block, prefix = number // width * width, number % width
    longer = prefix[:, None] * size + torch.arange(size, device=number.device)
    # Prefixes longer than the time are never met.
    longer = torch.where(longer < width, longer, prefix[:, None])
    successor = (block[:, None] + longer).expand(n, horizon, -1, -1)
    state = automaton.origin.repeat_interleave(width, 1)
    parent, last = (block + prefix // size).expand(n, -1), (prefix % size).expand(n, -1)
    reference, token = [], []
    for time in range(horizon):
        reference.append(look_up(automaton.reference[:, time], state))
        token.append(look_up(rewards.token[:, time], state))
        row = look_up(automaton.successor[:, time], state.gather(1, parent))
        state = row.gather(-1, last[..., None]).squeeze(-1)
    origin = (torch.arange(prompts, device=number.device) * width).expand(n, -1)
    tree = Automaton(automaton.prompt, origin, successor, torch.stack(reference, 1))
    return tree, Rewards(torch.stack(token, 1), rewards.final.gather(1, state))

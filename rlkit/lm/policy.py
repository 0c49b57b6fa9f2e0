"""A causal language model as policy and as critic, behind the interface of tables and networks.

Parameters are copies of the module's tensors with a leading replica dimension of 1; the module
itself stays as it was loaded and is the reference. Prompts are padded on the left, responses on
the right; positions count from the first token that is no padding.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rlkit.lm.knowledge import LanguageKnowledge, language_knowledge
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.tokens import Responses
from rlkit.tuning.models import learned


class Text(NamedTuple):
    """Prompts and responses as a model reads them."""

    token: Tensor  # [B, L] int64
    real: Tensor  # [B, L] int64 1 where there is no padding

    @property
    def position(self) -> Tensor:
        """Of each token after the padding, `[B, L]`."""
        return (self.real.cumsum(1) - 1).clamp(min=0)


def before_the_end(token: Tensor, end: int) -> Tensor:
    """1 up to the end token, itself included, 0 after it: `[..., H]` float64."""
    ends = (token == end).long()
    return (ends.cumsum(-1) - ends == 0).double()


def questions(known: LanguageKnowledge, prompt: Tensor) -> Text:
    """Prompts `[B]` padded on the left to the longest of them."""
    length = known.prompt_length[0, prompt]
    width = int(length.max())
    token = known.prompt_tokens[0, prompt, known.prompt_tokens.shape[2] - width :]
    time = torch.arange(width, device=prompt.device)
    return Text(token, (time >= width - length[:, None]).long())


def one_replica(parameters: Tree) -> dict[str, Tensor]:
    """The tensors of the only replica.

    Raises:
        ValueError: there are several.
    """
    for leaf in parameters.values():
        if leaf.shape[0] != 1:
            raise ValueError(f"{leaf.shape[0]} replicas of a language model; accepted: 1")
    return {name: leaf[0] for name, leaf in parameters.items()}


def call(
    known: LanguageKnowledge, module: nn.Module, weights: Tree, text: Text, **more: Any
) -> Any:
    """Output of a module for a text, with these weights in place of its own."""
    given = {"input_ids": text.token, "attention_mask": text.real} | more
    if "position_ids" in known.language.accepts and "position_ids" not in given:
        given["position_ids"] = text.position
    return functional_call(module, weights, (), given)


@dataclass(frozen=True)
class LanguagePolicy:
    """The policy of a causal language model."""

    exact: ClassVar[bool] = False

    def start(self, spec: Spec, rng: Rng) -> Tree:
        """The weights of the reference, `[1, ...]` by name.

        Raises:
            ValueError: no language model, or several replicas.
        """
        module = language_knowledge(spec).language.module
        if rng.n != 1:
            raise ValueError(f"{rng.n} replicas of a language model; accepted: 1")
        return learned(module)

    def score(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Log-probability of each token `[1, B, H]`, 0 after the end; differentiable."""
        logits = self.logits(spec, one_replica(parameters), responses)
        token = responses.token[0, :, : logits.shape[1], None]
        chosen = logits.gather(-1, token).squeeze(-1) - torch.logsumexp(logits, -1)
        return self.filled(spec, chosen, responses) * self.mask(spec, responses)

    def laws(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Log-probabilities of all tokens where each is written `[1, B, H, V]`; differentiable.

        After the end the padding token has probability 1.
        """
        logits = self.logits(spec, one_replica(parameters), responses)
        law = self.filled(spec, torch.log_softmax(logits, -1), responses)
        filling = torch.full_like(law[0, 0, 0], -torch.inf)
        filling[language_knowledge(spec).language.pad] = 0.0
        return torch.where(self.mask(spec, responses)[..., None] > 0, law, filling)

    def reference(self, spec: Spec, responses: Responses) -> Tensor:
        """Log-probability of each token under the reference `[1, B, H]`, 0 after the end."""
        with torch.no_grad():
            return self.score(spec, {}, responses)

    def reference_laws(self, spec: Spec, responses: Responses) -> Tensor:
        """Log-probabilities of all tokens under the reference `[1, B, H, V]`."""
        with torch.no_grad():
            return self.laws(spec, {}, responses)

    def mask(self, spec: Spec, responses: Responses) -> Tensor:
        """1 up to the end token, itself included, 0 after it: `[1, B, H]`."""
        return before_the_end(responses.token, language_knowledge(spec).language.end)

    def logits(self, spec: Spec, weights: Tree, responses: Responses) -> Tensor:
        """Logits of the tokens of responses, up to the longest of them `[B, K, V]`."""
        known = language_knowledge(spec)
        text, count = joined(known, responses, self.mask(spec, responses)[0])
        more: dict[str, Any] = {"use_cache": False}
        if "logits_to_keep" in known.language.accepts:
            more["logits_to_keep"] = count
        output = call(known, known.language.module, weights, text, **more)
        return output.logits[:, -count:].float()

    def filled(self, spec: Spec, values: Tensor, responses: Responses) -> Tensor:
        """`[B, K, ...]` with zeros up to the horizon and a replica dimension, `[1, B, H, ...]`."""
        missing = responses.token.shape[-1] - values.shape[1]
        rest = values.new_zeros(values.shape[0], missing, *values.shape[2:])
        return torch.cat([values, rest], 1)[None].double()

    @torch.no_grad()
    def write(
        self,
        spec: Spec,
        parameters: Tree,
        prompt: Tensor,
        rng: Rng,
        prefix: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Responses:
        """Responses to `prompt` `[1, B]`; arguments as `rlkit.tokens.generate`.

        Keys and values of earlier tokens are kept from one token to the next.
        """
        known, weights = language_knowledge(spec), one_replica(parameters)
        language, horizon = known.language, known.horizon
        u = rng.uniform("token", prompt.shape[1], horizon, dtype=torch.float64)[0]
        text = questions(known, prompt[0])
        real, now, cache = text.real, text, None
        going = torch.ones_like(prompt[0], dtype=torch.bool)
        written: list[Tensor] = []
        more: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in language.accepts:
            more["logits_to_keep"] = 1
        while len(written) < horizon and bool(going.any()):
            if "position_ids" in language.accepts:
                more["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)[:, -now.token.shape[1] :]
            now = Text(now.token, real)
            output = call(known, language.module, weights, now, past_key_values=cache, **more)
            cache = output.past_key_values
            cdf = torch.softmax(output.logits[:, -1].double(), -1).cumsum(-1)
            token = (u[:, len(written), None] * cdf[:, -1:] >= cdf).sum(-1)
            token = token.clamp(max=cdf.shape[1] - 1)
            if prefix is not None and given is not None:
                token = torch.where(len(written) < given[0], prefix[0, :, len(written)], token)
            token = torch.where(going, token, torch.full_like(token, language.pad))
            written.append(token)
            real = torch.cat([real, going.long()[:, None]], 1)
            now = Text(token[:, None], real)
            going = going & (token != language.end)
        filling = torch.full_like(prompt[0], language.pad)
        written += [filling] * (horizon - len(written))
        whole = self.read(spec, prompt, torch.stack(written, -1)[None])
        return whole if given is None else whole._replace(given=given)

    def read(self, spec: Spec, prompt: Tensor, token: Tensor) -> Responses:
        """The given responses `token` `[1, B, H]` to `prompt` `[1, B]`."""
        state = prompt.new_zeros(*prompt.shape, token.shape[-1] + 1)
        return Responses(prompt, token, state, torch.zeros_like(prompt))

    def table(self, parameters: Tree) -> Tensor:
        """A language model has no table `[N, H, Z, V]`.

        Raises:
            ValueError: always.
        """
        raise ValueError("a language model is no table; accepted: policies with `exact`")


def joined(known: LanguageKnowledge, responses: Responses, mask: Tensor) -> tuple[Text, int]:
    """What a model reads to predict responses, and how many tokens the longest of them has.

    The last token is not read: nothing follows it.
    """
    asked = questions(known, responses.prompt[0])
    count = max(int(mask.sum(1).max()), 1)
    token = torch.cat([asked.token, responses.token[0, :, : count - 1]], 1)
    return Text(token, torch.cat([asked.real, mask[:, : count - 1].long()], 1)), count


@dataclass(frozen=True)
class LanguageCritic:
    """A copy of the model's body with a linear head that starts at zero."""

    def start(self, spec: Spec, rng: Rng) -> Tree:
        """The body's weights, and a head of zeros; `[1, ...]` by name."""
        module: Any = language_knowledge(spec).language.module
        like = module.get_input_embeddings().weight
        head = like.new_zeros(1, module.config.hidden_size)
        return {"body": learned(module.base_model), "head": head, "bias": head[:, :1].clone()}

    def values(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Value before each token `[1, B, H]`, 0 after the end; differentiable."""
        known, policy = language_knowledge(spec), LanguagePolicy()
        module: Any = known.language.module
        mask = policy.mask(spec, responses)
        text, count = joined(known, responses, mask[0])
        body = one_replica(parameters["body"])
        hidden = call(known, module.base_model, body, text, use_cache=False).last_hidden_state
        value = hidden[:, -count:] @ parameters["head"][0] + parameters["bias"]
        return policy.filled(spec, value, responses) * mask

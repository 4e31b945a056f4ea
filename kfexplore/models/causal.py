"""A causal transformers model as a teacher or a student: its weights and layers over the caches of this package.

Only its attention is replaced, through the library's registry, so that it reads our caches (attention.py). A thousand
prefixes can then share one context, and branches can be selected and joined, as with a `Teacher` or a `Student`.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kfexplore.errors import KfError
from kfexplore.models.attention import Cache, KVCache, attend
from kfexplore.models.layers import Network
from kfexplore.models.networks import Autoregressive, PushForward
from kfexplore.models.static_cache import StaticCache

ATTENTION = "kfexplore"
"""Name of `attend_cached` in the registry of transformers."""


@dataclass(frozen=True)
class CausalConfig:
    """Shape of a transformers model."""

    family: str
    """Its `model_type`."""
    vocab_size: int
    """Number of logits V."""
    width: int
    """Residual width H."""
    depth: int
    """Number of Transformer blocks."""
    context: int
    """Longest sequence, in tokens; at most the shortest `window` of its layers."""
    heads: int = 0
    """Attention heads."""
    block: int = 0
    """Largest number of noise slots K the student was trained on; 0 for a teacher."""
    origin: str = ""
    """Identity of the teacher's weights; for a student, that of the teacher it was distilled from."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings of its config.json that affect what is computed."""
    block_weights: int = 0
    """Number of weights in all blocks."""


class CausalNetwork(Network):
    """A causal transformers model with the interface of this package; it has no mask token.

    Args:
        network: A causal transformers model whose attention is `ATTENTION`.
        config: Its shape.
    """

    def __init__(self, network: Any, config: CausalConfig) -> None:
        super().__init__()
        self.network = network
        self.config = replace(config, block_weights=sum(weight.numel() for weight in self.blocks.parameters()))

    @property
    def blocks(self) -> Any:
        """The Transformer blocks."""
        return next(part for part in self.network.base_model.children() if isinstance(part, nn.ModuleList))

    def embed(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.network.get_input_embeddings()(ids)
        return vectors

    def run_blocks(self, x: Tensor, cache: Cache, keep: int = 0, *, read: int | None = None) -> Tensor:
        """As `Network.run_blocks`.

        Raises:
            KfError: the text is longer than the context, so a layer would not see all of it.
        """
        count = x.shape[1]
        positions = cache.positions(count, x.device)
        if isinstance(cache, StaticCache):  # decoders check the length and drop guesses beyond it
            positions = positions.clamp_max(self.config.context - 1)
        elif (last := int(positions.max())) >= self.config.context:
            raise KfError(f"The text has {last + 1} tokens.", f"at most {self.config.context} for this model")
        again = self.recompute and torch.is_grad_enabled()
        for block in self.blocks:
            block.gradient_checkpointing = block.training = again  # of this module only: no dropout
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        seen = cache.for_recomputing() if again and isinstance(cache, KVCache) else cache
        run = self.network.base_model(inputs_embeds=x, position_ids=positions, use_cache=False, kv_cache=seen)
        cache.commit(keep)
        hidden: Tensor = run.last_hidden_state
        return hidden if read is None else hidden[:, count - read :]

    def read(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.network.get_output_embeddings()(hidden).float()
        softcap = getattr(self.network.config, "final_logit_softcapping", None)
        return logits if softcap is None else softcap * (logits / softcap).tanh()


class CausalLM(Autoregressive, CausalNetwork):
    """A causal transformers model with the interface of `Teacher`."""

    def read(self, hidden: Tensor) -> Tensor:
        """As `Network.read`.

        Raises:
            KfError: the logits are not finite, so the inverse CDF would give invalid tokens.
        """
        logits = super().read(hidden)
        if not bool(logits.isfinite().all()):
            raise KfError("The model's logits are not finite.", "undamaged weights", "fetch the model again")
        return logits


class CausalStudent(PushForward, CausalNetwork):
    """The teacher's network and a noise encoder that adds input vectors, with the interface of `Student`."""

    @staticmethod
    def after(model: CausalLM | CausalStudent, block: int) -> CausalStudent:
        """A student of `block` slots with a copy of the weights of a teacher or of an earlier student."""
        made = CausalStudent(copy.deepcopy(model.network), replace(model.config, block=block)).to(model.device)
        if isinstance(model, CausalStudent):
            made.noise_encoder.load_state_dict(model.noise_encoder.state_dict())
        return made.requires_grad_(True)


def share_embeddings(student: CausalStudent, teacher: CausalLM) -> None:
    """Makes a student share the tensors of its teacher's embedding and head, which are not trained."""
    for name in ("get_input_embeddings", "get_output_embeddings"):
        getattr(student.network, name)().weight = getattr(teacher.network, name)().weight


def attend_cached(
    module: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    _mask: Tensor | None,
    *,
    scaling: float,
    kv_cache: Cache,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer as transformers calls it: q (B, h, t, d), k and v (B, g, t, d) -> (B, t, h, d).

    Keys with fewer heads than queries (g is a divisor of h) are repeated. `kv_cache` comes from
    `CausalNetwork.run_blocks`; `softcap` bounds the scores of Gemma 2. A sliding window needs no mask, since no text is
    longer (`CausalConfig.context`).
    """
    repeated = q.shape[1] // k.shape[1]
    k, v = (part.repeat_interleave(repeated, dim=1) if repeated > 1 else part for part in (k, v))
    scaled = q * (scaling * q.shape[-1] ** 0.5)  # `attend` divides by the root of d
    return attend(scaled, kv_cache.extend(module.layer_idx, k, v), softcap).transpose(1, 2), None


def window(config: Any) -> int | None:
    """Number of tokens that a sliding-window layer sees, including the query; None: every layer sees all."""
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    found: int | None = getattr(config, "sliding_window", None) if slides else None
    return found


def causal_network(config: Any) -> Any:
    """The causal model of a transformers config with the attention above, on the meta device (without weights)."""
    transformers = importlib.import_module("transformers")  # slow to import, needed only for such models
    transformers.AttentionInterface.register(ATTENTION, attend_cached)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)


def place_weights(network: Any, tensors: dict[str, Tensor], tied: bool) -> None:
    """Sets all weights of a network on the meta device; with `tied`, the head shares the embedding's weight."""
    network.load_state_dict(tensors, strict=True, assign=True)
    if tied:
        network.get_output_embeddings().weight = network.get_input_embeddings().weight
    for name, module in list(network.named_modules()):
        if hasattr(module, "scalar_embed_scale"):  # Gemma's embedding
            module.embed_scale = torch.tensor(module.scalar_embed_scale)
        elif module._non_persistent_buffers_set:  # rotary frequencies, which follow from the config
            network.set_submodule(name, type(module)(network.config))
    network.eval().requires_grad_(False)

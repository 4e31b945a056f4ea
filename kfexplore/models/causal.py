"""A causal transformers model as a teacher: its weights and layers over the caches of this package.

Only its attention is replaced, through the library's own registry: it runs over our caches (attention.py). A thousand
prefixes can therefore share one context, and branches are selected and joined, as with a `Teacher`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kfexplore.errors import KfError
from kfexplore.models.attention import Cache, KVCache, attend

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
    """Longest sequence, in tokens: no longer than the shortest `window` of its layers."""
    block_weights: int = 0
    """Weights of all blocks, together."""


class CausalLM(nn.Module):
    """Has the interface of `Teacher`; without a mask token, so no logit is masked.

    Args:
        network: A causal transformers model whose attention is `ATTENTION`.
        config: Its shape.
    """

    def __init__(self, network: Any, config: CausalConfig) -> None:
        super().__init__()
        own = (network.get_input_embeddings(), network.get_output_embeddings())
        apart = sum(parameter.numel() for module in own for parameter in module.parameters())
        weights = sum(parameter.numel() for parameter in network.parameters())
        self.network, self.config = network, replace(config, block_weights=weights - apart)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(self, ids: Tensor, cache: Cache | None = None, read: int | None = None) -> Tensor:
        """As `Teacher.forward`: next-token logits float32 (B, read or T, V).

        Raises:
            KfError: the text is longer than the context, so that a layer would not see all of it; the logits are not
                finite, so that noise would choose tokens that do not exist.
        """
        cache, count = cache or KVCache(), ids.shape[1]
        positions = cache.positions(count, ids.device)
        if (last := int(positions.max())) >= self.config.context:
            raise KfError(f"The text has {last + 1} tokens.", f"at most {self.config.context} for this model")
        answer = self.network(ids, position_ids=positions, use_cache=False, logits_to_keep=read or 0, kv_cache=cache)
        cache.commit(count)
        logits: Tensor = answer.logits.float()
        if not bool(logits.isfinite().all()):
            raise KfError("The model's logits are not finite.", "undamaged weights", "fetch the model again")
        return logits

    def fill(self, ids: Tensor, cache: Cache) -> None:
        """As `Backbone.fill`."""
        self(ids, cache, read=1)

    def log_probs(self, ids: Tensor) -> Tensor:
        """As `Teacher.log_probs`: (B, N) int64 -> (B, N, V) float32."""
        return self(ids).log_softmax(dim=-1)


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

    Where keys have fewer heads than queries (g divides h), they are repeated. `kv_cache` comes from `CausalLM.forward`;
    `softcap` bounds the scores of Gemma 2. A window needs no mask: no text is longer (`CausalConfig.context`).
    """
    repeated = q.shape[1] // k.shape[1]
    k, v = (part.repeat_interleave(repeated, dim=1) if repeated > 1 else part for part in (k, v))
    scaled = q * (scaling * q.shape[-1] ** 0.5)  # `attend` divides by the root of d
    return attend(scaled, kv_cache.extend(module.layer_idx, k, v), softcap).transpose(1, 2), None


def window(config: Any) -> int | None:
    """Tokens that a sliding-window layer sees, the query's included; None: every layer sees all."""
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    found: int | None = getattr(config, "sliding_window", None) if slides else None
    return found


def causal_network(config: Any) -> Any:
    """The causal model of a transformers config with the attention above, on the meta device (without weights)."""
    transformers = importlib.import_module("transformers")  # slow to import, needed for such teachers only
    transformers.AttentionInterface.register(ATTENTION, attend_cached)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)


def place_weights(network: Any, tensors: dict[str, Tensor]) -> None:
    """Sets all weights of a network on the meta device."""
    network.load_state_dict(tensors, strict=True, assign=True)
    for name, module in list(network.named_modules()):
        if hasattr(module, "scalar_embed_scale"):  # of Gemma's embedding
            module.embed_scale = torch.tensor(module.scalar_embed_scale)
        elif module._non_persistent_buffers_set:  # rotary frequencies, which follow from the config
            network.set_submodule(name, type(module)(network.config))
    network.eval().requires_grad_(False)

"""The three kinds of models on one backbone: teacher, push-forward student (paper, section 3) and masked model."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from kfexplore import noise as noises
from kfexplore.config import ModelConfig
from kfexplore.errors import KfError
from kfexplore.models.attention import Cache, KVCache
from kfexplore.models.layers import Backbone, Network
from kfexplore.models.onednn_linear import Linear

SIGMA_FEATURES = 256
"""Number of features of the masked model's noise level."""


class Autoregressive(Network):
    """Tokens in, the distribution of the next token out."""

    def forward(self, ids: Tensor, cache: Cache | None = None, read: int | None = None) -> Tensor:
        """Next-token logits float32 after the last `read` of ids (B, T), all by default: (B, read or T, V).

        `cache`, if given, holds the tokens before ids, and keeps ids.
        """
        return self.read(self.run_blocks(self.embed(ids), cache or KVCache(), keep=ids.shape[1], read=read))

    def log_probs(self, ids: Tensor) -> Tensor:
        """Natural-log distribution of the next token at every position: ids (B, N) int64 -> (B, N, V) float32."""
        return self(ids).log_softmax(dim=-1)


class Teacher(Autoregressive, Backbone):
    """Autoregressive model of the published layout."""


class NoiseEncoder(nn.Module):
    """Maps a noise value u in [0, 1) and a temperature tau to one input vector.

    Features of s: cos(2 pi s f_i), sin(2 pi s f_i) with f_i = 10000^(-i / half), half = H / 2, in float64. Never under
    autocast: bf16 resolves only 256 values of u.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = tuple(10000.0 ** (-i / (width // 2)) for i in range(width // 2))
        self.combined_proj = Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))

    def features(self, s: Tensor) -> Tensor:
        """(...) float64 -> (..., H) in the dtype of the weights."""
        angles = s[..., None] * _radians(self.frequencies, s.device)
        return torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.combined_proj.weight.dtype)

    def forward(self, noise: Tensor, tau: float = 1.0) -> Tensor:
        """noise (B, k) in [0, 1) -> (B, k, H)."""
        noise = noise.double()
        with torch.autocast(noise.device.type, enabled=False):
            own = self.features(noise)
            both = torch.cat([own, self.features(noise.new_full((1, 1), tau)).expand_as(own)], dim=-1)
            x = self.combined_proj(both)
            return x + self.mlp(self.norm(x))


@cache  # never evicted: CUDA graphs read the tensor at its address
def _radians(frequencies: tuple[float, ...], device: torch.device) -> Tensor:
    """2 pi f in float64; not a buffer of the module, whose dtype would follow the weights."""
    with torch.inference_mode(False):
        return torch.tensor([2 * math.pi * f for f in frequencies], dtype=torch.float64, device=device)


class PushForward(Network):
    """A network plus noise encoder. Logits are read at the noise positions; the map is their argmax."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.noise_encoder = NoiseEncoder(self.config.width)

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """Logits (B, also + k, V), float32, of the hidden states of `slots`, which takes the same arguments."""
        return self.read(self.slots(*given, **named))

    def slots(
        self,
        tokens: Tensor | None,
        noise: Tensor,
        cache: Cache,
        tau: float = 1.0,
        keep_noise: int = 0,
        also: int = 0,
    ) -> Tensor:
        """One pass over the tokens chosen last and k new noise slots.

        Args:
            tokens: (B, t) chosen tokens to append, which the cache keeps; None for none.
            noise: (B, k) in [0, 1).
            cache: Keys and values of the tokens before.
            tau: Temperature, an input of the noise encoder; 1 in all published results.
            keep_noise: Noise slots that the cache keeps as well (only without `tokens`): by causality, a sweep of slot
                j reuses those before j.
            also: Number of last tokens to read as well, before the slots. A student trained with `ntp_loss_weight`
                gives the distribution of the next token there.

        Returns:
            Hidden states (B, also + k, H).
        """
        if tokens is not None and keep_noise:
            raise ValueError("noise slots can be kept only where no tokens come before them")
        x = self.noise_encoder(noise, tau)
        kept = keep_noise
        if tokens is not None:
            x = torch.cat([self.embed(tokens), x], dim=1)
            kept = tokens.shape[1]
        return self.run_blocks(x, cache, keep=kept, read=noise.shape[1] + also)

    def block_logits(self, ids: Tensor, noise: Tensor, tau: float = 1.0) -> Tensor:
        """Logits of one block, without keeping a cache: ids (B, N), noise (B, k) -> (B, k, V) float32.

        Raises:
            KfError: k is 0 or above the trained block, or noise is outside [0, 1).
        """
        if not 1 <= noise.shape[1] <= self.config.block:
            raise KfError(f"k is {noise.shape[1]}.", f"1 to {self.config.block}, the block this student was trained on")
        noises.checked(noise)
        return self(ids, noise, KVCache(), tau)

    def group_logits(self, ids: Tensor, noise: Tensor, ends: Tensor, *given: Any, **named: Any) -> Tensor:
        """Logits (B, G, k, V), float32, of the hidden states of `group_slots` after contexts ids (B, N)."""
        return self.read(self.group_slots(self.prefill(ids), noise, ends, *given, **named)).unflatten(0, ends.shape)

    def group_slots(
        self,
        cache: KVCache,
        noise: Tensor,
        ends: Tensor,
        tau: float = 1.0,
        given: Tensor | None = None,
        causal: bool = True,
    ) -> Tensor:
        """The training pass: a block of noise slots after many prefixes of each context at once (paper, section 3).

        Group g of row b sees the first ends[b, g] tokens of its context and its own slots, no other group, so the
        cost is linear in the number of slots.

        Args:
            cache: B prefilled contexts of N tokens.
            noise: (B, G, k) in [0, 1).
            ends: (B, G) int64, 1 .. N: tokens of the context that each group sees.
            tau: Temperature.
            given: (B, G, t) tokens placed between the prefix and the noise (second round of self-forcing).
            causal: A slot sees the slots before it; False: the context and itself only.

        Returns:
            Hidden states (B * G, k, H).
        """
        rows = cache.branch(visible=ends.flatten(), alone=not causal)
        tokens = None if given is None else given.flatten(0, 1)
        return self.slots(tokens, noise.flatten(0, 1), rows, tau)


class Student(PushForward, Backbone):
    """Push-forward model of the published layout."""


class SigmaMap(nn.Module):
    """Maps a noise level sigma (B,) to conditioning (B, C): cos, then sin of sigma f_i, f_i = 10000^(-i / 128)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SIGMA_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: Tensor) -> Tensor:
        half = SIGMA_FEATURES // 2
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, device=sigma.device) / half)
        angles = sigma[:, None].float() * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(next(self.parameters()).dtype))


class MaskedModel(Backbone):
    """Masked diffusion model (MDLM): bidirectional, with one marginal distribution per mask token; sigma = 0."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.sigma_map = SigmaMap(config.cond_width)

    def forward(self, ids: Tensor, read: int | None = None) -> Tensor:
        """Logits float32 for partly masked ids (B, N), the mask token's at -1e6: (B, N, V), or the last `read` of N."""
        hidden = self.hidden(ids)
        return self.read(hidden if read is None else hidden[:, -read:])

    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states (B, N, H) of partly masked ids (B, N)."""
        return self.run_blocks(self.embed(ids), None, cond=self._condition(len(ids)))

    def read(self, hidden: Tensor) -> Tensor:
        """Logits float32 (B, T, V) of hidden states (B, T, H), the mask token's at -1e6."""
        logits = self.output_layer(hidden, self._condition(len(hidden)))
        logits[..., self.config.mask_id] = -1e6
        return logits

    def _condition(self, batch: int) -> Tensor:
        """(B, C) at sigma = 0."""
        return nn.functional.silu(self.sigma_map(torch.zeros(batch, device=self.device)))

    def log_probs(self, ids: Tensor) -> Tensor:
        """Natural-log marginals at every position: ids (B, N) int64 -> (B, N, V) float32.

        Meaningful at masked positions only.
        """
        return self(ids).log_softmax(dim=-1)

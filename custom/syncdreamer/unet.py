"""Stable Diffusion's denoising network, with attention along the depth of a frustum volume in its up path.

Depth attention comes between the blocks of the official layout, some of which end with an upsampling. In diffusers'
UNet2DConditionModel these places are inside a block, so the network is assembled here, under the official names.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

VOLUME_GROUPS = 8  # of GroupNorm in all layers that SyncDreamer adds to Stable Diffusion
DEPTH_HEADS = 4  # heads of depth attention, each half as wide as the volume


@dataclass(frozen=True)
class UNetSize:
    """The sizes that fix the network's shapes; levels are ordered from the finest to the coarsest."""

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]  # at each level
    layers: int  # residual blocks of a level in the down path; the up path has one more
    attends: tuple[bool, ...]  # whether a level has attention over pixels and to the context
    depth: int  # transformer blocks per attention layer
    heads: int
    context_width: int
    volume_channels: tuple[int, ...]  # of the frustum volume at each level


def sinusoids(values: Tensor, width: int) -> Tensor:
    """Embed numbers [B]: [B, width] float32 cosines, then sines."""
    return get_timestep_embedding(values, width, flip_sin_to_cos=True, downscale_freq_shift=0)


def time_layers(inside: int, outside: int) -> nn.Sequential:
    """Return layers from the sinusoids of a timestep to its embedding."""
    return nn.Sequential(nn.Linear(inside, outside), nn.SiLU(), nn.Linear(outside, outside))


class ResBlock(nn.Module):
    """A residual block, shifted by an embedding [B, E]."""

    def __init__(self, inside: int, outside: int, embedding: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inside), nn.SiLU(), nn.Conv2d(inside, outside, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outside))
        out_layers = nn.GroupNorm(32, outside), nn.SiLU(), nn.Identity(), nn.Conv2d(outside, outside, 3, padding=1)
        self.out_layers = nn.Sequential(*out_layers)  # the identity is where training had dropout
        self.skip_connection = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift = self.emb_layers(embedding)[..., None, None]
        return self.skip_connection(x) + self.out_layers(self.in_layers(x) + shift)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class DepthAttention(nn.Module):
    """Attention of each pixel to the volume's cells along its ray."""

    def __init__(self, channels: int, volume_channels: int) -> None:
        super().__init__()
        self.to_q = nn.Conv2d(channels, channels, 1, bias=False)
        self.to_k = nn.Conv3d(volume_channels, channels, 1, bias=False)
        self.to_v = nn.Conv3d(volume_channels, channels, 1, bias=False)
        self.to_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, volume: Tensor) -> Tensor:
        projected = self.to_q(x), self.to_k(volume), self.to_v(volume)
        q, k, v = (features.unflatten(1, (DEPTH_HEADS, -1)) for features in projected)
        scores = torch.einsum("bncyx,bncdyx->bndyx", q, k) / math.sqrt(q.shape[2])
        mixed = torch.einsum("bndyx,bncdyx->bncyx", scores.softmax(dim=2), v)
        return self.to_out(mixed.flatten(1, 2))


class DepthTransformer(nn.Module):
    """Adds features of a frustum volume [B, C, D, h, w] to features [B, channels, h, w].

    A volume of zeros still has an effect, by the biases of GroupNorm.
    """

    def __init__(self, channels: int, volume_channels: int) -> None:
        super().__init__()
        width = DEPTH_HEADS * (volume_channels // 2)
        self.proj_in = nn.Sequential(nn.Conv2d(channels, width, 1), _volume_norm(width), nn.SiLU())
        mix = nn.Conv3d(volume_channels, volume_channels, 1, bias=False)
        self.proj_context = nn.Sequential(mix, _volume_norm(volume_channels), nn.ReLU())
        self.depth_attn = DepthAttention(width, volume_channels)
        inner = _volume_norm(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)
        outer = _volume_norm(width), nn.ReLU(), nn.Conv2d(width, channels, 3, padding=1, bias=False)
        self.proj_out = nn.Sequential(*inner, *outer)

    def forward(self, x: Tensor, volume: Tensor) -> Tensor:
        return x + self.proj_out(self.depth_attn(self.proj_in(x), self.proj_context(volume)))


class DepthUNet(nn.Module):
    """Estimates the noise in noisy latents, given a context and a frustum volume."""

    def __init__(self, size: UNetSize) -> None:
        super().__init__()
        self.size, self.width = size, size.channels[0]
        self.time_embed = time_layers(self.width, 4 * self.width)
        skips = self._build_down(size)
        top = size.channels[-1]
        middle = self._res_block(top, top), self._attention(top), self._res_block(top, top)
        self.middle_block = nn.ModuleList(middle)
        self.middle_conditions = DepthTransformer(top, size.volume_channels[-1])
        self._build_up(size, skips)
        last = nn.Conv2d(self.width, size.out_channels, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(32, self.width), nn.SiLU(), last)

    def _build_down(self, size: UNetSize) -> list[int]:
        """Build the blocks of the down path; returns the channels of each one's skip connection."""
        blocks: list[list[nn.Module]] = [[nn.Conv2d(size.in_channels, self.width, 3, padding=1)]]
        skips = [self.width]
        for level, channels in enumerate(size.channels):
            for _ in range(size.layers):
                blocks.append([self._res_block(skips[-1], channels), *self._attention_at(level)])
                skips.append(channels)
            if level + 1 < len(size.channels):
                blocks.append([Downsample(channels)])
                skips.append(channels)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        return skips

    def _build_up(self, size: UNetSize, skips: list[int]) -> None:
        """Build the blocks of the up path; depth attention follows all but those of the coarsest level."""
        blocks, conditions = [], []
        self.condition_levels: list[int | None] = []  # of the volume, for each block; None: no depth attention
        before, coarsest = size.channels[-1], len(size.channels) - 1
        for level in range(coarsest, -1, -1):
            channels = size.channels[level]
            for layer in range(size.layers + 1):
                block = [self._res_block(before + skips.pop(), channels), *self._attention_at(level)]
                before, after = channels, level
                if layer == size.layers and level > 0:
                    block.append(Upsample(channels))
                    after = level - 1
                has_depth = level < coarsest
                self.condition_levels.append(after if has_depth else None)
                if has_depth:
                    conditions.append(DepthTransformer(channels, size.volume_channels[after]))
                blocks.append(block)
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.output_conditions = nn.ModuleList(conditions)

    def _res_block(self, inside: int, outside: int) -> ResBlock:
        return ResBlock(inside, outside, 4 * self.width)

    def _attention_at(self, level: int) -> list[nn.Module]:
        return [self._attention(self.size.channels[level])] if self.size.attends[level] else []

    def _attention(self, channels: int) -> nn.Module:
        size = self.size
        options = {"num_layers": size.depth, "cross_attention_dim": size.context_width}
        return Transformer2DModel(size.heads, channels // size.heads, channels, **options)

    def forward(self, sample: Tensor, timestep: Tensor, context: Tensor, volumes: Sequence[Tensor]) -> Tensor:
        """Return the estimated noise [B, 4, h, w].

        Args:
            sample: [B, 8, h, w] noisy latents, then those of the input image.
            timestep: [B] of the noise schedule.
            context: [B, tokens, D].
            volumes: frustum features [B, C, D, h, w] at each level's resolution, the finest first.
        """
        embedding = self.time_embed(sinusoids(timestep, self.width).to(sample.dtype))
        x, skips = sample, []
        for block in self.input_blocks:
            x = _through(block, x, embedding, context)
            skips.append(x)
        x = self.middle_conditions(_through(self.middle_block, x, embedding, context), volumes[-1])
        conditions = iter(self.output_conditions)
        for block, level in zip(self.output_blocks, self.condition_levels, strict=True):
            x = _through(block, torch.cat([x, skips.pop()], dim=1), embedding, context)
            if level is not None:
                x = next(conditions)(x, volumes[level])
        return self.out(x)


def _volume_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(VOLUME_GROUPS, channels)


def _through(layers: Any, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
    for layer in layers:
        if isinstance(layer, ResBlock):
            x = layer(x, embedding)
        elif isinstance(layer, Transformer2DModel):
            x = layer(x, encoder_hidden_states=context, return_dict=False)[0]
        else:
            x = layer(x)
    return x

"""Layers of the bundled priors' networks; weights are stored as matrices for the Muon optimizer."""

import math
from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.core.ranges import Range
from liftstudio.ops.backends import fast_bfloat16

HEAD_WIDTH = 32  # channels of an attention head

Multiple8 = Annotated[int, Range(multiple_of=8)]
HeadMultiple = Annotated[int, Range(multiple_of=HEAD_WIDTH)]


class Conv(nn.Module):
    """A 2D or 3D convolution whose weight is stored as a matrix [out, in * kernel], as Muon needs it."""

    def __init__(self, inside: int, outside: int, axes: int, kernel: int = 3, stride: int = 1, gain: float = 1.0):
        super().__init__()
        self.shape, self.axes, self.kernel, self.stride = (outside, inside, *[kernel] * axes), axes, kernel, stride
        taps = inside * kernel**axes
        self.weight = nn.Parameter(torch.randn(outside, taps) * gain / math.sqrt(taps))
        self.bias = nn.Parameter(torch.zeros(outside))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype).view(self.shape), self.bias.to(x.dtype)
        padding = (self.kernel - self.stride + 1) // 2
        if self.axes == 2:
            return F.conv2d(x, weight, bias, self.stride, padding)
        if x.device.type == "cpu" and _in_onednn(x.dtype):
            # For one small volume F.conv3d bypasses oneDNN; its own implementation takes two to three times as long.
            stride, each_side, dilation = ([value] * 3 for value in (self.stride, padding, 1))
            return torch.mkldnn_convolution(x, weight, bias, each_side, stride, dilation, 1)
        return F.conv3d(x, weight, bias, self.stride, padding)


def _in_onednn(dtype: torch.dtype) -> bool:
    """Return whether oneDNN, called directly, convolves in this precision on this CPU."""
    suits = dtype == torch.float32 or (dtype == torch.bfloat16 and fast_bfloat16("cpu"))
    return suits and torch.backends.mkldnn.is_available()


class Block(nn.Module):
    """A residual block, shifted by an optional embedding."""

    def __init__(self, inside: int, outside: int, axes: int, embedding: int = 0):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inside), nn.GroupNorm(8, outside)
        self.conv1, self.conv2 = Conv(inside, outside, axes), Conv(outside, outside, axes, gain=0.1)
        self.skip = Conv(inside, outside, axes, kernel=1) if inside != outside else nn.Identity()
        self.shift = nn.Linear(embedding, outside) if embedding else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.shift is not None:
            assert embedding is not None
            h = h + self.shift(embedding).to(x.dtype).view(len(x), -1, *[1] * self.conv1.axes)
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Self-attention over all positions of a small image or volume, so that distant parts inform each other."""

    def __init__(self, width: int, head: int = HEAD_WIDTH):
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(8, width), width // head
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).mT.float()  # [B, N, C]
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(tokens).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(mixed).mT.reshape(x.shape).to(x.dtype)


def through(blocks: Iterable[nn.Module], x: Tensor, embedding: Tensor) -> Tensor:
    """Pass `x` through all blocks."""
    for block in blocks:
        x = block(x, embedding)
    return x


def doubled(x: Tensor) -> Tensor:
    """Upsample [B, C, ...] by 2 along each axis, by nearest neighbours."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def level_features(sigma: Tensor, views: Tensor) -> Tensor:
    """Return [B, 33]: Fourier features of 0.25 ln sigma, and log(1 + number of views)."""
    c = 0.25 * sigma.log()
    frequency = 2.0 ** torch.linspace(-1, 4, 16, device=sigma.device)
    angle = c[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos(), views.float().log1p()[:, None]], dim=-1)

"""Self-attention to a reference: its keys and values replace those of a view.

After HiFi-123's release, whose editor is that of MasaCtrl (Cao et al. 2023): queries stay, keys and values are
replaced, not concatenated, in self-attention only, from one layer to the last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.core.errors import InputError

KeysValues = dict[int, tuple[Tensor, Tensor]]  # layer number -> keys and values [1, tokens, D] of the reference

LAST_QUARTER = 0  # of the layers, in a network of any size; in Stable Diffusion the release's 12 to 15 of 16


@contextmanager
def injection(
    unet: nn.Module, last_layers: int = LAST_QUARTER, keys_values: KeysValues | None = None
) -> Iterator[KeysValues]:
    """Replace keys and values in the last self-attention layers of `unet` by those of a reference.

    No calls are counted: every call inside the context does the same. On exit, also after an exception, the attention
    processors are restored.

    Args:
        unet: diffusers' UNet2DConditionModel.
        last_layers: number of layers, of those that `self_attentions` lists; LAST_QUARTER: a quarter of them, rounded.
        keys_values: of a reference outside the batch, as yielded by an earlier `injection`; None: the reference is the
            first element of the batch, whose own result does not change.

    Yields:
        The keys and values in use, by layer number: those of the latest call, or those given.

    Raises:
        InputError: there is no self-attention at the requested layers.
    """
    layers = _last_self_attentions(unet, last_layers)
    in_use: KeysValues = {} if keys_values is None else keys_values
    if keys_values is not None and not layers.keys() <= keys_values.keys():
        raise ValueError(f"keys_values: expected those of the layers {sorted(layers)}, got {sorted(keys_values)}")
    before = {number: attention.processor for number, attention in layers.items()}
    try:
        for number, attention in layers.items():
            attention.set_processor(_ReferenceAttention(number, in_use, from_batch=keys_values is None))
        yield in_use
    finally:
        for number, attention in layers.items():
            attention.set_processor(before[number])


def self_attentions(unet: nn.Module) -> list[tuple[str, Any]]:
    """Return name and module of the first attention of each transformer block, in the order of a forward pass.

    (diffusers lists the middle block last.) The first attention of a block is self-attention unless the network is
    configured without it.
    """
    parts = {part: getattr(unet, part, None) for part in ("down_blocks", "mid_block", "up_blocks")}
    named = [(f"{part}.{name}", module) for part, top in parts.items() if top for name, module in top.named_modules()]
    return [(name, module) for name, module in named if name.endswith(".attn1")]


def _last_self_attentions(unet: nn.Module, count: int) -> dict[int, Any]:
    """Return layer number -> module."""
    every = self_attentions(unet)
    if count == LAST_QUARTER:
        count = max(1, round(len(every) / 4))
    if not 1 <= count <= len(every):
        raise InputError(f"last_layers: expected 1 to {len(every)}, the UNet's self-attention layers, got {count}")
    numbered = dict(list(enumerate(every))[-count:])
    for number, (name, attention) in numbered.items():
        if attention.is_cross_attention:
            raise InputError(f"last_layers: layer {number} of the UNet ({name}) has no self-attention; ask for fewer")
    return {number: attention for number, (_, attention) in numbered.items()}


class _ReferenceAttention:
    """Processor for diffusers' `Attention`, in the plain self-attention of its transformer blocks."""

    def __init__(self, number: int, keys_values: KeysValues, *, from_batch: bool) -> None:
        self.number, self.keys_values, self.from_batch = number, keys_values, from_batch

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Return hidden states [B, tokens, D] after attention; the other arguments are for other kinds of attention."""
        if self.from_batch:
            self.keys_values[self.number] = attn.to_k(hidden_states[:1]), attn.to_v(hidden_states[:1])
        every = attn.to_q(hidden_states), *self.keys_values[self.number]
        heads = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in every)
        query, key, value = (part.expand(len(hidden_states), -1, -1, -1) for part in heads)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        projection, dropout = attn.to_out
        return dropout(projection(mixed.transpose(1, 2).flatten(2)))

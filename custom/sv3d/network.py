"""SV3D's denoising network: that of Stable Video Diffusion, with a camera per frame."""

from typing import Any

import torch
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from torch import Tensor, nn

RESNET_EPS = 1e-5  # of the official network; diffusers' blocks with attention use 1e-6


class SV3DUNet(UNetSpatioTemporalConditionModel):
    """The network of diffusers with the official GroupNorm eps and a vector per frame instead of one per video."""

    up_blocks: Any  # diffusers is untyped

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        for name, module in self.named_modules():
            if isinstance(module, nn.GroupNorm) and ".resnets." in name:
                module.eps = RESNET_EPS
            if ".temporal_transformer_blocks." in name and name.endswith(".attn2"):
                module.register_forward_pre_hook(_with_contiguous_context, with_kwargs=True)

    def forward(  # type: ignore[override]  # its inputs differ from the base class's
        self, sample: Tensor, c_noise: Tensor, context: Tensor, vectors: Tensor
    ) -> Tensor:
        """Return the network's raw output [B, T, 4, h, w], in the network's dtype.

        Args:
            sample: [B, T, 8, h, w] noisy latents of unit variance, then the latents of the input image.
            c_noise: [B] float32, a quarter of the natural logarithm of the noise level.
            context: [B, tokens, D] embedding of the input image.
            vectors: [B, T, A] float32, see `conditioning.frame_vectors`.
        """
        videos, frames = sample.shape[:2]
        shared = {
            "temb": self._embedding(c_noise, vectors),
            # zeros: these are videos, not single images, so the temporal layers are used
            "image_only_indicator": torch.zeros(videos, frames, dtype=self.dtype, device=sample.device),
        }
        attended = {**shared, "encoder_hidden_states": context.to(self.dtype).repeat_interleave(frames, dim=0)}
        hidden = self._through_blocks(sample.to(self.dtype).flatten(0, 1), shared, attended)
        output = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return output.unflatten(0, (videos, frames))

    def _embedding(self, c_noise: Tensor, vectors: Tensor) -> Tensor:
        """Embed noise levels and frame vectors, [B * T, E]."""
        time = self.time_embedding(self.time_proj(c_noise).to(self.dtype))
        per_frame = self.add_embedding(vectors.flatten(0, 1).to(self.dtype))
        return time.repeat_interleave(vectors.shape[1], dim=0) + per_frame

    def _through_blocks(self, sample: Tensor, shared: dict[str, Tensor], attended: dict[str, Tensor]) -> Tensor:
        hidden = self.conv_in(sample)
        skips = [hidden]
        for block in self.down_blocks:
            hidden, outputs = block(hidden_states=hidden, **(attended if _has_attention(block) else shared))
            skips.extend(outputs)
        hidden = self.mid_block(hidden_states=hidden, **attended)
        for block in self.up_blocks:
            count = len(block.resnets)
            joined, skips = tuple(skips[-count:]), skips[:-count]
            options = attended if _has_attention(block) else shared
            hidden = block(hidden_states=hidden, res_hidden_states_tuple=joined, **options)
        return hidden


def _with_contiguous_context(_: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    """Copy the context that diffusers only expands to all pixels: matmuls get three times as fast and more accurate."""
    return inputs, {**options, "encoder_hidden_states": options["encoder_hidden_states"].contiguous()}


def _has_attention(block: nn.Module) -> bool:
    return bool(getattr(block, "has_cross_attention", False))

"""ImageDream's denoising network: Stable Diffusion 2.1's with attention across views and camera conditions."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn


class AcrossFrames(AttnProcessor2_0):
    """Self-attention over all pixels of all frames of an object (Shi et al. 2023, "MVDream", sec. 3.1)."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        frames: int = 1,
    ) -> Tensor:
        """Map [objects * frames, pixels, D], frames fastest, to the same shape."""
        together = hidden_states.unflatten(0, (-1, frames)).flatten(1, 2)
        return super().__call__(attn, together).reshape(hidden_states.shape)


class ToText(AttnProcessor2_0):
    """Cross-attention to the text, independently per frame."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        frames: int = 1,
    ) -> Tensor:
        """Map [B, pixels, D] and tokens [B, N, C] to [B, pixels, D]."""
        return super().__call__(attn, hidden_states, encoder_hidden_states)


class ToTextAndImage(nn.Module):
    """Cross-attention to the text, plus one to the image tokens with separate keys and values.

    Ye et al. 2023, "IP-Adapter", eq. 5.
    """

    def __init__(self, width: int, context_width: int, tokens: int, weight: float) -> None:
        super().__init__()
        self.tokens, self.weight = tokens, weight
        self.to_k_ip = nn.Linear(context_width, width, bias=False)
        self.to_v_ip = nn.Linear(context_width, width, bias=False)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        frames: int = 1,
    ) -> Tensor:
        """Map [B, pixels, D] and tokens [B, N, C], the last of them the image's, to [B, pixels, D]."""
        count = encoder_hidden_states.shape[1]
        text, image = encoder_hidden_states.split([count - self.tokens, self.tokens], dim=1)
        query = attn.to_q(hidden_states)
        mixed = _attention(query, attn.to_k(text), attn.to_v(text), attn.heads)
        mixed = mixed + self.weight * _attention(query, self.to_k_ip(image), self.to_v_ip(image), attn.heads)
        return attn.to_out[0](mixed)


def _attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    parts = (tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


class MultiViewUNet(UNet2DConditionModel):
    """diffusers' UNet with the attention above, and each frame's camera in place of a class."""

    class_embedding: Any  # diffusers is untyped

    def __init__(self, image_tokens: int, image_weight: float, **options: Any) -> None:
        """Build the network.

        Args:
            image_tokens: number of last context tokens that are the image's; 0: text only.
            image_weight: of the attention to them.
            options: of `UNet2DConditionModel`.
        """
        super().__init__(**options)
        context_width = options["cross_attention_dim"]
        across_frames, to_text = AcrossFrames(), ToText()

        def processor(name: str, attention: Any) -> Any:
            if name.endswith(".attn1"):
                return across_frames
            if image_tokens:
                return ToTextAndImage(attention.inner_dim, context_width, image_tokens, image_weight)
            return to_text

        for name, module in list(self.named_modules()):
            if isinstance(module, Attention):
                module.set_processor(processor(name, module))

    def get_class_embed(self, sample: Tensor, class_labels: Tensor | None) -> Tensor | None:
        """Return the camera embedding; None without a camera, as in training on single images."""
        return None if class_labels is None else super().get_class_embed(sample, class_labels)

    def forward(self, sample: Tensor, timestep: int | Tensor, context: Tensor, cameras: Tensor | None) -> Tensor:
        """Return the noise [O, F, 4, h, w] float32 in the frames of O objects.

        Args:
            sample: [O, F, 4, h, w] noisy latents of unit variance.
            timestep: one for all objects, or [O] per object.
            context: [O, N, D] tokens of the text, then of the image.
            cameras: [O, F, 16], see `conditioning.camera_conditions`; None: single images.
        """
        objects, frames = sample.shape[:2]
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(objects)
        noise = super().forward(
            sample.to(self.dtype).flatten(0, 1),
            timesteps.repeat_interleave(frames),
            context.to(self.dtype).repeat_interleave(frames, dim=0),
            class_labels=None if cameras is None else cameras.to(self.dtype).flatten(0, 1),
            cross_attention_kwargs={"frames": frames},
        )
        return noise.sample.unflatten(0, (objects, frames)).float()

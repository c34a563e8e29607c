"""A trainable miniature of Stable Diffusion 2's depth model, of any size, and its folder for diffusers."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from liftstudio.core.checks import check_multiples
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import MinLength, PositiveInt, Range
from liftstudio.core.weights import load_module
from liftstudio.priors.latent_diffusion import make_vae
from liftstudio.priors.latent_prior import LATENT_SCALE
from liftstudio.training.moments import measure, standardized, unit_moments

from .captions import TOKENS, caption_tokens, vocabulary_size, write_tokenizer
from .checkpoint import open_folder

LATENT_CHANNELS = 4
FIRST_LOG_VARIANCE = -6.0  # of the latents: at the usual 0, their noise would hide the image for long
GROUPS = 4  # channel groups of the norms: every width is a multiple of this

Widths = Annotated[tuple[Annotated[int, Range(multiple_of=GROUPS)], ...], MinLength(1)]
UNetWidths = Annotated[tuple[Annotated[int, Range(multiple_of=GROUPS)], ...], MinLength(2)]


@dataclass(frozen=True)
class Size:
    """Options that determine the shapes of the networks."""

    widths: UNetWidths = (32, 64, 128)  # UNet channels, finest level first; no attention in the last, as in SD
    layers: PositiveInt = 1  # residual blocks per level of the UNet
    head_width: PositiveInt = 32  # channels per attention head of the UNet
    autoencoder_widths: Widths = (24, 32)  # channels, finest level first; each but the last is followed by a halving
    autoencoder_layers: PositiveInt = 1  # residual blocks per level of the autoencoder
    text_width: PositiveInt = 64  # channels of an embedded token
    text_layers: PositiveInt = 1  # blocks of the text encoder
    text_heads: PositiveInt = 2  # attention heads of the text encoder

    def __post_init__(self) -> None:
        check_multiples("widths", self.widths, self.head_width)
        check_multiples("text_width", (self.text_width,), self.text_heads)

    @property
    def shrink(self) -> int:
        """Image pixels per latent pixel, along one side."""
        return 2 ** (len(self.autoencoder_widths) - 1)

    def check_resolution(self, resolution: int) -> None:
        """Raise an InputError if the resolution is not divisible down to the coarsest level."""
        factor = self.shrink * 2 ** (len(self.widths) - 1)
        if resolution % factor:
            raise InputError(f"data.resolution: expected a multiple of {factor} for this task.size, got {resolution}")


class TrainableDepth(nn.Module):
    """UNet, autoencoder and text encoder with random weights.

    During training the autoencoder's latents have any scale. When written, they are standardised to mean 0 and standard
    deviation 1 by their measured moments, so that the official latent scale fits.
    """

    steps: Tensor  # [] training steps of the autoencoder so far
    moments: Tensor  # [2, 4] mean and mean square of each channel of the autoencoder's latents

    def __init__(self, size: Size, resolution: int) -> None:
        """Initialise for images of `resolution` pixels across."""
        super().__init__()
        self.unet = _make_unet(size, resolution // size.shrink)
        self.vae = make_vae(size.autoencoder_widths, size.autoencoder_layers, LATENT_CHANNELS, GROUPS)
        nn.init.constant_(self.vae.quant_conv.bias[LATENT_CHANNELS:], FIRST_LOG_VARIANCE)
        self.vae.register_to_config(sample_size=resolution, scaling_factor=LATENT_SCALE)
        self.text_encoder = _make_text_tower(size)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("moments", unit_moments(LATENT_CHANNELS))

    @property
    def can_code(self) -> bool:
        """Whether the latents have unit scale, that is, the autoencoder is trained."""
        return bool((self.moments[1] == LATENT_SCALE**-2).all())

    def measure(self, latents: Tensor) -> None:
        """Update the moments with the autoencoder's own latents [B, 4, h, w]."""
        self.steps += 1
        measure(self.moments, latents, self.steps)

    def load(self, folder: str) -> None:
        """Load a folder written by `write`; its autoencoder's latents have unit scale.

        Raises:
            InputError: the networks have another size.
        """
        parts = open_folder(folder)
        for module, part in ((self.unet, parts.unet), (self.vae, parts.vae), (self.text_encoder, parts.text)):
            trained = [parameter.requires_grad for parameter in module.parameters()]
            load_module(module, part.weights, part.sources, torch.float32, torch.device("cpu"))
            for parameter, is_trained in zip(module.parameters(), trained, strict=True):
                parameter.requires_grad_(is_trained)
            module.train()
        self.moments.copy_(torch.tensor([[0.0], [LATENT_SCALE**-2]]).expand_as(self.moments))

    def write(self, folder: Path) -> None:
        """Write the folder in float16; an existing one is replaced as a whole."""
        from diffusers import DDIMScheduler

        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        self.unet.save_config(temporary / "unet")
        self.vae.save_config(temporary / "vae")
        self.text_encoder.config.save_pretrained(temporary / "text_encoder")
        _save_half(self.unet, temporary / "unet" / "diffusion_pytorch_model.safetensors")
        _save_half(standardized(self.vae, self.moments), temporary / "vae" / "diffusion_pytorch_model.safetensors")
        _save_half(self.text_encoder, temporary / "text_encoder" / "model.safetensors")
        write_tokenizer(temporary / "tokenizer")
        schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        scheduler: Any = DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False, prediction_type="epsilon")
        scheduler.save_pretrained(temporary / "scheduler")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)


def _save_half(module: nn.Module, path: Path) -> None:
    half = {key: value.detach().cpu().half().contiguous() for key, value in module.state_dict().items()}
    save_file(half, path, {"format": "pt"})


def _make_unet(size: Size, side: int) -> Any:
    from diffusers import UNet2DConditionModel

    attending = len(size.widths) - 1
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=LATENT_CHANNELS + 1,
        out_channels=LATENT_CHANNELS,
        block_out_channels=size.widths,
        layers_per_block=size.layers,
        down_block_types=(*("CrossAttnDownBlock2D",) * attending, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * attending),
        attention_head_dim=tuple(
            width // size.head_width for width in size.widths
        ),  # number of heads, despite its name
        cross_attention_dim=size.text_width,
        norm_num_groups=GROUPS,
        use_linear_projection=True,
    )


def _make_text_tower(size: Size) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    start, end = caption_tokens("")[:2].tolist()
    config = CLIPTextConfig(
        vocab_size=vocabulary_size(),
        hidden_size=size.text_width,
        intermediate_size=4 * size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_heads,
        max_position_embeddings=TOKENS,
        projection_dim=size.text_width,
        hidden_act="gelu",
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )
    return CLIPTextModel(config)

"""ImageDream and MVDream in miniature: a weight file in the official layout, and a text encoder; random weights."""

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from helpers.tiny_hifi123 import write_tokenizer
from helpers.tiny_sv3d import randomize, tiny_clip, tiny_vae
from liftstudio.methods.imagedream import checkpoint
from liftstudio.methods.imagedream.network import MultiViewUNet
from liftstudio.priors.latent_diffusion import official_state, unet_sources

PREFIX = "model.diffusion_model."
# Sizes of the miniature that no shape reveals.
NUMBERS = {
    "num_head_channels": "16",
    "adaptor_head_channels": "8",
    "clip_head_channels": "16",
    "image_size": "32",
}
TEXT_WIDTH, TEXT_LENGTH = 16, 12
TOWER_WIDTH = 48  # of tiny_sv3d's image tower
COARSE, FINE, MESH = (f"system.stages.{stage}" for stage in ("coarse", "fine", "mesh"))
# Options that let runs of its configs take seconds.
SHORT = [
    "device=cpu",
    "tag=a",
    "log.images_every=0",
    "log.tensorboard=false",
    "test.frames=1",
    "test.size=16",
    "test.stills=1",
    "export.texture_size=64",
]
QUICK = [
    *SHORT,
    f"{COARSE}.geometry.surface_resolution=24",
    f"{COARSE}.geometry.grid.log2_table_size=12",
    f"{COARSE}.renderer.samples_across=32",
    f"{COARSE}.renderer.grid_resolution=16",
]


def tiny_unet(
    generator: torch.Generator,
    *,
    image_tokens: int = 4,
    channels: tuple[int, ...] = (32, 64),
    layers: int = 1,
    attends: tuple[bool, ...] = (True, True),
    head_channels: int = 16,
    context_width: int = TEXT_WIDTH,
) -> dict[str, Tensor]:
    """Return official weights of a random network; `attends` and `channels` from the finest level to the coarsest."""
    unet = MultiViewUNet(
        image_tokens=image_tokens,
        image_weight=1.0,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=tuple(f"{'CrossAttn' if a else ''}DownBlock2D" for a in attends),
        up_block_types=tuple(f"{'CrossAttn' if a else ''}UpBlock2D" for a in attends[::-1]),
        attention_head_dim=tuple(max(width // head_channels, 1) for width in channels),  # the number of heads
        use_linear_projection=True,
        cross_attention_dim=context_width,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
    )
    parts = checkpoint.UNET_PARTS
    names = randomize(unet, generator).state_dict()
    return official_state(unet, unet_sources(names, layers, attends, PREFIX, parts))


def tiny_adaptor(generator: torch.Generator, image_tokens: int = 4, context_width: int = TEXT_WIDTH) -> Any:
    """Return official weights of a random image adaptor."""
    from diffusers.models.embeddings import IPAdapterPlusImageProjection

    adaptor = IPAdapterPlusImageProjection(TOWER_WIDTH, context_width, 24, 2, 8, 3, image_tokens, 2)
    names = randomize(adaptor, generator).state_dict()
    return official_state(adaptor, checkpoint.adaptor_sources(names, f"{PREFIX}image_embed."))


def tiny_perceptron(generator: torch.Generator, kind: str, embedding: int) -> dict[str, Tensor]:
    """Return weights of a random image adaptor without a resampler, named as by IP-Adapter: "mlp" or "global"."""
    proj = torch.nn.Linear(embedding, 4 * TEXT_WIDTH)
    module = torch.nn.ModuleDict({"proj": proj, "norm": torch.nn.LayerNorm(TEXT_WIDTH)})
    if kind == "mlp":
        layers = torch.nn.Linear(embedding, embedding), torch.nn.GELU(), torch.nn.Linear(embedding, TEXT_WIDTH)
        module = torch.nn.ModuleDict({"proj": torch.nn.Sequential(*layers, torch.nn.LayerNorm(TEXT_WIDTH))})
    return {f"{PREFIX}image_embed.{name}": value for name, value in randomize(module, generator).state_dict().items()}


def tiny_state(*, image: bool = True, adaptor: str = "resampler", seed: int = 0, **sizes: Any) -> dict[str, Tensor]:
    """Return all weights of an official file in miniature; of MVDream's unless it takes an `image`."""
    generator = torch.Generator().manual_seed(seed)
    tower = tiny_clip(generator, "clip_model.model.visual.", 20)
    seen = len(tower["clip_model.model.visual.positional_embedding"]) if adaptor == "mlp" else 4
    state = tiny_unet(generator, image_tokens=seen if image else 0, **sizes)
    if image and adaptor == "resampler":
        state |= tiny_adaptor(generator, context_width=sizes.get("context_width", TEXT_WIDTH))
    elif image:
        state |= tiny_perceptron(generator, adaptor, TOWER_WIDTH if adaptor == "mlp" else 20)
    state |= tower if image else {}
    state |= tiny_vae(generator, "vae_model." if image else "first_stage_model.")
    state["clip_model.model.logit_scale"] = torch.ones(())  # of the text tower: not used
    state["betas"] = torch.ones(1000)
    return {key: value.contiguous() for key, value in state.items()}


def write_tiny_imagedream(path: Path, metadata: dict[str, str] | None = None, **options: Any) -> Path:
    """Write an official file in miniature; for `options` see `tiny_state`."""
    path.write_bytes(_saved(tuple((metadata or {}).items()), **options))
    return path


@functools.cache
def _saved(metadata: tuple[tuple[str, str], ...], **options: Any) -> bytes:
    return save(tiny_state(**options), metadata=NUMBERS | dict(metadata))


def write_tiny_text(folder: Path, seed: int = 0, width: int = TEXT_WIDTH) -> Path:
    """Write a folder with a random text encoder and a tokenizer with one token per letter."""
    from transformers import CLIPTextConfig, CLIPTextModel

    write_tokenizer(folder / "tokenizer")
    words = len(json.loads((folder / "tokenizer" / "vocab.json").read_text()))
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=words,
        max_position_embeddings=TEXT_LENGTH,
        hidden_act="gelu",
    )
    randomize(CLIPTextModel(config), torch.Generator().manual_seed(seed)).save_pretrained(folder / "text_encoder")
    return folder

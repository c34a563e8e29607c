"""Stable Diffusion 2's depth model in miniature: a folder in diffusers' format, with random weights."""

import json
from pathlib import Path
from typing import Any, Literal

import torch

from helpers.tiny_sv3d import randomize
from liftstudio.data.render import Render

TOKENS = 8  # of a prompt, with start and end
WIDTH = 16  # of an embedded token
SIZE = 32  # pixels across its images


def tiny_unet(generator: torch.Generator, **options: Any) -> Any:
    """Return a random network of Stable Diffusion 2's structure: 7 transformer blocks, latents of up to 8 x 8."""
    from diffusers import UNet2DConditionModel

    sizes: dict[str, Any] = {
        "in_channels": 5,
        "block_out_channels": (16, 32),
        "attention_head_dim": (2, 4),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "cross_attention_dim": WIDTH,
        "norm_num_groups": 8,
        "sample_size": 8,
        "use_linear_projection": True,
    }
    return randomize(UNet2DConditionModel(**sizes | options), generator).requires_grad_(False)


def tiny_vae(generator: torch.Generator) -> Any:
    """Return a random autoencoder that halves images twice."""
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    vae = AutoencoderKL(**blocks, block_out_channels=(16, 16, 32), norm_num_groups=8, latent_channels=4)
    return randomize(vae, generator).requires_grad_(False)


def tiny_text(generator: torch.Generator) -> Any:
    """Return a random text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPTextConfig(**sizes, **ends, vocab_size=64, max_position_embeddings=TOKENS, hidden_act="gelu")
    return randomize(CLIPTextModel(config), generator).requires_grad_(False)


def write_tokenizer(folder: Path) -> None:
    """Write a CLIP tokenizer that knows letters only: every letter is a token."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    names = {"bos_token": words[0], "eos_token": words[1], "unk_token": words[1], "pad_token": words[1]}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**names, "tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS})
    )


def write_tiny_folder(folder: Path, seed: int = 0) -> Path:
    """Write the whole folder, as diffusers itself does."""
    generator = torch.Generator().manual_seed(seed)
    for name, build in (("unet", tiny_unet), ("vae", tiny_vae), ("text_encoder", tiny_text)):
        build(generator).save_pretrained(folder / name)
    write_tokenizer(folder / "tokenizer")
    return folder


def write_prediction_type(folder: Path, kind: str) -> None:
    """Write a folder's scheduler configuration with this prediction type."""
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": kind}))


def fake_render(generator: torch.Generator, count: int = 1, *, flat: bool = False) -> Render:
    """Return a render of a random texture on a tilted square, or on one that faces the camera."""
    opacity = torch.zeros(count, SIZE, SIZE, 1)
    opacity[:, 8:24, 8:24] = 1
    foreground = torch.rand(count, SIZE, SIZE, 3, generator=generator) * opacity
    slope = torch.zeros(SIZE) if flat else torch.linspace(0, 1, SIZE)
    depth = (3 + slope[:, None, None]).expand_as(opacity) * opacity
    return Render(foreground + 1 - opacity, foreground.requires_grad_(), opacity, depth=depth)


def write_estimator(folder: Path, seed: int = 0, *, flat: bool = False) -> Path:
    """Write a random DPT with its preprocessing, as transformers does."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
    }
    widths: dict[str, Any] = {
        "neck_hidden_sizes": [8] * 4,
        "fusion_hidden_size": 8,
        "backbone_out_indices": [0, 1, 2, 3],
    }
    network = DPTForDepthEstimation(DPTConfig(**sizes, **widths, image_size=32, patch_size=16, is_hybrid=False))
    last: Any = network.head.head[-2]  # a convolution, before a last ReLU
    randomize(network, torch.Generator().manual_seed(seed))
    torch.nn.init.constant_(last.bias, 50.0)
    if flat:
        torch.nn.init.zeros_(last.weight)
    network.save_pretrained(folder)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_normals(folder: Path, seed: int = 0, size: int = 32) -> Path:
    """Write a random Marigold for normals, as diffusers does."""
    return write_marigold(folder, seed, "normals", size)


def write_marigold(folder: Path, seed: int, kind: Literal["depth", "normals"], size: int = 32) -> Path:
    """Write a random Marigold of either kind, as diffusers does."""
    from diffusers import DDIMScheduler, MarigoldDepthPipeline, MarigoldNormalsPipeline
    from transformers import CLIPTokenizer

    generator = torch.Generator().manual_seed(seed)
    write_tokenizer(folder / "tokenizer")
    parts: dict[str, Any] = {
        "unet": tiny_unet(generator, in_channels=8, out_channels=4),
        "vae": tiny_vae(generator),
        "scheduler": DDIMScheduler(),
        "text_encoder": tiny_text(generator),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    }
    defaults: dict[str, Any] = {"default_denoising_steps": 2, "default_processing_resolution": size}
    if kind == "depth":
        MarigoldDepthPipeline(**parts, **defaults, prediction_type="depth").save_pretrained(folder)
    else:
        MarigoldNormalsPipeline(**parts, **defaults).save_pretrained(folder)
    return folder

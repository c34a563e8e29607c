"""Zero-1-to-3 in miniature: a folder in diffusers' format, with random weights."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from helpers.tiny_hifi123 import WIDTH, tiny_unet, tiny_vae
from helpers.tiny_sv3d import randomize, tiny_tower

SIZE = 32  # pixels across its images; latents a quarter
PROJECTIONS = {"cc_projection": "projection", "clip_camera_projection": "proj"}  # folder -> name in it


def write_tiny_zero123(folder: Path, seed: int = 0, projection: str = "cc_projection") -> Path:
    """Write the whole folder, as diffusers itself does."""
    generator = torch.Generator().manual_seed(seed)
    tiny_unet(generator, in_channels=8, out_channels=4).save_pretrained(folder / "unet")
    tiny_vae(generator).save_pretrained(folder / "vae")
    tiny_tower(generator, WIDTH).save_pretrained(folder / "image_encoder")
    (folder / projection).mkdir()
    linear = randomize(nn.Linear(WIDTH + 4, WIDTH), generator)
    state = {f"{PROJECTIONS[projection]}.{key}": value for key, value in linear.state_dict().items()}
    save_file(state, folder / projection / "diffusion_pytorch_model.safetensors")
    (folder / projection / "config.json").write_text(json.dumps({"in_channel": WIDTH + 4, "out_channel": WIDTH}))
    return folder

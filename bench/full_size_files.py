"""Weight files at their official size and in their official layout, with random numbers in place of the weights.

Names and shapes are those of the manifests beside the golden data; networks in folders are built by diffusers and
transformers from the sizes that their publishers state. Matrices are random, scaled so that activations keep their
size; norms are 1 and biases 0. The writers return the options by which the network is opened.
"""

import json
import math
import tarfile
from collections.abc import Iterator
from itertools import chain, islice, product
from pathlib import Path
from string import printable
from typing import Any

import torch
from torch import Tensor, nn

from liftstudio.core.files import atomic_path, atomic_write
from liftstudio.core.weights import unloaded
from liftstudio.data.cameras import orbit_cameras
from liftstudio.methods.sv3d.layout import VECTOR
from liftstudio.methods.syncdreamer.layout import BUFFERS
from liftstudio.methods.syncdreamer.rig import Rig
from liftstudio.priors.samplers import scaled_linear_alpha_bars

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "data"
DTYPE = torch.float16
SYNCDREAMER_FOV_DEG = 2 * math.degrees(math.atan(128 / 280))
TOKENS = 49408  # of CLIP's vocabulary

Shapes = dict[str, list[int]]
Options = dict[str, str]

STABLE_DIFFUSION_2: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),  # the number of heads, despite its name
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "sample_size": 64,
}
STABLE_DIFFUSION_1: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "sample_size": 32,
}
CLIP_L_IMAGE: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14, "image_size": 224, "projection_dim": 768,
}  # fmt: skip
CLIP_H_TEXT: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "vocab_size": TOKENS, "hidden_act": "gelu", "projection_dim": 512,
}  # fmt: skip


def write_sv3d(folder: Path, variant: str) -> Options:
    """Write the official file of SV3D, variant "p" or "u"."""
    path = folder / f"sv3d_{variant}.safetensors"
    write_safetensors(path, sv3d_shapes(variant))
    return {"weights": str(path)}


def sv3d_shapes(variant: str) -> Shapes:
    """Return key -> shape of the official file of SV3D, variant "p" or "u"."""
    shapes: Shapes = json.loads((GOLDEN / "sv3d" / "manifest_sv3d_p.json").read_text())
    shapes[VECTOR][1] = {"p": 1280, "u": 256}[variant]
    return shapes


def write_imagedream(folder: Path) -> Options:
    """Write the official file of ImageDream's pixel controller, and a text encoder beside it."""
    rest = _from_archive("imagedream", "manifest_rest_full.json").values()
    shapes = _from_archive("imagedream", "manifest_unet_full.json") | {k: s for part in rest for k, s in part.items()}
    path = folder / "sd-v2.1-base-4view-ipmv.pt"
    _write_pickle(path, dict(random_weights(shapes)))
    write_text_encoder(folder)
    return {"weights": str(path), "text_encoder": str(folder)}


def write_syncdreamer(folder: Path) -> Options:
    """Write the official file of SyncDreamer; its cameras and its noise schedule are the true ones."""
    shapes = _from_archive("syncdreamer", "manifest_full.json")
    azimuth_deg = torch.arange(16) * 22.5
    rig = Rig.of(orbit_cameras(azimuth_deg, torch.full((16,), 30.0), 1.5, SYNCDREAMER_FOV_DEG, 256, 256))
    known = (rig.poses, rig.intrinsics, rig.azimuth, scaled_linear_alpha_bars().float())
    path = folder / "syncdreamer-pretrain.ckpt"
    _write_pickle(path, {"state_dict": dict(random_weights(shapes)) | dict(zip(BUFFERS, known, strict=True))})
    return {"weights": str(path)}


def write_depth_model(folder: Path) -> Options:
    """Write the folder of Stable Diffusion 2's depth model."""
    from diffusers import UNet2DConditionModel

    with unloaded():
        unet = UNet2DConditionModel(in_channels=5, **STABLE_DIFFUSION_2)
    _write_network(folder / "unet", unet)
    _write_autoencoder(folder / "vae")
    write_text_encoder(folder)
    return {"weights": str(folder)}


def write_zero123(folder: Path) -> Options:
    """Write the folder of Zero-1-to-3, as converted for diffusers."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with unloaded():
        unet = UNet2DConditionModel(in_channels=8, **STABLE_DIFFUSION_1)
        tower: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_L_IMAGE))
    _write_network(folder / "unet", unet)
    _write_autoencoder(folder / "vae")
    _write_network(folder / "image_encoder", tower)
    shapes = {"projection.weight": [768, 772], "projection.bias": [768]}
    write_safetensors(folder / "cc_projection" / "diffusion_pytorch_model.safetensors", shapes)
    return {"weights": str(folder)}


def write_text_encoder(folder: Path) -> None:
    """Write text_encoder/ and tokenizer/ of Stable Diffusion 2; the words of the vocabulary are made up."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with unloaded():
        tower: Any = CLIPTextModel(CLIPTextConfig(**CLIP_H_TEXT))
    _write_network(folder / "text_encoder", tower)
    letters = [letter for letter in printable if not letter.isspace()]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    pairs = (f"{a} {b}" for a, b in product(letters, repeat=2))
    triples = (f"{a}{b} {c}" for a, b, c in product(letters, repeat=3))
    merges = list(islice(chain(pairs, triples), TOKENS - len(tokens)))
    tokens += [merge.replace(" ", "") for merge in merges]
    atomic_write(folder / "tokenizer" / "vocab.json", json.dumps({token: n for n, token in enumerate(tokens)}))
    atomic_write(folder / "tokenizer" / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    names = {"bos_token": tokens[0], **dict.fromkeys(("eos_token", "unk_token", "pad_token"), tokens[1])}
    options = {**names, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    atomic_write(folder / "tokenizer" / "tokenizer_config.json", json.dumps(options))


def random_weights(shapes: Shapes) -> Iterator[tuple[str, Tensor]]:
    """Yield names and random weights in half precision, one at a time; always the same."""
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        if len(shape) < 2:
            yield name, torch.full(shape, float(name.endswith("weight")), dtype=DTYPE)
        else:
            scale = math.prod(shape[1:]) ** -0.5
            yield name, (scale * torch.randn(shape, generator=generator)).to(DTYPE)


def safetensors_header(shapes: Shapes) -> tuple[bytes, int]:
    """Return what precedes the weights in a .safetensors file in half precision, and the bytes of the weights."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * DTYPE.itemsize
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text, end


def write_safetensors(path: Path, shapes: Shapes) -> None:
    """Write a .safetensors file of random weights, of which only one is in memory at a time."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(safetensors_header(shapes)[0])
        for _, weight in random_weights(shapes):
            file.write(weight.numpy().tobytes())


def _write_pickle(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def _write_network(folder: Path, network: Any) -> None:
    """Write a network that was built without weights: `config.json`, and random weights."""
    stem = "model" if type(network).__module__.startswith("transformers") else "diffusion_pytorch_model"
    network.save_config(folder) if stem != "model" else network.config.save_pretrained(folder)
    write_safetensors(folder / f"{stem}.safetensors", _shapes(network))


def _write_autoencoder(folder: Path) -> None:
    from liftstudio.priors.latent_diffusion import make_vae

    with unloaded():
        vae = make_vae((128, 256, 512, 512), 2, 4)
    _write_network(folder, vae)


def _shapes(network: nn.Module) -> Shapes:
    return {name: list(weight.shape) for name, weight in network.state_dict().items()}


def _from_archive(method: str, name: str) -> Any:
    with tarfile.open(GOLDEN / method / "golden.tar.xz") as archive:
        return json.load(archive.extractfile(name))  # type: ignore[arg-type]  # None for a folder

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.seeds import fresh_seed
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from liftstudio.core.errors import InputError
from liftstudio.metrics.embeddings import Clip, TinyEncoder, clip_pixels, load_encoder, object_prompt

SIZE = 32  # pixels across the small CLIP's images


def random_images(*shape: int) -> Tensor:
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(fresh_seed()))


def disc(colour: tuple[float, float, float], radius: float = 0.6, centre: float = 0.0) -> Tensor:
    """Return an image [1, 96, 96, 3] of a disc over white."""
    axis = torch.linspace(-1, 1, 96)
    inside = ((axis[:, None] ** 2 + (axis - centre) ** 2) < radius**2)[..., None]
    return torch.where(inside, torch.tensor(colour), torch.tensor(1.0))[None]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small random CLIP whose vocabulary is the alphabet."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tokens), "bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    vision = {**tower, "image_size": SIZE, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    return folder


def test_tiny_embeddings_are_what_is_said() -> None:
    images = random_images(3, 40, 56)
    embeddings = TinyEncoder().images(images)
    assert embeddings.shape == (3, 192) and (embeddings >= 0).all()
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(3), atol=1e-6)
    assert torch.allclose(TinyEncoder().images(images[1:2]), embeddings[1:2], atol=1e-6)
    assert "not CLIP" in TinyEncoder().name


def test_tiny_colours_by_hand() -> None:
    image = torch.zeros(1, 16, 16, 3)
    image[..., 0] = 0.5  # halfway between the levels 1/3 and 2/3
    image[:, :4] = 1.0  # a quarter is white
    colours = (2 * TinyEncoder().images(image)[0, :64] ** 2).reshape(4, 4, 4)
    expected = torch.zeros(4, 4, 4)
    expected[1, 0, 0] = expected[2, 0, 0] = 0.375
    expected[3, 3, 3] = 0.25
    assert torch.allclose(colours, expected, atol=1e-6)


@pytest.mark.parametrize("angle", range(8))
def test_tiny_edges_point_where_the_image_changes(angle: int) -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    place = x * math.cos(math.pi * angle / 8) + y * math.sin(math.pi * angle / 8)
    image = (0.5 + 0.3 * place)[None, ..., None].expand(-1, -1, -1, 3)
    edges = TinyEncoder().images(image)[0, 64:].reshape(8, 16) ** 2
    assert edges.sum(dim=1).argmax() == angle
    assert edges.sum(dim=1)[angle] > 0.9 * edges.sum()  # the rest is the border


def test_tiny_ranks_likeness() -> None:
    encode = TinyEncoder().images
    red, same, dark, blue = (
        encode(disc(*arguments))
        for arguments in (((0.8, 0.1, 0.1),), ((0.8, 0.1, 0.1), 0.55), ((0.6, 0.1, 0.1),), ((0.1, 0.1, 0.8),))
    )
    likeness = [F.cosine_similarity(red, other).item() for other in (red, same, dark, blue)]
    assert likeness[0] == pytest.approx(1, abs=1e-6)
    assert likeness[0] > likeness[1] > likeness[3] and likeness[2] > likeness[3]
    flat = encode(torch.ones(1, 20, 20, 3))  # no edges at all
    assert flat.isfinite().all() and F.cosine_similarity(flat, red).item() < likeness[3]


@pytest.mark.parametrize("shape", [(48, 48), (40, 57), (24, 24)])
def test_clip_pixels_are_those_of_pillow(shape: tuple[int, int]) -> None:
    """OpenAI's preprocessing step by step with Pillow, which rounds to 8 bits and clips overshoots in between."""
    image = (75 + 100 * random_images(1, *shape)).round()  # no overshoot leaves 0 to 255
    scale = SIZE / min(shape)
    height, width = (max(SIZE, int(side * scale)) for side in shape)
    picture = Image.fromarray(image[0].byte().numpy()).resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - SIZE) / 2), round((width - SIZE) / 2)
    expected = torch.tensor(np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)))).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = clip_pixels(image / 255, SIZE)[0] * std[:, None, None] + mean[:, None, None]
    assert torch.allclose(pixels, expected, atol=2.5 / 255)  # rounded after each of Pillow's two passes


def test_clip_equals_the_model_of_transformers(clip_folder: Path) -> None:
    clip, model = Clip(clip_folder), CLIPModel.from_pretrained(clip_folder).eval()
    images, tokens = random_images(3, SIZE, SIZE), torch.tensor([[52, 0, 39, 19, 14, 50, 53]])  # a, n, t-o-y
    with torch.no_grad():
        out = model(pixel_values=clip_pixels(images, SIZE), input_ids=tokens)
    assert torch.allclose(F.normalize(clip.images(images), dim=-1), out.image_embeds, atol=1e-5)
    assert torch.allclose(F.normalize(clip.text("an toy"), dim=0), out.text_embeds[0], atol=1e-5)
    assert clip.name == f"CLIP ({clip_folder.name})"
    assert clip.text("toy " * 200).isfinite().all()  # longer than the network can read


def test_invalid_clip_folders(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder; CLIP is published as openai/clip-vit-large-patch14"):
        Clip(tmp_path / "none")
    with pytest.raises(InputError, match=r"not a CLIP checkpoint.*clip-vit-large-patch14"):
        Clip(tmp_path)
    for name in ("vocab.json", "merges.txt", "config.json"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="not a CLIP checkpoint"):
        Clip(tmp_path)


def test_clip_with_a_weight_missing(clip_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("vocab.json", "merges.txt", "config.json"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    state = load_file(clip_folder / "model.safetensors")
    del state["text_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"the weight 'text_projection\.weight' is missing"):
        Clip(tmp_path)


def test_choice_of_the_encoder(clip_folder: Path) -> None:
    assert isinstance(load_encoder(None), TinyEncoder) and isinstance(load_encoder(""), TinyEncoder)
    assert isinstance(load_encoder(clip_folder), Clip)


def test_prompt() -> None:
    assert object_prompt("toy_bus1") == "An image of toy bus"


def test_images_are_checked(clip_folder: Path) -> None:
    for encoder in (TinyEncoder(), Clip(clip_folder)):
        with pytest.raises(ValueError, match="images: expected shape"):
            encoder.images(torch.rand(2, 3, 32, 32))

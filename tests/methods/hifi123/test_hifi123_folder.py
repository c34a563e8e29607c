"""A folder in diffusers' format, read as by diffusers or rejected in one line; encoding of images and texts."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import TOKENS, WIDTH, tiny_unet, tiny_vae, write_prediction_type, write_tiny_folder
from safetensors.torch import load_file, save_file

from liftstudio.core.errors import InputError
from liftstudio.methods.hifi123 import checkpoint, ddim, model, rgnv
from liftstudio.methods.hifi123.depth import depth_channel
from liftstudio.methods.hifi123.prior import DepthPrior
from liftstudio.priors.samplers import scaled_linear_alpha_bars

SEED = fresh_seed(__name__)
CPU = torch.device("cpu")
LICENCE = "CreativeML Open RAIL++-M licence"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("hifi123") / "tiny", SEED)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "tiny"))


def opened(folder: Path) -> Any:
    return checkpoint.open_folder(str(folder))


def loaded(folder: Path, name: str) -> Any:
    return getattr(opened(folder), name).load(torch.float32, CPU)


@torch.no_grad()
def outputs(unet: Any, vae: Any, text: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    sample, image = (torch.randn(shape, generator=generator) for shape in ((2, 5, 8, 8), (1, 3, 32, 32)))
    embedded = text(torch.arange(TOKENS)[None]).last_hidden_state
    latents = vae.encode(image).latent_dist.mode()
    return [unet(sample, 10, embedded.expand(2, -1, -1)).sample, latents, vae.decode(latents).sample, embedded]


def of_diffusers(folder: Path) -> list[torch.Tensor]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    classes = ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"), (CLIPTextModel, "text_encoder"))
    return outputs(*(cls.from_pretrained(folder / name).eval() for cls, name in classes))


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], to: Path | None = None) -> None:
    state = change(load_file(path))
    path.unlink()
    save_file(state, to or path)


def reconfigure(folder: Path, **options: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def test_networks_are_those_of_diffusers(written: Path) -> None:
    parts = opened(written)
    modules = [part.module for part in (parts.unet, parts.vae, parts.text)]
    assert all(tensor.is_meta for module in modules for tensor in module.state_dict().values()), "nothing is read yet"
    networks = [part.load(torch.float32, CPU) for part in (parts.unet, parts.vae, parts.text)]
    assert not any(p.requires_grad for network in networks for p in network.parameters())
    for found, expected in zip(outputs(*networks), of_diffusers(written), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, msg=f"seed {SEED}")
    assert parts.unet.load(torch.bfloat16, CPU).dtype == torch.bfloat16


def test_files_of_older_and_newer_packages(folder: Path) -> None:
    """Attention names before diffusers 0.15, text encoder names with and without prefix, a half-precision file."""
    expected = of_diffusers(folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(state: dict[str, Any]) -> dict[str, Any]:
        return {re.sub(r"to_[qkv]|to_out\.0", lambda m: old[m[0]], name): tensor for name, tensor in state.items()}

    def other_prefix(state: dict[str, Any]) -> dict[str, Any]:
        bare = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
        positions = {"embeddings.position_ids": torch.arange(TOKENS)[None]}
        prefix = "" if any(name.startswith("text_model.") for name in state) else "text_model."
        return {prefix + name: tensor for name, tensor in (bare | positions).items()}

    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    rewrite(vae, older)
    assert any("proj_attn" in name for name in load_file(vae))
    rewrite(folder / "text_encoder" / "model.safetensors", other_prefix)
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    half = unet.with_name("diffusion_pytorch_model.fp16.safetensors")
    rewrite(unet, lambda state: {name: tensor.half() for name, tensor in state.items()}, half)
    found = outputs(*(loaded(folder, name) for name in ("unet", "vae", "text")))
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        tolerance = 0.05 if index == 0 else 1e-6  # the UNet's weights have 11 bits
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance, msg=f"seed {SEED}")


FILES = (
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
)


@pytest.mark.parametrize("name", FILES)
def test_missing_files(folder: Path, name: str) -> None:
    """The message names the file, where the official one is, and its licence; also for a missing folder."""
    (folder / name).unlink()
    with pytest.raises(InputError) as error:
        opened(folder)
    assert str(error.value).startswith(f"{folder / name}: no such file") and LICENCE in str(error.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        opened(tmp_path / "nowhere")
    assert str(error.value).startswith(f"{tmp_path / 'nowhere'}: no such folder; ") and LICENCE in str(error.value)
    assert "huggingface.co/sd2-community/stable-diffusion-2-depth" in str(error.value)


def spoil_json(folder: Path) -> None:
    (folder / "vae" / "config.json").write_text("{")


def spoil_table(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("[]")


def spoil_class(folder: Path) -> None:
    reconfigure(folder / "unet", _class_name="UNet3DConditionModel")


def spoil_option(folder: Path) -> None:
    reconfigure(folder / "unet", down_block_types=["NoSuchBlock", "DownBlock2D"])


def spoil_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")


def spoil_shape(folder: Path) -> None:
    change = lambda state: state | {"conv_in.bias": torch.zeros(7)}  # noqa: E731
    rewrite(folder / "unet" / "diffusion_pytorch_model.safetensors", change)


def spoil_key(folder: Path) -> None:
    change = lambda state: {k: v for k, v in state.items() if k != "decoder.conv_in.weight"}  # noqa: E731
    rewrite(folder / "vae" / "diffusion_pytorch_model.safetensors", change)


def spoil_more(folder: Path) -> None:
    change = lambda state: state | {"class_embedding.weight": torch.zeros(2)}  # noqa: E731
    rewrite(folder / "unet" / "diffusion_pytorch_model.safetensors", change)


def spoil_channels(folder: Path) -> None:
    tiny_unet(torch.Generator().manual_seed(0), in_channels=4).save_pretrained(folder / "unet")


def spoil_width(folder: Path) -> None:
    tiny_unet(torch.Generator().manual_seed(0), cross_attention_dim=WIDTH + 4).save_pretrained(folder / "unet")


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "vocab.json").write_text("{")


def spoil_prediction(folder: Path) -> None:
    write_prediction_type(folder, "v_prediction")


def spoil_number(part: str, option: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: reconfigure(folder / part, **{option: value})


SPOILED = {
    "not JSON": (spoil_json, r"vae/config\.json: not a JSON file \("),
    "not a table": (spoil_table, r"unet/config\.json: expected a table of options"),
    "another class": (
        spoil_class,
        r"unet/config\.json: no network can be built from it \(expected a UNet2DConditionModel",
    ),
    "unknown option": (spoil_option, r"unet/config\.json: no network can be built from it \(.*"),
    "damaged": (spoil_weights, "not a readable weight file"),
    "another shape": (spoil_shape, r"the weight 'conv_in\.bias' has shape \[7\]; .* of the network has \[16\]"),
    "missing weight": (spoil_key, r"the weight 'decoder\.conv_in\.weight' is missing"),
    "unknown weight": (spoil_more, r"unexpected weight 'class_embedding\.weight'"),
    "no depth": (
        spoil_channels,
        "expected one more channel in than out, for depth, got 4 in and 4 out",
    ),
    "another width": (spoil_width, f"text_encoder: expected {WIDTH + 4} channels, .* the UNet beside it, got {WIDTH}"),
    "no size": (
        spoil_number("unet", "sample_size", None),
        r"unet/config\.json: sample_size: expected a whole number above 0, or two equal ones, got None; stable-",
    ),
    "size as text": (spoil_number("unet", "sample_size", "8"), r"unet/config\.json: sample_size: expected .* '8'"),
    "not square": (spoil_number("unet", "sample_size", [8, 6]), r"unet/config\.json: sample_size: .*, got \[8, 6\]"),
    "no scale": (
        spoil_number("vae", "scaling_factor", None),
        r"vae/config\.json: scaling_factor: expected a number above 0, got None; stable-",
    ),
    "tokenizer": (spoil_tokenizer, "tokenizer: not a readable tokenizer"),
    "prediction": (
        spoil_prediction,
        r"scheduler/scheduler_config\.json: prediction_type: expected epsilon, got v_prediction; stable-diffusion-2",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED)
def test_spoiled_folders(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=message) as error:
        opened(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_schedule_of_noise_predictions_is_taken(folder: Path) -> None:
    write_prediction_type(folder, "epsilon")
    opened(folder)
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")  # diffusers' default is the same
    opened(folder)


def test_pictures() -> None:
    """Latents are the scaled mean of the distribution; gradients reach the image; decoded values are in [0, 1]."""
    generator = torch.Generator().manual_seed(SEED)
    unet, vae = tiny_unet(generator), tiny_vae(generator)
    images = torch.rand(2, 32, 24, 3, generator=generator, requires_grad=True)
    latents = model.encode(unet, vae, images)
    expected = 0.18215 * vae.encode(2 * images.permute(0, 3, 1, 2) - 1).latent_dist.mean
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-6, msg=f"seed {SEED}")
    assert latents.shape == (2, 4, 8, 6) and model.encode(unet, vae, images).equal(latents)
    (gradient,) = torch.autograd.grad(latents.square().sum(), images)
    assert torch.isfinite(gradient).all() and (gradient.abs().amax((1, 2, 3)) > 0).all()
    decoded = model.decode(vae, latents)
    assert decoded.shape == (2, 32, 24, 3) and decoded.min() >= 0 and decoded.max() <= 1 and not decoded.requires_grad


def test_sizes_of_pictures() -> None:
    generator = torch.Generator().manual_seed(SEED)
    unet, vae = tiny_unet(generator), tiny_vae(generator)
    assert model.shrinkage(vae) == 4 and model.resolution(unet, vae) == 32
    model.check_image_size("reference", 32, 28, unet, vae)
    with pytest.raises(InputError, match="reference: expected at most 32x32 pixels, got 36x32: reduce the image"):
        model.check_image_size("reference", 32, 36, unet, vae)
    with pytest.raises(InputError, match="view 3: expected multiples of 4 pixels, got 30x32: resize"):
        model.check_image_size("view 3", 32, 30, unet, vae)
    with pytest.raises(InputError, match="reference: expected at most 32x32 pixels, got 64x64: reduce the image"):
        model.encode(unet, vae, torch.zeros(1, 64, 64, 3), "reference")


def test_two_equal_sizes_count_as_one(folder: Path) -> None:
    reconfigure(folder / "unet", sample_size=[8, 8])
    parts = opened(folder)
    assert model.resolution(parts.unet.module, parts.vae.module) == 32


def test_a_component_takes_no_larger_pictures(written: Path) -> None:
    prior = DepthPrior(DepthPrior.Config(str(written)), device=CPU)
    assert prior.side == 8
    with pytest.raises(InputError, match="reference: expected at most 32x32 pixels, got 36x32"):
        prior.encode(torch.zeros(1, 32, 36, 3), "reference")


@torch.no_grad()
def test_texts(written: Path) -> None:
    parts = opened(written)
    tower = parts.text.load(torch.float32, CPU)
    empty, target = model.embed_text(parts.tokenizer, tower, ""), model.embed_text(parts.tokenizer, tower, "abc")
    assert empty.shape == target.shape == (1, TOKENS, WIDTH)
    letters = [parts.tokenizer.get_vocab()[token] for token in ("a", "b", "c</w>")]
    tokens = torch.tensor([[0, *letters, *[1] * (TOKENS - 4)]])
    torch.testing.assert_close(target, tower(tokens).last_hidden_state, rtol=0, atol=1e-6)
    assert (empty - target).abs().max() > 1e-3
    model.embed_text(parts.tokenizer, tower, "a" * (TOKENS - 2))
    with pytest.raises(InputError, match=f"prompt: expected at most {TOKENS - 2} tokens, got {TOKENS - 1}:"):
        model.embed_text(parts.tokenizer, tower, "a" * (TOKENS - 1))


@torch.no_grad()
def test_from_pictures_to_pictures(written: Path) -> None:
    """All modules in sequence, as in the README; a reference that attends to itself is sampled as without injection."""
    parts, generator = opened(written), torch.Generator().manual_seed(SEED)
    unet, vae, tower = (part.load(torch.float32, CPU) for part in (parts.unet, parts.vae, parts.text))
    empty = model.embed_text(parts.tokenizer, tower, "")
    grid = ddim.TimestepGrid.of(scaled_linear_alpha_bars(), 100)
    form = rgnv.Form.symmetric(4, guidance_scale=1.0, last_layers=2)
    images, masks = torch.rand(2, 32, 32, 3, generator=generator), torch.ones(2, 32, 32, 1)
    depths = depth_channel(1 + images[..., :1], masks, (8, 8), "distance")
    latents = model.encode(unet, vae, images)
    first = latents[:1], depths[:1]
    reference = rgnv.prepare_reference(unet, *first, empty, grid, form, stored=False)
    prompts = model.Prompts(empty, empty)
    enhanced = rgnv.enhance(unet, latents, depths, prompts, reference, grid, form)
    inverting = model.inverting(unet, depths, empty)
    plain = ddim.sample(inverting, ddim.invert(inverting, latents, grid, 4)[-1], grid, 4)
    torch.testing.assert_close(enhanced[0], plain[0], rtol=0, atol=1e-4, msg=f"seed {SEED}")
    assert (enhanced[1] - plain[1]).abs().max() > 1e-3, f"the reference has no effect, seed {SEED}"
    assert model.decode(vae, enhanced).shape == images.shape

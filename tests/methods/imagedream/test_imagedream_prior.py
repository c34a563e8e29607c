"""ImageDream and MVDream as priors: miniatures in the official layouts, from file to estimates."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_imagedream import NUMBERS, PREFIX, TEXT_LENGTH, tiny_state, write_tiny_imagedream, write_tiny_text
from safetensors.torch import load_file, save_file
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find
from liftstudio.core.weights import Weights
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.methods.imagedream import checkpoint, conditioning, denoising, layout
from liftstudio.methods.imagedream.text import TextEncoder
from liftstudio.priors.base import NoisyViews, PosedImage
from liftstudio.priors.latent_diffusion import vae_part
from liftstudio.priors.opening import open_prior, resolve

SEED = fresh_seed(__name__)
SIZE, FRAMES = 32, 4
CPU = torch.device("cpu")
CAPTION = "a cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of ImageDream and MVDream under their official names, and a text encoder."""
    folder = tmp_path_factory.mktemp("imagedream")
    write_tiny_imagedream(folder / "tiny-ipmv.safetensors", seed=SEED)
    write_tiny_imagedream(folder / "tiny-4view.safetensors", seed=SEED, image=False)
    write_tiny_text(folder / "text", seed=SEED)
    return folder


def open_imagedream(path: Path, text: Path, kind: str = "imagedream", **options: Any) -> Any:
    options = {"prompt": CAPTION, "text_encoder": str(text), **options}
    return open_prior(ComponentSpec("prior", kind, find(kind, "prior").Config(weights=str(path), **options)), CPU)


@pytest.fixture(scope="module")
def pixel(folder: Path) -> Any:
    return open_imagedream(folder / "tiny-ipmv.safetensors", folder / "text")


@pytest.fixture(scope="module")
def local(folder: Path) -> Any:
    (folder / "tiny-ipmv-local.safetensors").write_bytes((folder / "tiny-ipmv.safetensors").read_bytes())
    return open_imagedream(folder / "tiny-ipmv-local.safetensors", folder / "text")


@pytest.fixture(scope="module")
def text_only(folder: Path) -> Any:
    return open_imagedream(folder / "tiny-4view.safetensors", folder / "text")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def input_of(generator: torch.Generator) -> PosedImage:
    mask = torch.zeros(SIZE, SIZE, 1)
    mask[8:24, 8:24] = 1
    image = torch.rand(SIZE, SIZE, 3, generator=generator) * mask + 1 - mask
    return PosedImage(image, mask, cameras(1))


def cameras(count: int = FRAMES, elevation_deg: float = 5.0, fov_deg: float = 48.0, turn_deg: float = 0.0) -> Cameras:
    azimuth_deg = turn_deg + 90.0 * torch.arange(count)
    return orbit_cameras(azimuth_deg, torch.full((count,), elevation_deg), 2.0, fov_deg, SIZE, SIZE)


def latents_of(prior: Any, generator: torch.Generator, count: int = FRAMES) -> Tensor:
    return torch.randn(count, *prior.latent_shape, generator=generator)


def test_modes_are_read_from_the_files(pixel: Any, local: Any, text_only: Any) -> None:
    assert [prior.mode for prior in (pixel, local, text_only)] == ["pixel", "local", "text"]
    assert pixel.name == "ImageDream (pixel, tiny-ipmv.safetensors)"
    assert text_only.name == "MVDream (text, tiny-4view.safetensors)"
    for prior in (pixel, local, text_only):
        assert (prior.resolution, prior.frames, prior.latent_shape) == (SIZE, FRAMES, (4, SIZE // 4, SIZE // 4))
        assert prior.sigmas(50).shape == (51,) and prior.sigma_max == pytest.approx(14.61, abs=0.01)
        assert not any(p.requires_grad for p in [*prior.unet.parameters(), *prior.vae.parameters()])


class Listed(Weights):
    """A weight file of which only the name and some keys are available; those of the conversion have no prefix."""

    def __init__(self, name: str, metadata: dict[str, str]) -> None:
        self.path, self.metadata = Path(name), metadata
        prefix = PREFIX if name.endswith(".pt") else ""
        self.shapes = {f"{prefix}camera_embed.0.weight": (1280, 16), f"{prefix}image_embed.latents": (1, 16, 1024)}


@pytest.mark.parametrize(
    ("name", "metadata", "asked", "wanted"),
    [
        ("sd-v2.1-base-4view-ipmv.pt", {}, "auto", "pixel"),
        ("sd-v2.1-base-4view-ipmv-local.pt", {}, "auto", "local"),
        ("ipmv-local-tests/sd-v2.1-base-4view-ipmv.pt", {}, "pixel", "pixel"),
        ("imagedream-ipmv-diffusers/unet/diffusion_pytorch_model.safetensors", {}, "auto", "pixel"),
        ("model.pt", {}, "local", "local"),
        ("model.pt", {"mode": "local"}, "auto", "local"),
        ("model.pt", {}, "auto", r"set prior\.type=imagedream, and prior\.mode=pixel .* or prior\.mode=local"),
        ("ipmv/model.pt", {}, "auto", r"cannot tell the mode from its weights or its name"),
        ("ipmv-local/my-ipmv.pt", {}, "auto", "pixel"),
        ("models--o--my-ipmv-local/snapshots/01ab/unet/model.safetensors", {}, "auto", "local"),
        ("my-ipmv/unet/my-ipmv-local.pt", {}, "auto", "local"),
        ("my-ipmv/unet/model.pt", {}, "auto", r"cannot tell the mode from its weights or its name"),
        ("my-ipmv.pt", {"mode": "local"}, "pixel", r"mode: expected local, the mode of .*, got pixel"),
        ("sd-v2.1-base-4view-ipmv.pt", {}, "local", r"mode: expected pixel, the mode of .*ipmv\.pt, got local"),
        ("sd-v2.1-base-4view-ipmv-local.pt", {}, "pixel", r"mode: expected local, the mode of .*, got pixel"),
        ("model.pt", {}, "text", r"mode: expected pixel or local, the mode of .*, got text"),
        ("model.pt", {"mode": "global"}, "auto", r"metadata 'mode': expected pixel or local, got 'global'"),
    ],
)
def test_mode_is_checked(name: str, metadata: dict[str, str], asked: str, wanted: str) -> None:
    weights = Listed(name, metadata)
    if wanted in ("pixel", "local"):
        assert layout.mode_of(weights, asked) == wanted
    else:
        with pytest.raises(InputError, match=wanted):
            layout.mode_of(weights, asked)


def test_a_pipeline_is_known_by_its_files(tmp_path: Path) -> None:
    """An official file in a folder `unet` belongs to no pipeline unless the pipeline's index is beside it."""
    official = Listed(f"{tmp_path}/unet/model.pt", {})
    assert layout.pipeline_of(Listed(f"{tmp_path}/unet/model.safetensors", {})) == tmp_path
    assert layout.pipeline_of(Listed(f"{tmp_path}/model.safetensors", {})) is None
    assert layout.pipeline_of(official) is None
    (tmp_path / "model_index.json").write_text("{}")
    assert layout.pipeline_of(official) == tmp_path


@pytest.mark.parametrize(("name", "said"), [("my-ipmv.pt", "suggests pixel"), ("my.pt", ""), ("ipmv/my.pt", "")])
def test_an_explicit_mode_overrides_a_hint_in_the_name(name: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    assert layout.mode_of(Listed(name, {}), "local") == "local"
    assert said in caplog.text if said else not caplog.text


def test_text_only_weights_take_no_picture(folder: Path) -> None:
    with pytest.raises(InputError, match=r"mode: expected text, the mode of .*tiny-4view\.safetensors, got pixel"):
        open_imagedream(folder / "tiny-4view.safetensors", folder / "text", mode="pixel")
    with pytest.raises(InputError, match=r"prompt: expected .*, as tiny-4view\.safetensors takes text alone"):
        open_imagedream(folder / "tiny-4view.safetensors", folder / "text", prompt="")


def test_what_each_mode_depends_on(pixel: Any, local: Any, text_only: Any, generator: torch.Generator) -> None:
    prompts = input_of(generator), input_of(generator)
    latents = latents_of(pixel, generator)
    branches = {}
    for prior in (pixel, local, text_only):
        shown = [prior.condition(posed) for posed in prompts]
        estimates = [prior.denoise(NoisyViews(latents, 2.0, condition, cameras())) for condition in shown]
        unconditional = [prior.denoise(NoisyViews(latents, 2.0, one, cameras(), torch.zeros(FRAMES))) for one in shown]
        assert torch.equal(*unconditional), "it has no picture"
        assert (estimates[0] - unconditional[0]).abs().max() > 1e-3
        assert torch.equal(*estimates) == (prior is text_only)
        branches[prior.mode] = shown[0]
    assert branches["local"].conditional.latent is branches["text"].conditional.latent is None
    assert bool((branches["pixel"].unconditional.latent == 0).all())
    tokens = [
        branch.context[TEXT_LENGTH:] for branch in (branches["pixel"].unconditional, branches["local"].unconditional)
    ]
    assert torch.equal(*tokens) and tokens[0].abs().max() > 0.1, "the adaptor's tokens of zeros are not zero"
    assert len(branches["text"].conditional.context) == TEXT_LENGTH


def test_without_image_tokens_it_is_the_text_only_network(folder: Path, generator: torch.Generator) -> None:
    """MVDream's network equals ImageDream's with the image weight at 0, by both code paths."""
    state = load_file(folder / "tiny-ipmv.safetensors")
    weights = Weights(folder / "tiny-ipmv.safetensors")
    with_image = checkpoint.unet_part(weights, 0.0).load(torch.float32, CPU)
    bare = {key: value for key, value in state.items() if "image_embed" not in key and "_ip." not in key}
    save_file(bare, folder / "bare.safetensors", NUMBERS)
    text_only = checkpoint.unet_part(Weights(folder / "bare.safetensors")).load(torch.float32, CPU)
    sample, poses = (
        torch.randn(2, FRAMES, 4, 8, 8, generator=generator),
        torch.randn(2, FRAMES, 16, generator=generator),
    )
    context = torch.randn(2, TEXT_LENGTH + 4, 16, generator=generator)
    for conditions in (poses, None):
        with torch.no_grad():
            found = text_only(sample, 300, context[:, :TEXT_LENGTH], conditions)
            expected = with_image(sample, 300, context, conditions)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # float32, attention summed in another order


def test_calls_leave_nothing_behind(pixel: Any, generator: torch.Generator) -> None:
    """The number of frames is per call, and arguments are not modified."""
    condition, poses = pixel.condition(input_of(generator)), cameras()
    latents, before = latents_of(pixel, generator), poses.c2w.clone()
    kept = latents.clone()
    first = pixel.denoise(NoisyViews(latents, 1.0, condition, poses))
    with torch.no_grad():
        pixel.unet(latents[:1, None], 10, condition.conditional.context[None], None)  # a single image
    assert torch.equal(pixel.denoise(NoisyViews(latents, 1.0, condition, poses)), first)
    assert torch.equal(latents, kept) and torch.equal(poses.c2w, before)


def test_objects_side_by_side(pixel: Any, local: Any, generator: torch.Generator) -> None:
    """Two sets of four views are independent objects; within one, views attend to one another."""
    for prior in (pixel, local):
        condition, latents = prior.condition(input_of(generator)), latents_of(prior, generator, 2 * FRAMES)
        poses, scale = cameras(2 * FRAMES, turn_deg=20.0), torch.full((2 * FRAMES,), 5.0)
        together = prior.denoise(NoisyViews(latents, 1.0, condition, poses, scale))
        for four in (slice(0, FRAMES), slice(FRAMES, None)):
            alone = prior.denoise(NoisyViews(latents[four], 1.0, condition, poses[four], scale[four]))
            torch.testing.assert_close(together[four], alone, rtol=1e-4, atol=1e-4)  # guidance multiplies by 10
        other = latents.clone()
        other[1] += 1
        changed = (
            prior.denoise(NoisyViews(other, 1.0, condition, poses))
            - prior.denoise(NoisyViews(latents, 1.0, condition, poses))
        ).abs()
        assert changed[0].max() > 1e-3 and changed[FRAMES:].max() < 1e-4


def test_guidance_and_schedule(pixel: Any, generator: torch.Generator) -> None:
    latents, condition = latents_of(pixel, generator), pixel.condition(input_of(generator))

    def at(scale: float) -> Tensor:
        return pixel.denoise(NoisyViews(latents, 1.0, condition, cameras(), torch.full((FRAMES,), scale)))

    assert torch.equal(at(1.0), pixel.denoise(NoisyViews(latents, 1.0, condition, cameras())))
    torch.testing.assert_close(at(3.0) - at(0.0), 3 * (at(1.0) - at(0.0)), rtol=1e-3, atol=1e-3)
    poses = conditioning.camera_conditions(cameras().c2w)[None]
    for timestep in (0, 1, 333, 999):
        sigma = pixel.levels[timestep].item()
        noisy = (latents / (1 + sigma**2) ** 0.5)[None]
        with torch.no_grad():
            noise = denoising.estimate_epsilon(pixel.unet, noisy, timestep, poses, [condition.conditional])[0, 0]
        x0 = pixel.denoise(NoisyViews(latents, sigma, condition, cameras()))
        torch.testing.assert_close(x0, latents - sigma * noise, rtol=1e-4, atol=1e-4 * max(1, sigma))


def test_cameras_matter_by_direction_only(pixel: Any, generator: torch.Generator) -> None:
    """The network is not given distance or field of view; azimuth and elevation change the condition."""
    latents, condition = latents_of(pixel, generator), pixel.condition(input_of(generator))
    one = pixel.denoise(NoisyViews(latents, 1.0, condition, cameras()))
    far = orbit_cameras(90.0 * torch.arange(FRAMES), torch.full((FRAMES,), 5.0), 7.0, 20.0, SIZE, SIZE)
    torch.testing.assert_close(pixel.denoise(NoisyViews(latents, 1.0, condition, far)), one, rtol=1e-4, atol=1e-4)
    for other in (cameras(turn_deg=30.0), cameras(elevation_deg=25.0)):
        assert (pixel.denoise(NoisyViews(latents, 1.0, condition, other)) - one).abs().max() > 1e-3


def test_the_picture_over_a_grey(pixel: Any, generator: torch.Generator) -> None:
    posed = input_of(generator)
    white, again, grey = pixel.condition(posed), pixel.condition(posed), pixel.condition(replace(posed, grey=0.3))
    assert torch.equal(white.conditional.context, again.conditional.context)
    assert torch.equal(white.conditional.latent, again.conditional.latent), "the same draw"
    assert (grey.conditional.context - white.conditional.context).abs().max() > 1e-3
    assert (grey.conditional.latent - white.conditional.latent).abs().max() > 1e-3
    assert torch.equal(grey.conditional.context[:TEXT_LENGTH], white.conditional.context[:TEXT_LENGTH])
    mode = pixel.encode(posed.image[None], posed.mask[None])[0]
    assert white.conditional.latent.shape == mode.shape and not torch.equal(white.conditional.latent, mode)
    opaque = PosedImage(posed.image, torch.ones_like(posed.mask), posed.camera)
    conditions = pixel.condition(replace(opaque, grey=0.0)), pixel.condition(opaque)
    assert torch.equal(*(one.conditional.context for one in conditions)), "nothing to see through"


def test_encoding_has_gradients(pixel: Any, generator: torch.Generator) -> None:
    images = torch.rand(2, SIZE, SIZE, 3, generator=generator, requires_grad=True)
    pixel.encode(images, images[..., :1]).square().sum().backward()
    assert images.grad is not None and torch.isfinite(images.grad).all() and images.grad.abs().max() > 0


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_views_come_in_fours(pixel: Any, count: int) -> None:
    with pytest.raises(InputError, match=f"expected a multiple of 4 views, got {count}"):
        pixel.check_cameras(cameras(1), cameras(count))
    pixel.check_cameras(cameras(1), cameras(8))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (cameras(), ""),
        (cameras(elevation_deg=30.0), ""),
        (cameras(fov_deg=60.0), r"field of view: 60 to 60 degrees; ImageDream .* was trained for 45 to 50 degrees"),
        (cameras(elevation_deg=40.0), r"elevation: 40 to 40 degrees; ImageDream .* was trained for 0 to 30 degrees"),
        (
            orbit_cameras(90.0 * torch.arange(4), torch.tensor([5.0, 5.0, 9.0, 5.0]), 2.0, 48.0, SIZE, SIZE),
            r"was trained on 4 views of equal elevation, 90 degrees apart; these are not",
        ),
        (
            orbit_cameras(torch.tensor([0.0, 90.0, 180.0, 275.0]), torch.full((4,), 5.0), 2.0, 48.0, SIZE, SIZE),
            r"was trained on 4 views of equal elevation, 90 degrees apart; these are not",
        ),
    ],
)
def test_warnings_about_cameras(pixel: Any, asked: Cameras, message: str, caplog: pytest.LogCaptureFixture) -> None:
    picture = asked[:1]
    with caplog.at_level(logging.WARNING, logger="liftstudio"):
        pixel.check_cameras(picture, asked)
    assert re.search(message, caplog.text) if message else not caplog.text
    assert caplog.text.count("trained") == bool(message)


def test_views_are_around_in_any_order(pixel: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Any view may be first, in each group of four."""
    turns_deg = torch.tensor([350.0, 170.0, 80.0, -100.0, 3.0, 273.0, 93.0, 183.0])
    asked = orbit_cameras(turns_deg, torch.tensor([5.0, 9.0]).repeat_interleave(4), 2.0, 48.0, SIZE, SIZE)
    with caplog.at_level(logging.WARNING, logger="liftstudio"):
        pixel.check_cameras(asked[:1], asked)
        assert not caplog.text
        pixel.check_cameras(asked[:1], asked[torch.tensor([0, 1, 2, 4, 3, 5, 6, 7])])
    assert "90 degrees apart; these are not" in caplog.text


@pytest.mark.parametrize(
    ("turn_deg", "elevation_deg", "message"),
    [
        (-90.0, 5.0, ""),
        (90.0, 5.0, ""),
        (260.0, 5.0, "azimuth of the input image: -100 to -100 degrees; .* was trained for -90 to 90 degrees"),
        (0.0, 12.0, "elevation of the input image: 12 degrees, but views from 5 to 5; .* was trained on equal ones"),
    ],
)
def test_warnings_about_the_picture(
    pixel: Any,
    text_only: Any,
    turn_deg: float,
    elevation_deg: float,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    picture = cameras(1, elevation_deg=elevation_deg, turn_deg=turn_deg)
    with caplog.at_level(logging.WARNING, logger="liftstudio"):
        text_only.check_cameras(picture, cameras())
        assert not caplog.text, "it has no picture"
        pixel.check_cameras(picture, cameras())
    assert re.search(message, caplog.text) if message else not caplog.text


def test_text_decides(folder: Path, text_only: Any, generator: torch.Generator) -> None:
    path, text = folder / "tiny-4view.safetensors", folder / "text"
    latents = latents_of(text_only, generator)
    one, other = (open_imagedream(path, text, prompt=text_prompt) for text_prompt in ("dog", "a: 'cat' \"${x}\""))
    posed = input_of(generator)
    estimates = [p.denoise(NoisyViews(latents, 1.0, p.condition(posed), cameras())) for p in (text_only, one, other)]
    assert (estimates[0] - estimates[1]).abs().max() > 1e-3 and (estimates[1] - estimates[2]).abs().max() > 1e-3
    assert torch.equal(text_only.text[1], one.text[1]) and not torch.equal(text_only.text[0], one.text[0])
    other = open_imagedream(path, text, negative_prompt="bad")
    assert torch.equal(text_only.text[0], other.text[0]) and not torch.equal(text_only.text[1], other.text[1])


def test_a_long_prompt_is_cut_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every letter is a token here: 10 fit between start and end."""
    encoder = TextEncoder(str(folder / "text"))
    with caplog.at_level(logging.WARNING, logger="liftstudio"):
        tokens = encoder.encode({"prompt": "abcdefghij", "other": "abc"}, CPU)
        assert not caplog.text
        long = encoder.encode({"prompt": "abcdefghij klm n"}, CPU)
    assert re.search(r"prompt: too long, only the first 10 tokens are used; lost: klm n", caplog.text), caplog.text
    assert tokens.shape == (2, TEXT_LENGTH, 16) and long.shape == (1, TEXT_LENGTH, 16)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("Big  bad\n Anatomy, Low", "Anatomy, Low"),  # cut within the third word
        ("Anatomical-Anatomy", "Anatomical-Anatomy"),
        ("abcdefghi j\tÉ", "É"),
    ],
)
def test_lost_words_are_logged_as_written(folder: Path, text: str, lost: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whole words, as written by the user."""
    encoder = TextEncoder(str(folder / "text"))
    with caplog.at_level(logging.WARNING, logger="liftstudio"):
        encoder.encode({"prompt": text}, CPU)
    assert caplog.messages == [f"prompt: too long, only the first 10 tokens are used; lost: {lost}"]


@pytest.mark.parametrize("special", ["<|endoftext|>", "<|startoftext|>"])
def test_special_tokens_are_plain_letters(folder: Path, special: str, caplog: pytest.LogCaptureFixture) -> None:
    """Special tokens of the tokenizer are plain letters in a text."""
    encoder = TextEncoder(str(folder / "text"))
    with caplog.at_level(logging.WARNING, logger="liftstudio"):
        found = encoder.encode({"prompt": special, "other": special[:7], "short": "a"}, CPU)
    assert "prompt: too long" in caplog.text
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_text_embeddings_equal_those_of_the_stock_pipeline(folder: Path) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "text" / "tokenizer", local_files_only=True)
    tower = CLIPTextModel.from_pretrained(folder / "text" / "text_encoder", local_files_only=True).eval()
    ids = tokenizer([CAPTION], padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = tower(ids).last_hidden_state
    found = TextEncoder(str(folder / "text")).encode({"prompt": CAPTION}, CPU)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_without_a_prompt_there_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="liftstudio"):
        open_imagedream(folder / "tiny-ipmv.safetensors", folder / "text", prompt="")
    assert "no prompt" in caplog.text


def write_pipeline(folder: Path, state: dict[str, Tensor], old_names: bool) -> None:
    """Write the public conversion: official names without a prefix; autoencoder and image tower in library format."""
    from transformers import CLIPVisionModel

    save_file(state, folder.with_suffix(".safetensors"), NUMBERS)
    parts = checkpoint.open_parts(Weights(folder.with_suffix(".safetensors")), 1.0, checkpoint.Elsewhere("", ""))
    for name in ("unet", "vae"):
        (folder / name).mkdir(parents=True)
    bare = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    save_file(bare, folder / "unet" / "diffusion_pytorch_model.safetensors", NUMBERS)
    parts.vae.load(torch.float32, CPU).save_pretrained(folder / "vae")
    if old_names:
        path = folder / "vae" / "diffusion_pytorch_model.safetensors"
        changes = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        named = load_file(path)
        for new, old in changes.items():
            named = {key.replace(new, old): value for key, value in named.items()}
        save_file(named, path)
    tower = parts.tower.load(torch.float32, CPU)
    alone = CLIPVisionModel(tower.config)
    names = {key.removeprefix("vision_model."): value for key, value in tower.vision_model.state_dict().items()}
    keys = alone.state_dict()
    alone.load_state_dict({key: names[key.removeprefix("vision_model.")] for key in keys})
    alone.save_pretrained(folder / "image_encoder")


@pytest.mark.parametrize("old_names", [False, True])
def test_the_public_conversion(
    folder: Path, pixel: Any, tmp_path: Path, generator: torch.Generator, old_names: bool
) -> None:
    pipeline = tmp_path / "tiny-ipmv-diffusers"
    write_pipeline(pipeline, load_file(folder / "tiny-ipmv.safetensors"), old_names)
    write_tiny_text(pipeline, seed=SEED)
    file = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    latents, posed = latents_of(pixel, generator), input_of(generator)
    expected = pixel.denoise(NoisyViews(latents, 1.0, pixel.condition(posed), cameras()))
    for weights in (pipeline, file) if old_names else (pipeline,):
        prior = open_imagedream(weights, Path(), text_encoder="")
        assert prior.mode == "pixel"
        found = prior.denoise(NoisyViews(latents, 1.0, prior.condition(posed), cameras()))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(prior.decode(latents)[0], pixel.decode(latents)[0])


@pytest.mark.parametrize(
    ("place", "weights"),
    [("unet", "diffusion_pytorch_model.safetensors"), (".", "unet"), (".", "."), (".", "unet/../unet/"), ("vae", "..")],
)
def test_the_public_conversion_by_its_unet(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, weights: str
) -> None:
    """Opened by paths that do not name the pipeline."""
    write_pipeline(tmp_path / "tiny-ipmv", load_file(folder / "tiny-ipmv.safetensors"), old_names=False)
    write_tiny_text(tmp_path / "tiny-ipmv", seed=SEED)
    monkeypatch.chdir(tmp_path / "tiny-ipmv" / place)
    assert open_imagedream(Path(weights), Path(), text_encoder="", mode="pixel").mode == "pixel"


def test_foreign_autoencoders(folder: Path, tmp_path: Path) -> None:
    """Autoencoders with another latent scale, or other latents than the network's."""
    from diffusers import AutoencoderKL

    write_pipeline(tmp_path / "parts-ipmv", load_file(folder / "tiny-ipmv.safetensors"), old_names=False)
    vae = tmp_path / "parts-ipmv" / "vae"
    options = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps(options | {"scaling_factor": 0.5}))
    with pytest.raises(
        InputError, match=r"vae: its latents are scaled by 0\.5, expected 0\.18215; vae: expected the folder"
    ):
        open_imagedream(folder / "tiny-ipmv.safetensors", folder / "text", vae=str(vae))
    AutoencoderKL.from_config(options | {"latent_channels": 8}).save_pretrained(tmp_path / "wide")
    with pytest.raises(InputError, match=r"wide.*: expected 4 latent channels, as .*tiny-ipmv\.safetensors has, got 8"):
        open_imagedream(folder / "tiny-ipmv.safetensors", folder / "text", vae=str(tmp_path / "wide"))


def test_what_a_file_lacks_comes_from_folders(
    folder: Path, pixel: Any, tmp_path: Path, generator: torch.Generator
) -> None:
    """An official file without encoders, or with ones that options replace."""
    state = load_file(folder / "tiny-ipmv.safetensors")
    write_pipeline(tmp_path / "parts-ipmv", state, old_names=False)
    bare = {key: value for key, value in state.items() if key.startswith(PREFIX)}
    save_file(bare, tmp_path / "bare-ipmv.safetensors", NUMBERS)
    elsewhere = {"vae": str(tmp_path / "parts-ipmv/vae"), "image_encoder": str(tmp_path / "parts-ipmv/image_encoder")}
    posed, latents = input_of(generator), latents_of(pixel, generator)
    for path in (tmp_path / "bare-ipmv.safetensors", folder / "tiny-ipmv.safetensors"):
        prior = open_imagedream(path, folder / "text", **elsewhere)
        found, expected = (p.denoise(NoisyViews(latents, 1.0, p.condition(posed), cameras())) for p in (prior, pixel))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        "tiny-ipmv/unet/config.json",
        "tiny-ipmv/vae/diffusion_pytorch_model.safetensors",
        "text/text_encoder/config.json",
    ],
)
def test_other_networks_have_another_cache_key(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """The cache key covers the weights' pipeline and the folders that options name."""
    monkeypatch.chdir(tmp_path)
    write_pipeline(Path("tiny-ipmv"), load_file(folder / "tiny-ipmv.safetensors"), old_names=False)
    write_tiny_text(Path("text"), seed=SEED)
    Path("tiny-ipmv/unet/config.json").write_text("{}")
    config = find("imagedream", "prior").Config("tiny-ipmv", text_encoder="text", prompt="long " * 100)
    block = ComponentSpec("prior", "imagedream", config)
    key = resolve(block).fingerprint()
    assert resolve(block).fingerprint() == key and set(key["folders"]) == {"weights", "text_encoder"}
    Path("text/notes.md").write_text("no part of a network")
    assert resolve(block).fingerprint() == key
    Path(changed).write_bytes(Path(changed).read_bytes())  # another modification time suffices
    assert resolve(block).fingerprint() != key
    alone = ComponentSpec("prior", "imagedream", replace(config, weights=str(folder / "tiny-ipmv.safetensors")))
    assert set(resolve(alone).fingerprint()["folders"]) == {"text_encoder"}


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: remove(f / "text_encoder/model.safetensors"), r"model\.safetensors: no such file"),
        (lambda f: remove(f / "text_encoder/config.json"), r"config\.json: no such file"),
        (lambda f: (f / "text_encoder/config.json").write_text("{"), r"config\.json: not a JSON file"),
        (
            lambda f: (f / "text_encoder/config.json").write_text('{"hidden_size": "wide"}'),
            r"config\.json: no network can be built from it",
        ),
        (lambda f: remove(f / "tokenizer/tokenizer_config.json"), r"tokenizer_config\.json: no such file"),
        (lambda f: remove(f / "tokenizer/vocab.json"), r"vocab\.json: no such file"),
    ],
)
def test_missing_text_weights(folder: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    """One line that names the file, what is expected, where it is published, and its licence."""
    text = write_tiny_text(tmp_path / "text")
    damage(text)
    with pytest.raises(InputError, match=f"{message}.*text_encoder/ and tokenizer/.*licence.*huggingface") as raised:
        open_imagedream(folder / "tiny-ipmv.safetensors", text)
    assert "\n" not in str(raised.value)


def test_other_missing_parts(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "tiny-ipmv.safetensors")
    text, absent = folder / "text", str(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no such file or folder; .*Peng-Wang/ImageDream.*licences"):
        open_imagedream(tmp_path / "sd-v2.1-base-4view-ipmv.pt", text)
    for option, message in (
        ("vae", "vae: expected the folder of an AutoencoderKL"),
        ("image_encoder", "laion/CLIP-ViT-H"),
    ):
        with pytest.raises(InputError, match=f"absent.*no such folder.*{message}.*licence"):
            open_imagedream(folder / "tiny-ipmv.safetensors", text, **{option: absent})
    wide = write_tiny_text(tmp_path / "wide", width=24)
    with pytest.raises(InputError, match=r"text_encoder: expected tokens of width 16, .* got 24"):
        open_imagedream(folder / "tiny-ipmv.safetensors", wide)
    state[f"{PREFIX}image_embed.proj_in.weight"] = torch.ones(24, 20)
    save_file(state, tmp_path / "other-ipmv.safetensors", NUMBERS)
    with pytest.raises(InputError, match=r"expected image tokens of width 20, .* got 48"):
        open_imagedream(tmp_path / "other-ipmv.safetensors", text)


KEY = f"{PREFIX}middle_block.1.transformer_blocks.0.attn2.to_k_ip.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(KEY), f"the weight '{re.escape(KEY)}' is missing"),
        (lambda s: s.update({KEY: torch.ones(7, 3)}), re.escape(f"'{KEY}' has shape [7, 3]")),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected weight 'extra'"),
        (lambda s: s.pop(f"{PREFIX}camera_embed.0.weight"), "not ImageDream's or MVDream's weights"),
        (lambda s: s.pop("vae_model.decoder.conv_in.weight"), r"'vae_model\.decoder\.conv_in\.weight' is missing"),
        (
            lambda s: s.update({f"{PREFIX}input_blocks.1.0.in_layers.2.weight": torch.ones(20, 4, 3, 3)}),
            r"in_layers\.2\.weight' has 20 channels, not a multiple of 32",
        ),
    ],
)
def test_wrong_files_are_refused(folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    state = load_file(folder / "tiny-ipmv.safetensors")
    change(state)
    save_file(state, tmp_path / "wrong-ipmv.safetensors", NUMBERS)
    with pytest.raises(InputError, match=message):
        open_imagedream(tmp_path / "wrong-ipmv.safetensors", folder / "text")


def test_heads_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "tiny-ipmv.safetensors")
    save_file(state, tmp_path / "wrong-ipmv.safetensors", NUMBERS | {"num_head_channels": "5"})
    with pytest.raises(InputError, match="32 channels are not divisible by the head size 5; set"):
        open_imagedream(tmp_path / "wrong-ipmv.safetensors", folder / "text")


def test_a_checkpoint_of_torch_is_opened(folder: Path, pixel: Any, tmp_path: Path) -> None:
    """The official file is a flat dict; what no shape reveals is then that of the official models."""
    torch.save(load_file(folder / "tiny-ipmv.safetensors"), tmp_path / "tiny-ipmv.pt")
    with pytest.raises(InputError, match="32 channels are not divisible by the head size 64"):
        open_imagedream(tmp_path / "tiny-ipmv.pt", folder / "text")
    vae = vae_part(Weights(tmp_path / "tiny-ipmv.pt"), "vae_model.").load(torch.float32, CPU).state_dict()
    for key, tensor in pixel.vae.state_dict().items():
        assert torch.equal(vae[key], tensor), key


SIZES = {
    "three levels": {"channels": (32, 64, 64), "attends": (True, True, False), "layers": 2},
    "attention in the middle alone": {"channels": (64,), "attends": (False,), "head_channels": 32},
    "attention at half resolution": {"channels": (32, 64), "attends": (False, True)},
    "heads wider than a level without": {"channels": (32, 64), "attends": (False, True), "head_channels": 64},
}


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
def test_other_sizes(
    options: dict[str, Any], image: bool, folder: Path, tmp_path: Path, generator: torch.Generator
) -> None:
    """Sizes are determined by the file alone."""
    state = tiny_state(seed=SEED, image=image, **options)
    heads = {"num_head_channels": str(options.get("head_channels", 16))}
    save_file(state, tmp_path / "other.safetensors", NUMBERS | heads | {"mode": "local"})
    prior = open_imagedream(tmp_path / "other.safetensors", folder / "text")
    latents = latents_of(prior, generator)
    estimate = prior.denoise(NoisyViews(latents, 1.0, prior.condition(input_of(generator)), cameras()))
    assert estimate.shape == latents.shape and torch.isfinite(estimate).all()


def test_the_prior_is_recognised_by_its_weights(folder: Path) -> None:
    """`type: auto` finds this prior by its weights, and then needs its options."""
    recognizes = find("imagedream", "prior").recognizes
    for name in ("tiny-ipmv", "tiny-4view"):
        assert recognizes(Weights(folder / f"{name}.safetensors"))
    for other in ("sv3d", "syncdreamer"):
        assert not find(other, "prior").recognizes(Weights(folder / "tiny-ipmv.safetensors"))


def test_half_precision_is_close(folder: Path, pixel: Any, generator: torch.Generator) -> None:
    half = open_imagedream(folder / "tiny-ipmv.safetensors", folder / "text", precision="bfloat16")
    latents, posed = latents_of(pixel, generator), input_of(generator)
    assert [next(module.parameters()).dtype for module in (half.unet, half.tower)] == [torch.bfloat16] * 2
    assert half.vae.dtype == torch.float32
    estimates = [p.denoise(NoisyViews(latents, 1.0, p.condition(posed), cameras())) for p in (pixel, half)]
    assert estimates[1].dtype == torch.float32
    # 8 bits of mantissa through some 40 layers
    assert (estimates[0] - estimates[1]).abs().mean() < 0.05 * estimates[0].abs().mean()

"""SV3D as a prior: a miniature in the official file layout, from the file to sampled views."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.seeds import fresh_seed
from helpers.tiny_sv3d import NUMBERS, write_tiny_sv3d
from safetensors.torch import load_file, save_file
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.orbits import Angles, sine, static
from liftstudio.methods.sv3d.conditioning import clip_pixels
from liftstudio.methods.sv3d.denoising import shaped_scales, triangle
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.opening import open_prior
from liftstudio.priors.samplers import euler, karras_sigmas

SEED = fresh_seed(__name__)
SIZE, FRAMES = 32, 5
CPU = torch.device("cpu")
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sv3d")
    return {
        variant: write_tiny_sv3d(folder / f"{variant}.safetensors", variant=variant, image_size=SIZE, seed=SEED)
        for variant in ("p", "u")
    }


@functools.cache
def open_sv3d(path: Path, **options: Any) -> Prior:
    config = find("sv3d", "prior").Config(weights=str(path), **options)
    return open_prior(ComponentSpec("prior", "sv3d", config), CPU)


@pytest.fixture(scope="module")
def prior(files: dict[str, Path]) -> Prior:
    return open_sv3d(files["p"])


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def cameras_of(angles: Angles, turn_deg: float = 0.0) -> Cameras:
    return orbit_cameras(angles[0] + turn_deg, angles[1], 3.6, 33.8, SIZE, SIZE)


def input_of(generator: torch.Generator, elevation_deg: float = 10.0, azimuth_deg: float = 0.0) -> PosedImage:
    image = torch.rand(SIZE, SIZE, 3, generator=generator)
    camera = cameras_of((torch.tensor([azimuth_deg]), torch.tensor([elevation_deg])))
    return PosedImage(image, torch.ones(SIZE, SIZE, 1), camera)


@pytest.mark.parametrize("variant", ["p", "u"])
def test_the_model_is_recognised_by_its_file(files: dict[str, Path], variant: str) -> None:
    options = find("auto", "prior").Config(weights=str(files[variant]))
    prior = open_prior(ComponentSpec("prior", "auto", options), CPU)
    assert prior.name == f"SV3D (sv3d_{variant}, {variant}.safetensors)"
    assert (prior.resolution, prior.frames, prior.latent_shape) == (SIZE, FRAMES, (4, SIZE // 4, SIZE // 4))
    assert not any(p.requires_grad for p in [*prior.unet.parameters(), *prior.vae.parameters()])


def test_triangle() -> None:
    assert triangle(5).tolist() == pytest.approx([1.0, 1.75, 2.5, 1.75, 1.0])
    scale = triangle(21, least=2.0, most=4.0)
    assert scale[10].item() == pytest.approx(4.0) and scale.min() == 2.0
    torch.testing.assert_close(scale, scale.flip(0))


def test_other_shapes_of_guidance() -> None:
    azimuth_deg = torch.tensor([30.0, 100, 200, 290, 20]) + 15  # the input view is last
    off = torch.tensor([10.0, 80, 180, 90, 0]) / 180
    torch.testing.assert_close(shaped_scales("triangle-by-azimuth", azimuth_deg, 3.0), 1 + 2 * off)
    torch.testing.assert_close(shaped_scales("triangle", azimuth_deg, 3.0), triangle(5, most=3.0))
    assert shaped_scales("linear", azimuth_deg, 3.0).tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert shaped_scales("constant", azimuth_deg, 3.0).tolist() == [3.0] * 5


def test_sampling_is_the_same_in_one_and_two_passes(files: dict[str, Path], generator: torch.Generator) -> None:
    noise = torch.randn(FRAMES, 4, 8, 8, generator=generator)
    posed = input_of(generator)
    results = []
    for in_one_batch in (False, True):
        prior = open_sv3d(files["p"], guide_in_one_batch=in_one_batch)
        condition, cameras = prior.condition(posed), cameras_of(sine(FRAMES, 10.0, 30.0))
        prior.check_cameras(posed.camera, cameras)
        scale = triangle(FRAMES)
        sigmas = karras_sigmas(4, prior.sigma_min, prior.sigma_max)
        latents = euler(lambda z, s: prior.denoise(NoisyViews(z, s, condition, cameras, scale)), noise, sigmas)  # noqa: B023
        results.append(latents)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)  # rounding, over 4 guided steps
    images, masks = prior.decode(results[0])
    assert images.shape == (FRAMES, SIZE, SIZE, 3) and masks is None
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.01


def test_guidance_needs_both_branches(prior: Prior, generator: torch.Generator) -> None:
    latents, posed = torch.randn(FRAMES, 4, 8, 8, generator=generator), input_of(generator)
    condition, cameras = prior.condition(posed), cameras_of(static(FRAMES, 10.0))
    alone = prior.denoise(NoisyViews(latents, 2.0, condition, cameras))
    at_one = prior.denoise(NoisyViews(latents, 2.0, condition, cameras, torch.ones(FRAMES)))
    torch.testing.assert_close(alone, at_one, rtol=0, atol=1e-5)
    assert (alone - prior.denoise(NoisyViews(latents, 2.0, condition.unconditional(), cameras))).abs().max() > 1e-3
    zero = prior.denoise(NoisyViews(latents, 2.0, condition, cameras, torch.zeros(FRAMES)))
    unconditional = prior.denoise(NoisyViews(latents, 2.0, condition.unconditional(), cameras))
    torch.testing.assert_close(zero, unconditional, rtol=0, atol=1e-5)


def test_cameras_are_relative_in_azimuth_and_absolute_in_elevation(prior: Prior, generator: torch.Generator) -> None:
    latents, posed = torch.randn(FRAMES, 4, 8, 8, generator=generator), input_of(generator)
    condition, orbit = prior.condition(posed), sine(FRAMES, 10.0, 20.0)
    reference = prior.denoise(NoisyViews(latents, 2.0, condition, cameras_of(orbit)))
    turned = prior.denoise(NoisyViews(latents, 2.0, condition, cameras_of(orbit, turn_deg=77.0)))
    torch.testing.assert_close(turned, reference, rtol=0, atol=1e-4)  # angles from float32 matrices
    raised = prior.denoise(NoisyViews(latents, 2.0, condition, cameras_of(sine(FRAMES, 15.0, 20.0))))
    assert (raised - reference).abs().max() > 1e-3


def test_frames_are_coded_one_by_one(files: dict[str, Path], generator: torch.Generator) -> None:
    images = torch.rand(5, SIZE, SIZE, 3, generator=generator, requires_grad=True)
    masks = torch.ones(5, SIZE, SIZE, 1)
    small, large = (open_sv3d(files["p"], chunk=chunk) for chunk in (1, 5))
    latents = small.encode(images, masks)
    torch.testing.assert_close(latents, large.encode(images, masks), rtol=0, atol=1e-5)
    torch.testing.assert_close(small.decode(latents)[0], large.decode(latents)[0], rtol=0, atol=1e-5)
    gradient = torch.autograd.grad(latents[2].square().sum(), images)[0]
    assert gradient[2].abs().max() > 0 and gradient[[0, 1, 3, 4]].abs().max() == 0


def test_the_input_image_is_encoded_unscaled_and_always_alike(prior: Prior, generator: torch.Generator) -> None:
    posed = input_of(generator)
    condition = prior.condition(posed)
    again = prior.condition(posed)
    assert torch.equal(condition.latent, again.latent) and torch.equal(condition.embedding, again.embedding)
    scaled = prior.encode(posed.image[None], posed.mask[None])[0]
    torch.testing.assert_close(condition.latent * 0.18215, scaled, rtol=1e-3, atol=1e-3)  # but for the noise of 1e-5
    assert not torch.equal(condition.latent * 0.18215, scaled)
    assert condition.embedding.shape == (1, 32)


# The official networks, written down from their layout with the official keys.


def official_autoencoder(state: State, x: Tensor, way: str) -> Tensor:
    """Return mean latents [B, 4, h, w] of images (way "encoder"), or images of latents (way "decoder")."""
    prefix = f"conditioner.embedders.1.encoder.{way}."

    def conv(name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        return F.conv2d(x, state[f"{prefix}{name}.weight"], state[f"{prefix}{name}.bias"], stride, padding)

    def norm(name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, state[f"{prefix}{name}.weight"], state[f"{prefix}{name}.bias"], eps=1e-6)

    def residual(name: str, x: Tensor) -> Tensor:
        hidden = conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", x)))
        hidden = conv(f"{name}.conv2", F.silu(norm(f"{name}.norm2", hidden)))
        shortcut = f"{name}.nin_shortcut"
        return hidden + (conv(shortcut, x, padding=0) if f"{prefix}{shortcut}.weight" in state else x)

    def middle(x: Tensor) -> Tensor:
        x = residual("mid.block_1", x)
        q, k, v = (conv(f"mid.attn_1.{n}", norm("mid.attn_1.norm", x), padding=0).flatten(2) for n in "qkv")
        mix = torch.softmax(q.transpose(1, 2) @ k / q.shape[1] ** 0.5, dim=-1)
        x = x + conv("mid.attn_1.proj_out", (v @ mix.transpose(1, 2)).reshape(x.shape), padding=0)
        return residual("mid.block_2", x)

    def level(index: int, x: Tensor) -> Tensor:
        part = "down" if way == "encoder" else "up"
        blocks = len(
            [k for k in state if re.fullmatch(rf"{re.escape(prefix)}{part}\.{index}\.block\.\d\.conv1\.bias", k)]
        )
        for block in range(blocks):
            x = residual(f"{part}.{index}.block.{block}", x)
        if f"{prefix}{part}.{index}.downsample.conv.weight" in state:
            return conv(f"down.{index}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
        if f"{prefix}{part}.{index}.upsample.conv.weight" in state:
            return conv(f"up.{index}.upsample.conv", F.interpolate(x, scale_factor=2.0))
        return x

    outer = "conditioner.embedders.1.encoder."
    if way == "decoder":
        x = F.conv2d(x, state[f"{outer}post_quant_conv.weight"], state[f"{outer}post_quant_conv.bias"])
    x = conv("conv_in", x)
    x = middle(x) if way == "decoder" else x
    for index in range(3) if way == "encoder" else (2, 1, 0):
        x = level(index, x)
    x = middle(x) if way == "encoder" else x
    x = conv("conv_out", F.silu(norm("norm_out", x)))
    if way == "decoder":
        return x
    return F.conv2d(x, state[f"{outer}quant_conv.weight"], state[f"{outer}quant_conv.bias"]).chunk(2, dim=1)[0]


def official_tower(state: State, pixels: Tensor, heads: int) -> Tensor:
    """Return the projected class token [B, D] of OpenCLIP's image tower."""
    s = {k.partition(".visual.")[2]: v for k, v in state.items() if ".visual." in k}

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], eps=1e-5)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

    def attention(block: str, x: Tensor) -> Tensor:
        joined = F.linear(x, s[f"{block}.attn.in_proj_weight"], s[f"{block}.attn.in_proj_bias"])
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in joined.chunk(3, dim=-1))
        mix = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        return linear(f"{block}.attn.out_proj", (mix @ v).transpose(1, 2).flatten(2))

    patches = F.conv2d(pixels, s["conv1.weight"], stride=s["conv1.weight"].shape[-1]).flatten(2).transpose(1, 2)
    tokens = torch.cat([s["class_embedding"].expand(len(pixels), 1, -1), patches], dim=1)
    x = norm("ln_pre", tokens + s["positional_embedding"])
    for index in range(2):
        block = f"transformer.resblocks.{index}"
        x = x + attention(block, norm(f"{block}.ln_1", x))
        x = x + linear(f"{block}.mlp.c_proj", F.gelu(linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x))))
    return norm("ln_post", x[:, 0]) @ s["proj"]


@torch.no_grad()
def test_autoencoder_is_the_official_one(files: dict[str, Path], prior: Prior, generator: torch.Generator) -> None:
    state, images = load_file(files["p"]), torch.rand(2, SIZE, SIZE, 3, generator=generator)
    latents = 0.18215 * official_autoencoder(state, 2 * images.permute(0, 3, 1, 2) - 1, "encoder")
    torch.testing.assert_close(prior.encode(images, images[..., :1]), latents, rtol=1e-4, atol=1e-5)
    decoded = official_autoencoder(state, latents / 0.18215, "decoder").permute(0, 2, 3, 1) / 2 + 0.5
    torch.testing.assert_close(prior.decode(latents)[0], decoded.clamp(0, 1), rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_image_tower_is_the_official_one(files: dict[str, Path], prior: Prior, generator: torch.Generator) -> None:
    posed = input_of(generator)
    pixels = clip_pixels(posed.image, 28)
    expected = official_tower(load_file(files["p"]), pixels, heads=3)
    torch.testing.assert_close(prior.condition(posed).embedding, expected, rtol=1e-4, atol=1e-5)


def test_clip_pixels() -> None:
    """A grey image stays grey, normalised; a ramp stays a ramp from corner to corner."""
    grey = clip_pixels(torch.full((576, 576, 3), 0.5), 224)
    expected = (0.5 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor([0.2686, 0.2613, 0.2758])
    torch.testing.assert_close(grey.mean((0, 2, 3)), expected, rtol=1e-3, atol=1e-4)
    assert grey.std((2, 3)).max() < 1e-5
    row = clip_pixels(torch.linspace(0, 1, 96)[None, :, None].expand(96, 96, 3), 32)[0, 0, 16]
    torch.testing.assert_close(row[8:24].diff(), row[8:24].diff().mean().expand(15), rtol=0.02, atol=0)  # bicubic
    assert row[8:24].diff().mean().item() == pytest.approx(1 / 31 / 0.26862954, rel=3e-3)


STATIC, SWINGING = static(FRAMES, 10.0), sine(FRAMES, 10.0, 30.0)
OPEN = (torch.tensor([0.0, 72, 144, 216, 288]), STATIC[1])
BACKWARDS = (torch.tensor([288.0, 216, 144, 72, 0]), STATIC[1])


@pytest.mark.parametrize(
    ("variant", "angles", "message"),
    [
        ("u", SWINGING, "ignores cameras and keeps the input's elevation, but the orbit goes from -18"),
        ("p", OPEN, "it must be closed, with the input view last"),
        ("p", static(FRAMES, 12.0), "2 in elevation"),
        ("p", BACKWARDS, "its azimuths must ascend"),
    ],
)
def test_impossible_orbits(files: dict[str, Path], variant: str, angles: Angles, message: str) -> None:
    posed = input_of(torch.Generator())
    with pytest.raises(InputError, match=message):
        open_sv3d(files[variant]).check_cameras(posed.camera, cameras_of(angles))


@pytest.mark.parametrize(("variant", "angles"), [("u", STATIC), ("p", STATIC), ("p", SWINGING)])
def test_possible_orbits(files: dict[str, Path], variant: str, angles: Angles) -> None:
    posed = input_of(torch.Generator(), azimuth_deg=33.0)
    open_sv3d(files[variant]).check_cameras(posed.camera, cameras_of(angles, turn_deg=33.0))


def test_another_number_of_frames_is_a_warning(prior: Prior, caplog: pytest.LogCaptureFixture) -> None:
    posed = input_of(torch.Generator())
    prior.check_cameras(posed.camera, cameras_of(static(7, 10.0)))
    assert "trained on 5 views at a time, not 7" in caplog.text


def test_missing_weights_say_where_they_are_published(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file or folder; .*huggingface\.co/stabilityai/sv3d under .*licence"):
        open_sv3d(tmp_path / "sv3d_p.safetensors")


KEY = "conditioner.embedders.1.encoder.decoder.conv_in.weight"
VECTOR = "model.diffusion_model.label_emb.0.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(KEY), f"the weight '{re.escape(KEY)}' is missing"),
        (lambda state: state.pop(VECTOR), f"not SV3D's weights in their official layout: '{re.escape(VECTOR)}'"),
        (lambda state: state.update(extra=torch.ones(1)), "unexpected weight 'extra'"),
        (lambda state: state.update({VECTOR: torch.ones(128, 768)}), "has shape .128, 768., expected width 1280"),
    ],
)
def test_wrong_files_are_refused(files: dict[str, Path], tmp_path: Path, change: Any, message: str) -> None:
    state = load_file(files["p"])
    change(state)
    save_file(state, tmp_path / "wrong.safetensors", metadata=NUMBERS)
    with pytest.raises(InputError, match=message):
        open_sv3d(tmp_path / "wrong.safetensors")


def test_sizes_that_no_shape_reveals(files: dict[str, Path], tmp_path: Path) -> None:
    state = load_file(files["p"])
    for metadata, message in (
        ({}, "32 channels are not divisible by the head size 64; set num_head_channels in its metadata"),
        ({**NUMBERS, "image_size": "large"}, "metadata 'image_size': expected a whole number above 0, got 'large'"),
    ):
        save_file(state, tmp_path / "wrong.safetensors", metadata=metadata)
        with pytest.raises(InputError, match=message):
            open_sv3d(tmp_path / "wrong.safetensors")


def test_half_precision_is_close(files: dict[str, Path], prior: Prior, generator: torch.Generator) -> None:
    half = open_sv3d(files["p"], precision="bfloat16")
    latents, posed = torch.randn(FRAMES, 4, 8, 8, generator=generator), input_of(generator)
    cameras = cameras_of(SWINGING)
    estimates = [p.denoise(NoisyViews(latents, 1.0, p.condition(posed), cameras)) for p in (prior, half)]
    assert half.unet.dtype == torch.bfloat16 and half.vae.dtype == torch.float32
    assert estimates[1].dtype == torch.float32
    # 8 bits of mantissa through some 40 layers
    assert (estimates[0] - estimates[1]).abs().mean() < 0.05 * estimates[0].abs().mean()

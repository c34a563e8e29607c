"""ImageDream and MVDream as priors: miniatures in the official layouts, from file to estimates."""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_imagedream import NUMBERS, TEXT_LENGTH
from imagedream_inputs import CPU, FRAMES, SIZE, cameras, input_of, latents_of, open_imagedream
from safetensors.torch import load_file, save_file
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.methods.imagedream import checkpoint, conditioning, denoising
from liftstudio.priors.base import NoisyViews, PosedImage


def test_modes_are_read_from_the_files(pixel: Any, local: Any, text_only: Any) -> None:
    assert [prior.mode for prior in (pixel, local, text_only)] == ["pixel", "local", "text"]
    assert pixel.name == "ImageDream (pixel, tiny-ipmv.safetensors)"
    assert text_only.name == "MVDream (text, tiny-4view.safetensors)"
    for prior in (pixel, local, text_only):
        assert (prior.resolution, prior.frames, prior.latent_shape) == (SIZE, FRAMES, (4, SIZE // 4, SIZE // 4))
        assert prior.sigmas(50).shape == (51,) and prior.sigma_max == pytest.approx(14.61, abs=0.01)
        assert not any(p.requires_grad for p in [*prior.unet.parameters(), *prior.vae.parameters()])


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


def test_half_precision_is_close(folder: Path, pixel: Any, generator: torch.Generator) -> None:
    half = open_imagedream(folder / "tiny-ipmv.safetensors", folder / "text", precision="bfloat16")
    latents, posed = latents_of(pixel, generator), input_of(generator)
    assert [next(module.parameters()).dtype for module in (half.unet, half.tower)] == [torch.bfloat16] * 2
    assert half.vae.dtype == torch.float32
    estimates = [p.denoise(NoisyViews(latents, 1.0, p.condition(posed), cameras())) for p in (pixel, half)]
    assert estimates[1].dtype == torch.float32
    # 8 bits of mantissa through some 40 layers
    assert (estimates[0] - estimates[1]).abs().mean() < 0.05 * estimates[0].abs().mean()

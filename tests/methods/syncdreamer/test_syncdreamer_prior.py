"""SyncDreamer as a prior: a miniature in the official file layout, from file to estimates."""

import copy
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.seeds import fresh_seed
from helpers.tiny_syncdreamer import NUMBERS, official_cameras, tiny_state, write_tiny_syncdreamer
from safetensors.torch import load_file, save_file
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.methods.syncdreamer import checkpoint, denoising
from liftstudio.methods.syncdreamer.denoising import decomposed
from liftstudio.methods.syncdreamer.rig import Rig
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.latent_prior import clip_pixels
from liftstudio.priors.opening import open_prior

SEED = fresh_seed(__name__)
SIZE, VIEWS = 32, 4
SHAPE = (VIEWS, 4, SIZE // 4, SIZE // 4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("syncdreamer") / "tiny.safetensors"
    return write_tiny_syncdreamer(path, views=VIEWS, image_size=SIZE, seed=SEED)


def open_syncdreamer(path: Path, **options: Any) -> Prior:
    config = find("syncdreamer", "prior").Config(weights=str(path), **options)
    return open_prior(ComponentSpec("prior", "syncdreamer", config), CPU)


@pytest.fixture(scope="module")
def prior(file: Path) -> Prior:
    return open_syncdreamer(file)


def with_options(prior: Prior, **options: Any) -> Prior:
    """Return a prior of the same networks with other options."""
    other: Any = copy.copy(prior)
    other.config = replace(other.config, **options)
    return other


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def input_of(generator: torch.Generator, elevation_deg: float = 10.0, azimuth_deg: float = 0.0) -> PosedImage:
    image = torch.rand(SIZE, SIZE, 3, generator=generator)
    angles = torch.tensor([azimuth_deg]), torch.tensor([elevation_deg])
    return PosedImage(image, torch.ones(SIZE, SIZE, 1), orbit_cameras(*angles, 2.7, 40.0, SIZE, SIZE))


def cameras() -> Cameras:
    return official_cameras(VIEWS, SIZE, distance=2.7)


def test_the_file_is_recognised(file: Path, prior: Prior) -> None:
    named, options = prior, find("auto", "prior").Config(weights=str(file))
    prior = open_prior(ComponentSpec("prior", "auto", options), CPU)
    assert prior.name == "SyncDreamer (tiny.safetensors)" and type(prior) is type(named)
    assert (prior.resolution, prior.frames, prior.latent_shape) == (SIZE, VIEWS, SHAPE[1:])
    assert not any(p.requires_grad for p in [*prior.network.parameters(), *prior.vae.parameters()])
    assert prior.sigmas(50).shape == (51,) and prior.sigmas(50)[0] < prior.sigma_max == pytest.approx(14.61, abs=0.01)


def test_a_lightning_checkpoint_is_opened(file: Path, prior: Prior, generator: torch.Generator, tmp_path: Path) -> None:
    """As the official file: weights are under `state_dict`, and sizes that no shape reveals are the official ones."""
    torch.save({"state_dict": load_file(file), "global_step": 3}, tmp_path / "tiny.ckpt")
    with pytest.raises(InputError, match="width 48 is not divisible by the head size 64"):
        open_syncdreamer(tmp_path / "tiny.ckpt")
    opened = checkpoint.network_part(find_weights(tmp_path / "tiny.ckpt"))
    sizes = opened.module.spatial_volume.size
    assert (sizes.vertices, sizes.planes, opened.module.model["diffusion_model"].size.heads) == (32, 48, 8)
    loaded = opened.load(torch.float32, CPU).state_dict()
    for key, tensor in prior.network.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


def find_weights(path: Path) -> Any:
    from liftstudio.core.weights import Weights

    return Weights(path)


def test_views_in_chunks(prior: Prior, generator: torch.Generator) -> None:
    """Estimates, images and latents do not depend on how many views are computed at once."""
    posed = input_of(generator)
    latents, images = torch.randn(SHAPE, generator=generator), torch.rand(VIEWS, SIZE, SIZE, 3, generator=generator)
    condition, scale = prior.condition(posed), torch.full((VIEWS,), 2.0)
    together, *others = prior, *(with_options(prior, chunk=chunk) for chunk in (1, 3))
    for sigma in (0.05, 14.0):
        guided, *in_chunks = (
            p.denoise(NoisyViews(latents, sigma, condition, cameras(), scale)) for p in (together, *others)
        )
        for other in in_chunks:
            # the tolerance of guided noise in the golden data, over the noise level; guidance of 2 triples rounding
            torch.testing.assert_close(guided, other, rtol=1e-4, atol=5e-4 * max(1, sigma))
        parts, *in_chunks = (
            p.denoise_separately(NoisyViews(latents, sigma, condition, cameras())) for p in (together, *others)
        )
        for part, *other_parts in zip(parts, *in_chunks, strict=True):
            for other in other_parts:
                torch.testing.assert_close(part, other, rtol=1e-4, atol=1.7e-4 * max(1, sigma))
    for other in others:
        torch.testing.assert_close(prior.decode(latents)[0], other.decode(latents)[0], rtol=0, atol=1e-5)
        encoded = [p.encode(images, images[..., :1]) for p in (prior, other)]
        torch.testing.assert_close(*encoded, rtol=0, atol=1e-5)


def test_what_each_estimate_depends_on(prior: Prior, generator: torch.Generator) -> None:
    sigma, latents = 2.0, torch.randn(SHAPE, generator=generator)
    other_view = latents.clone()
    other_view[2] += 1
    one, other = (prior.condition(input_of(generator)) for _ in range(2))
    first = prior.denoise_separately(NoisyViews(latents, sigma, one, cameras()))
    second = prior.denoise_separately(NoisyViews(latents, sigma, other, cameras()))
    third = prior.denoise_separately(NoisyViews(other_view, sigma, one, cameras()))
    assert torch.equal(first.views, second.views), "no picture"
    assert torch.equal(first.reference[0], third.reference[0]), "no other views"
    for a, b in (
        (first.reference, second.reference),
        (first.views, third.views),
        (first.everything, second.everything),
    ):
        assert (a - b)[0].abs().max() > 1e-3
    assert torch.equal(first.everything, prior.denoise(NoisyViews(latents, sigma, one, cameras())))


def test_decomposed_guidance(generator: torch.Generator) -> None:
    everything, views, reference = torch.randn(3, 5, 4, generator=generator)
    expected = 4 * everything - 2 * views - reference
    torch.testing.assert_close(decomposed(everything, views, reference, (2.0, 1.0)), expected)
    assert torch.equal(decomposed(everything, views, reference, (0.0, 0.0)), everything)


def test_guidance(prior: Prior, generator: torch.Generator) -> None:
    latents, condition = torch.randn(SHAPE, generator=generator), prior.condition(input_of(generator))

    def at(scale: float) -> Tensor:
        return prior.denoise(NoisyViews(latents, 1.0, condition, cameras(), torch.full((VIEWS,), scale)))

    assert torch.equal(at(1.0), prior.denoise(NoisyViews(latents, 1.0, condition, cameras())))
    torch.testing.assert_close(at(3.0) - at(1.0), at(2.0) - at(0.0), rtol=1e-3, atol=1e-4)  # linear in the scale
    assert (at(2.0) - at(1.0)).abs().max() > 1e-3
    estimates = prior.denoise_separately(NoisyViews(latents, 1.0, condition, cameras()))
    assert torch.equal(decomposed(*estimates, (0.0, 0.0)), estimates.everything)
    plain = with_options(prior, reference_gain=1.0).denoise_separately(NoisyViews(latents, 1.0, condition, cameras()))
    assert torch.equal(plain.views, estimates.views)
    assert (plain.reference - estimates.reference).abs().max() > 1e-3, "the release has the latents four times"


def test_the_noise_is_that_of_the_schedule(prior: Prior, generator: torch.Generator) -> None:
    """x0 = z - sigma eps, where the network sees z / sqrt(1 + sigma^2) and the timestep of sigma."""
    latents, condition = torch.randn(SHAPE, generator=generator), prior.condition(input_of(generator))
    for timestep in (0, 1, 333, 999):
        sigma = prior.levels[timestep].item()
        x = latents / (1 + sigma**2) ** 0.5
        branches = [denoising.EVERYTHING]
        (noise,) = denoising.estimate_epsilon(prior.network, prior.rig, x, timestep, condition, branches, 2)
        x0 = prior.denoise(NoisyViews(latents, sigma, condition, cameras()))
        torch.testing.assert_close(x0, latents - sigma * noise, rtol=1e-4, atol=1e-4 * max(1, sigma))


def test_the_input_image_is_drawn_always_alike(prior: Prior, generator: torch.Generator) -> None:
    posed = input_of(generator, elevation_deg=-7.0)
    one, again = prior.condition(posed), prior.condition(posed)
    assert torch.equal(one.latent, again.latent) and torch.equal(one.embedding, again.embedding)
    assert one.elevation_deg == pytest.approx(-7.0, abs=1e-4) and one.embedding.shape == (1, 20)
    mode = prior.encode(posed.image[None], posed.mask[None])[0]
    assert one.latent.shape == mode.shape and not torch.equal(one.latent, mode)  # a sample, not the mode


@torch.no_grad()
def test_image_tower_is_the_official_one(file: Path, prior: Prior, generator: torch.Generator) -> None:
    """Compared with OpenAI's CLIP, written down from its layout."""
    posed, heads = input_of(generator), 3
    pixels = clip_pixels(posed.image, 28)
    s = {k.partition(".visual.")[2]: v for k, v in load_file(file).items() if ".visual." in k}

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"])

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

    patches = F.conv2d(pixels, s["conv1.weight"], stride=14).flatten(2).mT
    x = torch.cat([s["class_embedding"].expand(1, 1, -1), patches], dim=1) + s["positional_embedding"]
    x = norm("ln_pre", x)
    for index in range(2):
        block = f"transformer.resblocks.{index}"
        tokens = norm(f"{block}.ln_1", x)
        joined = F.linear(tokens, s[f"{block}.attn.in_proj_weight"], s[f"{block}.attn.in_proj_bias"])
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in joined.chunk(3, dim=-1))
        mixed = (torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(f"{block}.attn.out_proj", mixed)
        hidden = linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x))
        x = x + linear(f"{block}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
    expected = norm("ln_post", x[:, 0]) @ s["proj"]
    torch.testing.assert_close(prior.condition(posed).embedding, expected, rtol=1e-4, atol=1e-5)


def test_clip_pixels() -> None:
    """A ramp stays a ramp from corner to corner, normalised."""
    ramp = torch.linspace(0, 1, 96)[None, :, None].expand(96, 96, 3)
    row = clip_pixels(ramp, 32)[0, 0, 16]
    torch.testing.assert_close(row[8:24].diff(), torch.full((15,), 1 / 31 / 0.26862954), rtol=0.02, atol=0)  # bicubic


def turned(cameras: Cameras, turn_deg: float) -> Cameras:
    return orbit_cameras(
        cameras.azimuth_deg + turn_deg, cameras.elevation_deg, 2.7, cameras.fov_deg[0].item(), SIZE, SIZE
    )


@pytest.mark.parametrize("turn_deg", [0.0, 77.0])
def test_its_own_cameras_at_any_scale_and_azimuth(prior: Prior, turn_deg: float) -> None:
    posed = input_of(torch.Generator(), azimuth_deg=turn_deg)
    prior.check_cameras(posed.camera, turned(cameras(), turn_deg))
    prior.check_cameras(posed.camera, turned(cameras(), turn_deg).resized(64, 64))


@pytest.mark.parametrize("elevation_deg", [30.0, 0.0, -12.5])
def test_angles_are_relative_to_the_cameras_of_the_file(elevation_deg: float) -> None:
    rig = Rig.of(orbit_cameras(90 * torch.arange(4), torch.full((4,), elevation_deg), 1.5, 49.1343, SIZE, SIZE))
    assert rig.elevation_deg == elevation_deg
    angles = rig.view_embedding(15.0, rig.azimuth[0])
    wanted = torch.full((4,), math.radians(15.0) - math.radians(elevation_deg))
    torch.testing.assert_close(angles[:, 0], wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (official_cameras(5, SIZE), r"makes its 4 views together, not 5"),
        (turned(official_cameras(VIEWS, SIZE), 2.0), r"view 0 differs, at azimuth 2 and elevation 30 degrees"),
        (official_cameras(VIEWS, SIZE)[[0, 2, 1, 3]], r"view 1 differs, at azimuth 180"),
        (orbit_cameras(90 * torch.arange(4), torch.full((4,), 30.0), 2.7, 40, SIZE, SIZE), r"field of view of 40 deg"),
        (
            orbit_cameras(90 * torch.arange(4), torch.full((4,), 20.0), 2.7, 49.1343, SIZE, SIZE),
            r"elevation 20 degrees",
        ),
    ],
)
def test_other_cameras_are_refused(prior: Prior, wrong: Cameras, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prior.check_cameras(input_of(torch.Generator()).camera, wrong)


def test_missing_weights_say_where_they_are_published(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file or folder; .*github\.com/liuyuan-pal/SyncDreamer .*licence"):
        open_syncdreamer(tmp_path / "syncdreamer-pretrain.ckpt")


FIRST = "spatial_volume.target_encoder.init_conv.weight"
KEY = "model.diffusion_model.middle_conditions.depth_attn.to_k.weight"
FIRST_CONV = "model.diffusion_model.input_blocks.0.0.weight"
VAE_CONV = "first_stage_model.encoder.down.0.block.0.conv1.weight"
PATCHES = "clip_image_encoder.model.visual.conv1.weight"
PROJ = "clip_image_encoder.model.visual.proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(KEY), f"the weight '{re.escape(KEY)}' is missing"),
        (
            lambda s: s.pop(FIRST),
            f"not SyncDreamer's weights in their official layout: '{re.escape(FIRST)}' is missing",
        ),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected weight 'extra'"),
        (lambda s: s.update({KEY: torch.ones(32, 8, 1, 1, 1)}), re.escape(f"'{KEY}' has shape [32, 8, 1, 1, 1]")),
        (lambda s: s.update(Ks=torch.ones(5, 3, 3)), r"'Ks' has shape \[5, 3, 3\]; expected \[4, 3, 3\]"),
        (
            lambda s: s.update({k: s[k][:3].clone() for k in ("poses", "Ks", "azimuth")}),
            "is for 4 views, 'poses' has 3",
        ),
        (
            lambda s: [s.pop(key) for key in list(s) if key.startswith("first_stage_model.encoder.")],
            r"'first_stage_model\.encoder\.down\.0\.block\.0\.conv1\.weight' is missing",
        ),
        (
            lambda s: s.update({VAE_CONV: torch.ones(33, *s[VAE_CONV].shape[1:])}),
            "has 33 channels, not a multiple of 32",
        ),
        (lambda s: s.update({PATCHES: s[PATCHES][..., :0].clone()}), f"'{re.escape(PATCHES)}' is empty"),
        (lambda s: s.update({PROJ: s[PROJ][:, 1:].clone()}), r"'cc_projection\.weight' has \d+ channels; expected"),
        (lambda s: s.update({FIRST_CONV: s[FIRST_CONV][:, 1:].clone()}), "has 7 channels; expected 8"),
        (
            lambda s: s.update(alphas_cumprod=s["alphas_cumprod"].flip(0)),
            "expected decreasing values between 1 and 0",
        ),
    ],
)
def test_wrong_files_are_refused(file: Path, tmp_path: Path, change: Any, message: str) -> None:
    state = load_file(file)
    change(state)
    save_file(state, tmp_path / "wrong.safetensors", metadata=NUMBERS)
    with pytest.raises(InputError, match=message):
        open_syncdreamer(tmp_path / "wrong.safetensors")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"num_heads": "many"}, "metadata 'num_heads': expected a whole number above 0, got 'many'"),
        ({"num_heads": "5"}, r"in_layers\.2\.weight' has 32 channels, not a multiple of 5"),
        ({"frustum_volume_depth": "12"}, "metadata 'frustum_volume_depth': expected a multiple of 8, got 12"),
    ],
)
def test_sizes_that_no_shape_reveals(file: Path, tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    save_file(load_file(file), tmp_path / "wrong.safetensors", metadata=NUMBERS | metadata)
    with pytest.raises(InputError, match=message):
        open_syncdreamer(tmp_path / "wrong.safetensors")


SIZES = {
    "three views, other widths": {"views": 3, "channels": (32, 64, 64, 64), "volume": (16, 8, 24, 16)},
    "larger images, attention everywhere": {"image_size": 64, "attends": (True, True, True, True), "heads": 2},
}


@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
def test_other_sizes(options: dict[str, Any], tmp_path: Path, generator: torch.Generator) -> None:
    """Sizes are determined by the file alone."""
    state = tiny_state(seed=SEED, **options)
    save_file(state, tmp_path / "other.safetensors", NUMBERS | {"num_heads": str(options.get("heads", 4))})
    prior = open_syncdreamer(tmp_path / "other.safetensors")
    views, size = options.get("views", 4), options.get("image_size", 32)
    assert (prior.frames, prior.resolution) == (views, size)
    latents = torch.randn(views, *prior.latent_shape, generator=generator)
    condition = denoising.Condition(torch.randn(1, 20, generator=generator), latents[0], 10.0)
    estimates = prior.denoise_separately(NoisyViews(latents, 1.0, condition, official_cameras(views, size)))
    assert all(e.shape == latents.shape and torch.isfinite(e).all() for e in estimates)
    assert (estimates.everything - estimates.views).abs().max() > 1e-3


def test_half_precision_is_close(file: Path, prior: Prior, generator: torch.Generator) -> None:
    half = open_syncdreamer(file, precision="bfloat16")
    latents, posed = torch.randn(SHAPE, generator=generator), input_of(generator)
    assert half.network.dtype == torch.bfloat16 and half.vae.dtype == torch.float32
    estimates = [p.denoise(NoisyViews(latents, 1.0, p.condition(posed), cameras())) for p in (prior, half)]
    assert estimates[1].dtype == torch.float32
    # 8 bits of mantissa through some 60 layers
    assert (estimates[0] - estimates[1]).abs().mean() < 0.05 * estimates[0].abs().mean()

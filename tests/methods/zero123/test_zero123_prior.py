"""Zero-1-to-3's prior and views compared with networks of diffusers and transformers, combined by hand."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import WIDTH, tiny_unet, write_prediction_type
from helpers.tiny_prior import write_ball
from helpers.tiny_zero123 import SIZE, write_tiny_zero123
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from liftstudio.core import registry
from liftstudio.core.config import ComponentSpec, parse
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.methods.zero123.conditioning import relative_poses
from liftstudio.methods.zero123.views import denoise_alone
from liftstudio.priors.base import NoisyViews, PosedImage
from liftstudio.priors.opening import open_prior, resolve

SEED = fresh_seed(__name__)
CPU = torch.device("cpu")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 through the same networks in batches of other sizes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_zero123(tmp_path_factory.mktemp("zero123") / "tiny", SEED)


@pytest.fixture
def folder(written: Path, here: Path) -> Path:
    """A copy of the folder, to be damaged, and an image."""
    write_ball(here / "ball.png")
    return Path(shutil.copytree(written, here / "tiny"))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def cameras(*angles_deg: tuple[float, float], distance: float = 3.6) -> Cameras:
    azimuths_deg, elevations_deg = torch.tensor(angles_deg).unbind(-1)
    return orbit_cameras(azimuths_deg, elevations_deg, distance, 33.8, SIZE, SIZE)


def posed() -> PosedImage:
    draw = generator()
    mask = torch.rand(SIZE, SIZE, 1, generator=draw)
    return PosedImage(torch.rand(SIZE, SIZE, 3, generator=draw) * mask + 1 - mask, mask, cameras((20.0, 10.0)))


def opened(folder: Path | str, kind: str = "zero123", **options: Any) -> Any:
    return open_prior(
        ComponentSpec("prior", kind, registry.find("zero123", "prior").Config(str(folder), resolution=SIZE, **options)),
        CPU,
    )


class ByHand:
    """The networks of a folder as opened by their libraries."""

    def __init__(self, folder: Path, image: Tensor) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPVisionModelWithProjection

        self.unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet")
        self.vae: Any = AutoencoderKL.from_pretrained(folder / "vae")
        tower: Any = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
        self.projection = nn.Linear(WIDTH + 4, WIDTH)
        state = load_file(folder / "cc_projection" / "diffusion_pytorch_model.safetensors")
        self.projection.load_state_dict({key.removeprefix("projection."): value for key, value in state.items()})
        pixels = image.permute(2, 0, 1)[None]
        small = F.interpolate(pixels, (28, 28), mode="bicubic", align_corners=True)
        normal = (small - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
        self.embedding = tower(pixel_values=normal).image_embeds
        self.latent = self.vae.encode(2 * pixels - 1).latent_dist.mode()

    @torch.no_grad()
    def epsilon(self, noisy: Tensor, timestep: int, pose: Tensor, scale: float) -> Tensor:
        """Return the guided noise of one view of unit variance."""
        token = self.projection(torch.cat([self.embedding, pose[None]], dim=-1))[:, None]
        seen = self.unet(torch.cat([noisy, self.latent], dim=1), timestep, token).sample
        blind = torch.cat([noisy, torch.zeros_like(self.latent)], dim=1)
        unseen = self.unet(blind, timestep, torch.zeros_like(token)).sample
        return unseen + scale * (seen - unseen)


def pose_by_hand(fall_deg: float, turn_deg: float, away: float = 0.0) -> Tensor:
    turn = math.radians(turn_deg)
    return torch.tensor([math.radians(fall_deg), math.sin(turn), math.cos(turn), away])


def test_relative_poses() -> None:
    """Polar angles from the zenith, azimuths counter-clockwise, distances for objects 1 long, not 1.8."""
    found = relative_poses(cameras((20.0, 10.0)), cameras((20.0, 10.0), (110.0, -20.0), (350.0, 60.0)))
    wanted = torch.stack([pose_by_hand(0, 0), pose_by_hand(30, 90), pose_by_hand(-50, -30)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-4)  # angles from float32 matrices
    far = relative_poses(cameras((0.0, 0.0)), cameras((180.0, 0.0), distance=4.5))
    torch.testing.assert_close(far, pose_by_hand(0, 180, 0.5)[None], rtol=0, atol=2e-4)


def test_relative_poses_of_stable_zero123() -> None:
    """The last number is the angle of the input image's camera from the zenith, whatever the distance."""
    found = relative_poses(cameras((20.0, 10.0)), cameras((110.0, -20.0), distance=4.5), "stable-zero123")
    torch.testing.assert_close(found, pose_by_hand(30, 90, math.radians(80))[None], rtol=0, atol=2e-4)


def test_the_option_selects_the_cameras_convention(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    usual, stable = opened(folder), opened(folder, cameras="stable-zero123")
    condition, views = usual.condition(posed()), cameras((110.0, -20.0))
    assert not torch.allclose(usual._tokens(condition, views), stable._tokens(condition, views))
    opened(folder.rename(folder.with_name("stable-zero123")))
    assert "needs prior.type=zero123 prior.cameras=stable-zero123" in caplog.text


@pytest.mark.parametrize("scale", [None, 1.0, 0.0, 3.0])
def test_estimates_are_those_of_the_networks(folder: Path, scale: float | None) -> None:
    prior, shown = opened(folder), posed()
    views, sigma = cameras((110.0, -20.0), (350.0, 60.0)), prior.levels[400].item()
    latents = torch.randn(2, *prior.latent_shape, generator=generator()) * (1 + sigma**2) ** 0.5
    scales = None if scale is None else torch.full((2,), scale)
    found = prior.denoise(NoisyViews(latents, sigma, prior.condition(shown), views, scales))
    by_hand = ByHand(folder, shown.image)
    poses = (pose_by_hand(30, 90), pose_by_hand(-50, -30))
    noisy = latents / (1 + sigma**2) ** 0.5
    epsilon = [by_hand.epsilon(noisy[[i]], 400, poses[i], 1.0 if scale is None else scale) for i in range(2)]
    torch.testing.assert_close(found, latents - sigma * torch.cat(epsilon), rtol=1e-3, atol=1e-3, msg=f"seed {SEED}")
    pictures = torch.rand(2, SIZE, SIZE, 3, generator=generator())
    wanted = 0.18215 * by_hand.vae.encode(2 * pictures.permute(0, 3, 1, 2) - 1).latent_dist.mode()
    torch.testing.assert_close(prior.encode(pictures, torch.ones(2, SIZE, SIZE, 1)), wanted, **CLOSE)


def source(**options: Any) -> Any:
    prior = {"type": "zero123", "weights": "tiny", "resolution": SIZE}
    data = {"image": "ball.png", "prior": prior, "steps": 5, "resolution": SIZE, "elevation_deg": 10, **options}
    cls = registry.find("zero123-views", "views")
    return cls(parse(data, cls.Config, "views"), device=CPU)


def test_views_are_those_of_diffusers_sampler(folder: Path) -> None:
    """Each view is sampled independently, by DDIM with guidance, from the same noise."""
    from diffusers import DDIMScheduler

    views = source(azimuths_deg=[90.0, 200.0], elevations_deg=[-20.0, 60.0], guidance_scale=2.0, seed=7)
    prior, shown = opened(folder), posed()
    sampled: list[Tensor] = []
    angles = torch.tensor([[110.0, 220.0], [-20.0, 60.0]])
    where = orbit_cameras(angles[0], angles[1], 3.6, 33.8, SIZE, SIZE)
    draw = torch.Generator().manual_seed(7)
    found = views.sample(prior, shown, where, prior.sigmas(5), draw, lambda _, latents: sampled.append(latents))
    noise = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(7))
    by_hand, poses = ByHand(folder, shown.image), (pose_by_hand(30, 90), pose_by_hand(-50, 200))
    ddim = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    for index, pose in enumerate(poses):
        ddim.set_timesteps(5)
        state = noise[[index]]
        for timestep in ddim.timesteps.tolist():
            state = ddim.step(by_hand.epsilon(state, timestep, pose, 2.0), timestep, state).prev_sample
        torch.testing.assert_close(found[[index]], state, rtol=2e-3, atol=2e-3, msg=f"seed {SEED}")
    assert len(sampled) == 5


def test_the_picture_is_the_last_view(folder: Path) -> None:
    views: ReferenceViews = source(held_out=True).load()
    assert views.input_view == 3 and views.held_out.tolist() == [True] * 3 + [False]
    torch.testing.assert_close(views.cameras.azimuth_deg % 360, torch.tensor([90.0, 180, 270, 0]), rtol=0, atol=1e-3)
    torch.testing.assert_close(views.cameras.elevation_deg, torch.full((4,), 10.0), rtol=0, atol=1e-3)
    free: ReferenceViews = source(azimuths_deg=[30.0, 0.0], elevations_deg=[40.0, 10.0]).load()
    assert len(free) == 2 and free.input_view == 1 and not free.held_out.any()  # the second is the input image


def test_a_view_knows_nothing_of_the_others(folder: Path) -> None:
    """Even with a multi-view prior: it denoises one view at a time."""
    toys = open_prior(ComponentSpec("prior", "auto", registry.find("auto", "prior").Config("asset://priors/toys")), CPU)
    shown = PosedImage(torch.rand(64, 64, 3, generator=generator()), torch.ones(64, 64, 1), cameras((0.0, 10.0)))
    latents = torch.randn(2, *toys.latent_shape, generator=generator())
    both = cameras((90.0, 10.0), (180.0, 10.0))
    condition, ones = toys.condition(shown), torch.ones(2)
    together = denoise_alone(toys, NoisyViews(latents, 1.0, condition, both, ones))
    one = denoise_alone(toys, NoisyViews(latents[1:], 1.0, condition, both[1:], ones[1:]))
    assert torch.equal(together[1:], one), f"seed {SEED}"
    joint = toys.denoise(NoisyViews(latents, 1.0, condition, both, ones))
    assert (joint[1:] - one).abs().max() > 1e-3, f"seed {SEED}"


def test_folders_of_other_ages(folder: Path, tmp_path: Path) -> None:
    """Names of the other conversion, and weights written by older packages, are recognised by content."""
    shown, views = posed(), cameras((110.0, -20.0))
    latents = torch.randn(1, 4, 8, 8, generator=generator())
    wanted = opened(folder).denoise(NoisyViews(latents, 1.0, opened(folder).condition(shown), views))
    path = folder / "cc_projection" / "diffusion_pytorch_model.safetensors"
    state = {key.replace("projection.", "proj."): value for key, value in load_file(path).items()}
    (folder / "cc_projection").rename(folder / "clip_camera_projection")
    path = folder / "clip_camera_projection" / path.name
    save_file(state, path)
    old = {"image_encoder": "pytorch_model.bin"}
    for name in ("unet", "vae", "image_encoder", "clip_camera_projection"):
        (file,) = (folder / name).glob("*.safetensors")
        torch.save(load_file(file), folder / name / old.get(name, "diffusion_pytorch_model.bin"))
        file.unlink()
    found = Path(shutil.copytree(folder, tmp_path / "old"))
    config = registry.find("auto", "prior").Config(str(found))
    assert resolve(ComponentSpec("prior", "auto", config)).block.type == "zero123"
    prior = opened(found)
    assert torch.equal(prior.denoise(NoisyViews(latents, 1.0, prior.condition(shown), views)), wanted)


def no_projection(folder: Path) -> None:
    shutil.rmtree(folder / "cc_projection")


def narrow_projection(folder: Path) -> None:
    save_file(
        {"projection.weight": torch.zeros(WIDTH, WIDTH), "projection.bias": torch.zeros(WIDTH)},
        folder / "cc_projection" / "diffusion_pytorch_model.safetensors",
    )


def no_picture(folder: Path) -> None:
    shutil.rmtree(folder / "unet")
    tiny_unet(generator(), in_channels=4, out_channels=4).save_pretrained(folder / "unet")


def no_tower(folder: Path) -> None:
    (folder / "image_encoder" / "config.json").unlink()


def damaged(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")


def lacking(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if key != "conv_in.bias"}, path)


def too_much(folder: Path) -> None:
    path = folder / "image_encoder" / "model.safetensors"
    save_file({**load_file(path), "text_model.x": torch.zeros(1)}, path)


def other_prediction(folder: Path) -> None:
    write_prediction_type(folder, "v_prediction")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (shutil.rmtree, "tiny: no such folder; Zero-1-to-3 in diffusers' format"),
    "no projection": (no_projection, "tiny: no camera projection, neither cc_projection/ nor clip_camera"),
    "narrow": (narrow_projection, "image_encoder: width of its embedding: expected 12, got 16"),
    "no picture": (no_picture, "unet: 4 channels in and 4 out; expected twice as many in as out"),
    "no tower": (no_tower, r"image_encoder/config.json: no such file or folder; Zero-1-to-3 in diffusers' format"),
    "damaged": (damaged, "diffusion_pytorch_model.safetensors: not a readable weight file"),
    "lacking": (lacking, r"the weight 'conv_in\.bias' is missing"),
    "too much": (too_much, r"unexpected weight 'text_model\.x'"),
    "prediction": (
        other_prediction,
        "prediction_type: expected epsilon, got v_prediction; Zero-1-to-3 in diffusers' format",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_spoiled_folders(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=message) as error:
        opened(folder)
    assert "\n" not in str(error.value)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"azimuths_deg": []}, r"views\.azimuths_deg: expected at least 1"),
    (
        {"azimuths_deg": [0.0]},
        r"views\.azimuths_deg: the only view is the input image's own; expected one from another side",
    ),
    (
        {"azimuths_deg": [-360.0], "elevations_deg": [10.0]},
        r"views\.azimuths_deg: the only view is the input image's own",
    ),
    ({"elevations_deg": [1.0]}, r"views\.elevations_deg: expected as many as azimuths_deg"),
    ({"azimuths_deg": [1.0], "elevations_deg": [95.0]}, r"views\.elevations_deg\[0\]: expected -89 to 89, got 95"),
    (
        {"prior": {"type": "zero123", "weights": "nowhere"}},
        "nowhere: no such file or folder; Zero-1-to-3",
    ),
    (
        {"prior": {"type": "zero123", "weights": "tiny", "resolution": 30}},
        "resolution: expected a multiple of 4 pixels",
    ),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_bad_input(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        source(**options).load()

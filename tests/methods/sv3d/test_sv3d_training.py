"""Training SV3D in miniature: its batches, what it learns first, and that the prior opens its file."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_sv3d import randomize
from helpers.tiny_training import close, config_of, draw_samples, read_log, task_of, trained_parts

from liftstudio.cli import command_line
from liftstudio.cli.train_prior import main
from liftstudio.core import assets
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find
from liftstudio.methods.sv3d import training
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.opening import open_prior
from liftstudio.priors.parameterization import x0_from_v
from liftstudio.training.config import TrainingConfig
from liftstudio.training.data import Sample

SEED = fresh_seed(__name__, bits=24)
CONFIG = assets.packaged("configs") / "priors" / "sv3d-tiny.yaml"
FRAMES, SIZE = 4, 16
TINY = [
    f"data.resolution={SIZE}",
    f"data.rig.views=[{FRAMES},{FRAMES}]",
    "task.size={widths: [32, 64], head_width: 32, autoencoder_widths: [32, 32, 32], tower_width: 32, tower_layers: 1, "
    "tower_head_width: 16, embedding: 24}",
    "precision=float32",
    "batch_size=2",
    "task.autoencoder_steps=3",
    "steps=5",
    "workers=0",
    "log_every=1",
    "evaluated=1",
]


def tiny_config(*overrides: str) -> TrainingConfig:
    return config_of(CONFIG, [*TINY, *overrides])


def tiny_task(*overrides: str) -> Any:
    return task_of(tiny_config(*overrides), SEED)


def samples_of(count: int) -> list[Sample]:
    return draw_samples(tiny_config(), count, FRAMES, SEED)


def open_auto(path: Path) -> Prior:
    return open_prior(
        ComponentSpec("prior", "auto", find("auto", "prior").Config(weights=str(path))), torch.device("cpu")
    )


def test_frames_are_an_orbit_that_ends_at_the_prompt() -> None:
    samples = samples_of(2)
    batch = tiny_task().prepare(samples, torch.Generator().manual_seed(SEED))
    elevations = [sample.rig.views.elevation_deg for sample in samples]
    assert all(
        abs(e[-1] - s.rig.input_camera.elevation_deg[0]) < 1e-3 for e, s in zip(elevations, samples, strict=True)
    )
    azimuth = 2 * math.pi * torch.arange(1, FRAMES + 1) / FRAMES
    for image, vectors, sample, elevation in zip(batch["images"], batch["vectors"], samples, elevations, strict=True):
        torch.testing.assert_close(image[-1].permute(1, 2, 0), 2 * sample.input_image[..., :3] - 1)
        # 256 numbers of the noise on the image, 512 of the polar angle, 512 of the azimuth: cosines, then sines;
        # the first of each is of the angle itself. Tolerance: angles come from float32 matrices.
        polar = torch.deg2rad(90 - elevation)
        found = vectors[:, [256, 256 + 256, 768, 768 + 256]]
        wanted = torch.stack([polar.cos(), polar.sin(), azimuth.cos(), azimuth.sin()], dim=1)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_views_from_anywhere_become_an_orbit() -> None:
    (sample,) = samples_of(1)
    order = torch.cat([torch.randperm(FRAMES - 1), torch.tensor([FRAMES - 1])])
    mixed = replace(sample, images=sample.images[order], rig=replace(sample.rig, views=sample.rig.views[order]))
    sorted_, straight = (training.closed(each) for each in (mixed, sample))
    assert torch.equal(sorted_.images, straight.images)
    assert torch.equal(sorted_.rig.views.c2w, straight.rig.views.c2w)
    torch.testing.assert_close(
        straight.images, sample.images, rtol=0, atol=2e-2
    )  # the input view is rendered by itself


def test_noise_levels() -> None:
    """85 % normal in ln(sigma) with mean 0.7 and deviation 1.6, 15 % uniform from 2 to ln(700); stratified."""
    levels = tiny_task()._draw_sigmas(1000, torch.Generator().manual_seed(SEED)).log()
    normal, uniform = torch.distributions.Normal(0.7, 1.6), torch.distributions.Uniform(2, math.log(700))
    for point in (-1.0, 0.7, 2.5, 4.0, 6.0):
        value = torch.tensor(point)
        below = 0.85 * normal.cdf(value) + 0.15 * (uniform.cdf(value) if point > 2 else 0)
        assert (levels < value).float().mean() == pytest.approx(float(below), abs=3e-3)  # a stratum or two of 1000


def test_autoencoder_learns_first_and_alone() -> None:
    task = tiny_task("task.autoencoder_steps=25")
    batch = task.prepare(samples_of(2), torch.Generator().manual_seed(SEED))
    optimizer = torch.optim.AdamW(task.network.parameters(), lr=3e-3)
    totals = []
    for step in range(25):
        losses = task.losses(batch)
        totals.append(float(sum(loss.detach() for loss in losses.values())))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        if step == 0:
            assert trained_parts(task) == {"autoencoder"}
        optimizer.step()
    assert all(map(math.isfinite, totals)) and totals[-1] < 0.5 * totals[0]
    task.network.zero_grad()
    losses = task.losses(batch)
    assert list(losses) == ["velocity"] and losses["velocity"].isfinite()
    losses["velocity"].backward()
    assert trained_parts(task) == {"unet", "tower"}


def test_latents_are_of_unit_scale() -> None:
    """Uses the moments measured during training of the autoencoder, which is frozen here."""
    task = tiny_task()
    batches = [task.prepare(samples_of(2), torch.Generator().manual_seed(i)) for i in range(3)]
    with torch.no_grad():
        for batch in batches:
            task.losses(batch)
        latents = torch.cat([task.network.encode(batch["images"].flatten(0, 1)) for batch in batches])
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=2e-3, atol=0)


@torch.no_grad()
def test_the_file_is_the_network_as_a_prior(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(SEED)
    task = tiny_task()
    network = task.network
    randomize(network.unet, generator)
    mean, deviation = torch.randn(4, generator=generator), torch.rand(4, generator=generator) + 0.5
    network.moments.copy_(torch.stack([mean, mean**2 + deviation**2]))
    task.save(network, tmp_path / "weights.safetensors")
    prior = open_auto(tmp_path)
    assert prior.name == "SV3D (sv3d_p, weights.safetensors)"
    assert (prior.resolution, prior.frames, prior.latent_shape) == (SIZE, FRAMES, (4, SIZE // 4, SIZE // 4))

    (sample,) = samples_of(1)
    batch = task.prepare([sample], generator)
    latents = network.encode(batch["images"][0])
    close(prior.encode(sample.images[..., :3], sample.images[..., 3:]), latents)
    decoded = network.autoencoder.decode(mean[:, None, None] + deviation[:, None, None] * latents).sample
    close(prior.decode(latents)[0], (decoded.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1))

    posed = PosedImage(sample.input_image[..., :3], sample.input_image[..., 3:], sample.rig.input_camera)
    condition, sigma = prior.condition(posed), 3.0
    noisy = latents + sigma * batch["noise"][0]
    for has_image, told in ((True, condition), (False, condition.unconditional())):
        more = {"sigma": torch.tensor([sigma]), "has_image": torch.tensor([has_image])}
        velocity = task.velocity(noisy[None], {**batch, **more}, latents[None, -1] / 0.18215)[0]
        close(prior.denoise(NoisyViews(noisy, sigma, told, sample.rig.views)), x0_from_v(noisy, velocity, sigma))


def test_the_command_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "SHEET_SIGMAS", (3, *training.SHEET_SIGMAS[1:]))  # few steps
    assert main(["--config", str(CONFIG), *TINY, "name=first"]) == command_line.DONE
    first = read_log(Path("runs/priors/first/log.csv"))
    steps = [row for row in first if row["stage"] == "train"]
    assert [bool(row["coding"]) for row in steps] == [True] * 3 + [False] * 2
    assert all(float(row["velocity"]) > 0 for row in steps[3:])
    figures = {name: float(value) for name, value in first[-1].items() if name.startswith("psnr")}
    assert set(figures) == {"psnr_700", "psnr_5", "psnr_1", "psnr_sampled", "psnr_coded"}
    assert all(3 < value < 60 for value in figures.values())
    weights = "runs/priors/first/weights.safetensors"
    open_auto(Path(weights))
    task = tiny_task("task.autoencoder_steps=1000")
    task.load(weights)
    batch = task.prepare(samples_of(2), torch.Generator().manual_seed(SEED))
    assert list(task.losses(batch)) == ["velocity"]  # its autoencoder is finished
    sheets = sorted(path.name for path in Path("runs/priors/first/sheets").iterdir())
    assert sheets == ["0000005.png"]


WRONG = {
    "task.size.widths=[32, 48]": "task.size.widths[1]: expected a multiple of 32, got 48",
    "task.size.head_width=64": "task.size.widths: expected multiples of 64, got 32, 64",
    "task.size.tower_width=40": "task.size.tower_width: expected multiples of 16, got 40",
    "task.size.patch=5": f"data.resolution: expected a multiple of 5 for this task.size, got {SIZE}",
    "data.rig.views=[1,4]": "data.rig.views: expected 2 or more, an orbit that ends at the input view, got 1",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_options(override: str) -> None:
    with pytest.raises(InputError) as raised:
        tiny_task(override)
    assert str(raised.value) == WRONG[override]


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    task = tiny_task()
    task.save(task.network, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"its num_head_channels is 32, but task.size has 16"):
        tiny_task("task.size.head_width=16").load(str(tmp_path))
    with pytest.raises(InputError, match=r"the weight '.*' has shape .* of the network has"):
        tiny_task("task.size.embedding=32").load(str(tmp_path))

"""Views sampled from a prior: cameras, the input image among them, caching by content, early errors."""

import logging
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_prior import DISTANCE, FOV_DEG, RADIUS, SPREAD, TinyBall, ball, write_ball, write_weights
from torch import Tensor

from liftstudio.cli.package_prior import package
from liftstudio.core import assets, registry
from liftstudio.core.cache import cache_folder
from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.orbits import sine
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.priors.base import PosedImage
from liftstudio.views.input_image import load_input_image
from liftstudio.views.prior_views import INSIDE_CELLS


@pytest.fixture(autouse=True)
def folder(ball_folder: Path) -> Path:
    return ball_folder


def make(**options: Any) -> ReferenceViews:
    """Return the views from the ball's image, with other `options` as in a config file."""
    prior = {"type": "tiny-ball", "weights": "ball.safetensors", **options.pop("prior", {})}
    orbit = {"frames": 9, **options.pop("orbit", {})}
    data = {
        "image": "ball.png",
        "steps": 4,
        "resolution": 32,
        "elevation_deg": 10,
        **options,
        "prior": prior,
        "orbit": orbit,
    }
    source = registry.find("sv3d-views", "views")
    return source(parse(data, source.Config, "views"), device=torch.device("cpu")).load()


def same(a: ReferenceViews, b: ReferenceViews) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "masks"))


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union [V] of soft masks."""
    return torch.minimum(a, b).sum((1, 2, 3)) / torch.maximum(a, b).sum((1, 2, 3))


@pytest.mark.parametrize("kind", ["static", "sine", "dynamic"])
def test_the_views_are_those_of_their_cameras(kind: str) -> None:
    """A ball coloured by its normals differs in every view, which exposes a wrong sign, order or start."""
    views = make(orbit={"type": kind, "frames": random.randint(5, 12)}, elevation_deg=random.uniform(-30, 30))
    assert views.input_view == len(views) - 1 and not views.held_out.any()
    assert views.cameras.azimuth_deg[-1] % 360 < 1e-3
    generated = views.select(range(len(views) - 1))
    truth, masks = ball(generated.cameras)
    # Half of SPREAD is the samples' standard deviation in pixels; outlines have 32 pixels.
    assert (generated.over(1.0) - truth).square().mean().sqrt() < 2 * SPREAD
    assert overlap(generated.masks, masks).min() > 0.95


def test_the_orbit_is_the_one_asked_for() -> None:
    views = make(orbit={"amplitude_deg": 25}, elevation_deg=12, fov_deg=30, distance=4.0)
    wanted = orbit_cameras(*sine(9, 12, 25), 4.0, 30, 32, 32)
    torch.testing.assert_close(views.cameras.c2w, wanted.c2w)
    torch.testing.assert_close(views.cameras.fx, wanted.fx)


def test_the_prior_is_given_the_picture_and_its_camera() -> None:
    make(elevation_deg=20.0, frame_ratio=0.8)
    (posed,) = TinyBall.prompts
    assert isinstance(posed, PosedImage)
    image, mask = load_input_image(Path("ball.png"), frame_ratio=0.8).frame(32)
    assert torch.equal(posed.image, image) and torch.equal(posed.mask, mask)
    assert posed.camera.elevation_deg.item() == pytest.approx(20) and posed.camera.azimuth_deg.item() % 360 < 1e-4


def test_views_are_large_enough_for_the_picture_if_no_size_is_asked_for() -> None:
    assert make(resolution=0).images.shape[1:] == (256, 256, 3)


def test_the_picture_keeps_its_detail_at_a_higher_resolution() -> None:
    coarse, fine = make(), make(resolution=100)
    assert fine.images.shape == (9, 100, 100, 3) and fine.cameras.width == 100 and len(TinyBall.prompts) == 1
    torch.testing.assert_close(fine.cameras.fx, coarse.cameras.fx * (100 / 32))
    image, mask = load_input_image(Path("ball.png")).frame(100)
    torch.testing.assert_close(fine.over(1.0)[-1], image, atol=1e-4, rtol=0)
    torch.testing.assert_close(fine.masks[-1], mask)
    _, masks = ball(fine.cameras)
    assert overlap(fine.masks[:-1], masks[:-1]).min() > 0.93  # 3 pixels of the outline are one of the prior's
    assert fine.images.min() >= 0 and fine.images.max() <= 1


def test_masks_of_a_prior_that_knows_none() -> None:
    """By distance from white: the whole ball, dark or bright, and nothing else."""
    views = make(prior={"knows_masks": False})
    _, masks = ball(views.cameras)
    assert overlap(views.masks[:-1], masks[:-1]).min() > 0.93


def test_what_the_prior_says_is_inside_comes_with_the_views() -> None:
    assert make().inside is None
    first, again = (make(prior={"knows_inside": True}) for _ in range(2))
    assert first.inside is not None and again.inside is not None and torch.equal(first.inside, again.inside)
    assert first.training().inside is first.inside
    axis = (2 * torch.arange(INSIDE_CELLS) + 1) / INSIDE_CELLS - 1
    distance = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).norm(dim=-1)
    torch.testing.assert_close(first.inside, torch.tanh(10 * (RADIUS - distance)))


def test_noise_depends_on_the_seed_alone() -> None:
    seed = random.randrange(2**32)
    one, again, other = (make(seed=s, cache=False) for s in (seed, seed, seed + 1))
    assert same(one, again) and not same(one, other) and len(TinyBall.prompts) == 3
    assert not cache_folder().exists()


def test_a_second_run_comes_from_the_cache(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "liftstudio"):
        first = make()
        Path("elsewhere").mkdir()
        for name in ("ball.png", "ball.safetensors"):
            shutil.copy(name, Path("elsewhere") / name)
        again = make(image="elsewhere/ball.png", prior={"weights": "elsewhere/ball.safetensors", "chunk": 2})
    assert same(first, again) and len(TinyBall.prompts) == 1
    assert "from the cache" in caplog.text


CHANGES: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "steps": {"steps": 5},
    "guidance": {"guidance_scale": 2.0},
    "orbit": {"orbit": {"amplitude_deg": 29}},
    "frames": {"orbit": {"frames": 8}},
    "elevation": {"elevation_deg": 11},
    "distance": {"distance": 3.5},
    "frame ratio": {"frame_ratio": 0.85},
    "precision": {"prior": {"precision": "float32"}},
    "masks": {"prior": {"knows_masks": False}},
}


@pytest.mark.parametrize("change", [*CHANGES, "picture", "weights"])
def test_changed_options_sample_the_views_again(change: str) -> None:
    first = make()
    if change == "picture":
        write_ball(Path("ball.png"), elevation_deg=40)
    if change == "weights":
        before = Path("ball.safetensors").stat()
        write_weights(Path("ball.safetensors"), radius=0.5)
        assert Path("ball.safetensors").stat().st_size == before.st_size
    again = make(**CHANGES.get(change, {}))
    assert len(TinyBall.prompts) == 2
    if change == "weights":
        assert again.masks[:-1].sum() < 0.7 * first.masks[:-1].sum()


def test_a_damaged_entry_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    first = make()
    (entry,) = cache_folder().rglob("*.ckpt")
    whole = entry.read_bytes()
    position = random.randrange(len(whole) // 2, len(whole))
    for damage in (
        whole[: len(whole) // 2],
        b"",
        whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :],
    ):
        entry.write_bytes(damage)
        assert same(first, make()) and "computing it again" in caplog.text
        assert entry.read_bytes() == whole
    assert len(TinyBall.prompts) == 4


def test_a_cache_that_cannot_be_written_is_only_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFTSTUDIO_CACHE", "ball.png/below")
    assert len(make()) == 9 and "cannot be written to the cache" in caplog.text


def test_an_empty_view_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    views = make(prior={"empty_view": 3})
    assert len(views) == 8 and "003.png" not in views.names and views.names[views.input_view or 0] == "008.png"
    assert "left out because they are empty: 003.png" in caplog.text
    with pytest.raises(InputError, match="all generated views are empty"):
        make(orbit={"frames": 2}, prior={"empty_view": 0})


def test_the_log_says_openly_that_the_bundled_prior_stands_in(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, "liftstudio"):
        make()
        assert "ball.safetensors" in caplog.text and "stands in" not in caplog.text
        (folder / "assets").mkdir()
        package(Path("ball.safetensors"), folder / "assets")
        monkeypatch.setattr(assets, "PACKAGE", folder)
        make(prior={"weights": "asset://weights.safetensors"})
        asked = len(TinyBall.prompts)
        caplog.clear()
        make(prior={"weights": "asset://weights.safetensors"})  # from the cache
    assert "stands in for the official network" in caplog.text and len(TinyBall.prompts) == asked


def test_a_listed_orbit() -> None:
    orbit = {"type": "list", "azimuths_deg": [30, 200, -20], "elevations_deg": [10, -30, 60]}
    views = make(orbit=orbit, elevation_deg=5)
    torch.testing.assert_close(
        views.cameras.azimuth_deg % 360, torch.tensor([30.0, 200, 340, 0]), atol=1e-3, rtol=0, check_dtype=False
    )
    torch.testing.assert_close(views.cameras.elevation_deg, torch.tensor([10.0, -30, 60, 5]), atol=1e-3, rtol=0)
    assert views.input_view == 3


def test_listed_orbit_may_be_a_file(tmp_path: Path) -> None:
    listed = {"type": "list", "azimuths_deg": [30, 200], "elevations_deg": [10, -30]}
    file = tmp_path / "orbit.txt"
    file.write_text("# azimuth elevation\n30 10\n200 -30\n")
    views = make(orbit={"type": "list", "file": str(file)}, elevation_deg=5)
    assert same(views, make(orbit=listed, elevation_deg=5))
    file.write_text("30 10\n200 -20\n")
    assert not same(views, make(orbit={"type": "list", "file": str(file)}, elevation_deg=5)), "from the cache"


@pytest.mark.parametrize("text", ["", "1 2 3\n", "1\n", "1 nan\n", "inf 1\n", "1 90\n", "1 2\n3\n", "a b\n"])
def test_bad_orbit_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "orbit.txt").write_text(text)
    with pytest.raises(InputError, match=r"views\.orbit\.file: .*orbit\.txt: expected lines of"):
        make(orbit={"type": "list", "file": str(tmp_path / "orbit.txt")})


def test_weights_are_recognised() -> None:
    assert same(make(), make(prior={"type": "auto"}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elevation_deg": 90}, r"views\.elevation_deg: expected -89 to 89, got 90"),
        ({"elevation_deg": 70}, r"views\.elevation_deg and amplitude_deg: elevations must stay within \+-89"),
        ({"orbit": {"frames": 1}}, r"views\.orbit\.frames: expected 2 or more, got 1"),
        ({"orbit": {"type": "spiral"}}, r"views\.orbit\.type: expected one of static, sine, dynamic"),
        ({"orbit": {"type": "list"}}, r"views\.orbit\.azimuths_deg, elevations_deg: expected for type: list"),
        ({"orbit": {"azimuths_deg": [90]}}, r"azimuths_deg, elevations_deg: expected for type: list, and only there"),
        (
            {"orbit": {"type": "list", "azimuths_deg": [90, 180], "elevations_deg": [0]}},
            r"as many of each, got 2 and 1",
        ),
        (
            {"orbit": {"type": "list", "azimuths_deg": [float("nan")], "elevations_deg": [0]}},
            r"views\.orbit\.azimuths_deg\[0\]: expected a finite number",
        ),
        (
            {"orbit": {"type": "list", "azimuths_deg": [9], "elevations_deg": [90]}},
            r"elevations_deg\[0\]: expected -89",
        ),
        ({"orbit": {"type": "list", "file": "no.txt"}}, r"orbit\.file: no\.txt: expected lines of two numbers"),
        ({"orbit": {"type": "dynamic"}, "elevation_deg": 89}, r"elevation_deg: no dynamic orbit from 89 degrees"),
        ({"resolution": 8}, r"views\.resolution: expected 16 to 4096, or 0, got 8"),
        ({"guidance_scale": 0.5}, r"views\.guidance_scale: expected 1 or more, or 0, got 0\.5"),
        ({"prior": {"weights": "no.safetensors"}}, r"no\.safetensors: no such file.*example\.org/ball, for tests only"),
        ({"prior": {"type": "auto", "weights": "no.ckpt"}}, r"no\.ckpt: no such file.*example\.org/ball"),
        ({"prior": {"weights": "ball.png"}}, r"ball\.png: not a readable weight file"),
        ({"image": "no.png"}, r"no\.png: no such image"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**options)
    assert not TinyBall.prompts and not cache_folder().exists()


def test_the_prior_may_refuse_the_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    source = registry.find("sv3d-views", "views")
    monkeypatch.setattr(source, "angles", lambda self: (torch.tensor([90.0, 180.0]), torch.zeros(2)))
    with pytest.raises(InputError, match="the last view must be the picture's own"):
        make()
    assert not TinyBall.prompts


def test_a_source_without_the_pictures_own_view(monkeypatch: pytest.MonkeyPatch) -> None:
    source = registry.find("sv3d-views", "views")
    monkeypatch.setattr(TinyBall, "check_cameras", lambda *_: None)
    monkeypatch.setattr(source, "angles", lambda self: (torch.tensor([90.0, 0.0, 360.0]), torch.full((3,), 30.0)))
    assert make().input_view is None
    assert make(elevation_deg=30.0).input_view == 2


def test_the_field_of_view_and_distance_are_those_of_the_prior_by_default() -> None:
    views = make()
    assert views.cameras.distance.mean().item() == pytest.approx(DISTANCE)
    assert views.cameras.fov_deg.mean().item() == pytest.approx(FOV_DEG, abs=1e-3)

"""SyncDreamer's views source: its cameras, instances and guidance, and the choice among instances."""

import logging
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.standins import rembg_that_keeps
from helpers.tiny_prior import SPREAD, TinyBall, ball
from helpers.tiny_syncdreamer import NUMBERS, official_cameras, tiny_state, write_tiny_syncdreamer
from safetensors.torch import save_file
from torch import Tensor

from liftstudio.core import registry
from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras, concatenate, orbit_cameras
from liftstudio.data.images import load_image
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.methods.syncdreamer import ranking
from liftstudio.methods.syncdreamer.preparation import framed
from liftstudio.methods.syncdreamer.ranking import rank
from liftstudio.priors.base import Estimates, NoisyViews, Prior
from liftstudio.views.saving import save_views

SEED = fresh_seed(__name__)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(ball_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(TinyBall, "check_cameras", lambda *_: None)  # it expects orbits that end at the input image
    monkeypatch.setattr(ranking, "SAMPLES", 8)  # few points along a ray: to most tests any instance is good enough
    return ball_folder


@pytest.fixture
def coarse_ranking(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer points along a ray than usual, but enough to tell sizes of balls apart."""
    monkeypatch.setattr(ranking, "SAMPLES", 24)


def make(**options: Any) -> ReferenceViews:
    """Return the views from the ball's image, with other `options` as in a config file."""
    prior = {"type": "tiny-ball", "weights": "ball.safetensors", **options.pop("prior", {})}
    data = {"image": "ball.png", "steps": 6, "resolution": 32, "elevation_deg": 10, "instances": 2, **options}
    source = registry.find("syncdreamer-views", "views")
    return source(parse({**data, "prior": prior}, source.Config, "views"), device=CPU).load()


def test_sixteen_views_and_the_picture() -> None:
    views = make()
    assert len(views) == 17 and views.input_view == 16 and not views.held_out.any()
    wanted = official_cameras(16, 32, distance=2.7)
    torch.testing.assert_close(views.cameras.c2w[:16], wanted.c2w, rtol=0, atol=1e-5)
    torch.testing.assert_close(views.cameras.fx[:16], wanted.fx)
    assert views.cameras.azimuth_deg[16] % 360 < 1e-3 and views.cameras.elevation_deg[16].item() == pytest.approx(10)
    truth, masks = ball(views.cameras[:16])
    generated = views.select(range(16))
    assert (generated.over(1.0) - truth).square().mean().sqrt() < 2 * SPREAD  # half of it is the samples' spread
    overlap = torch.minimum(generated.masks, masks).sum((1, 2, 3)) / torch.maximum(generated.masks, masks).sum(
        (1, 2, 3)
    )
    assert overlap.min() > 0.95  # outlines of 32 pixels


def test_a_picture_from_30_degrees_takes_the_place_of_the_first_view() -> None:
    views = make(elevation_deg=30)
    assert len(views) == 16 and views.input_view == 0
    torch.testing.assert_close(views.cameras.c2w, official_cameras(16, 32, distance=2.7).c2w, rtol=0, atol=1e-5)


def test_views_of_another_elevation() -> None:
    views = make(target_elevation_deg=-5, count=8)
    assert len(views) == 9 and views.input_view == 8
    torch.testing.assert_close(views.cameras.elevation_deg[:8], torch.full((8,), -5.0), rtol=0, atol=1e-3)
    truth, _ = ball(views.cameras[:8])
    assert (views.over(1.0)[:8] - truth).square().mean().sqrt() < 2 * SPREAD


def test_the_prior_is_shown_the_picture_in_the_official_frame() -> None:
    make(frame_ratio=0.75)
    (posed,) = TinyBall.prompts
    rgb, alpha = load_image(Path("ball.png"))
    assert alpha is not None
    image, mask = framed(torch.cat([rgb, alpha], dim=-1), 32, 24)
    assert torch.equal(posed.image, image) and torch.equal(posed.mask, mask)
    columns = (posed.mask[..., 0] > 0.5).any(0).sum()
    assert 22 <= columns <= 24 and posed.camera.elevation_deg.item() == pytest.approx(10)
    make(recenter=False)
    whole = TinyBall.prompts[-1]
    assert (whole.mask[..., 0] > 0.5).any(0).sum() > 10 and not torch.equal(whole.image, image)


def test_the_prior_sees_the_object_as_large_as_its_own_view_has_it(folder: Path) -> None:
    """One faint pixel far from a disc does not count."""
    from liftstudio.data.images import save_image

    at = torch.arange(512) + 0.5
    alpha = ((at[:, None] - 256) ** 2 + (at - 256) ** 2 < 60**2).float()[..., None]
    alpha[10, 12] = 1 / 255
    save_image(folder / "disc.png", torch.cat([torch.full((512, 512, 3), 0.2), alpha], dim=-1))
    views = make(image="disc.png", resolution=32, frame_ratio=0.75)
    wide = [int((mask > 0.5).any(0).sum()) for mask in (TinyBall.prompts[-1].mask, views.masks[16])]
    assert abs(wide[0] - 24) <= 1 and abs(wide[0] - wide[1]) <= 1, wide


def test_the_elevation_in_use_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "liftstudio"):
        make(elevation_deg=12.5)
    assert "is from an elevation of 12.5 degrees (views.elevation_deg)" in caplog.text


def test_default_steps_are_those_of_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults: the prior's steps for ancestral sampling if it has them, otherwise its general ones."""
    counts: list[int] = []
    sigmas = TinyBall.sigmas
    monkeypatch.setattr(TinyBall, "sigmas", lambda prior, steps: (counts.append(steps), sigmas(prior, steps))[1])
    monkeypatch.setattr(TinyBall, "steps", 5)
    make(count=4, steps=0, cache=False)
    monkeypatch.setattr(TinyBall, "ancestral_steps", 3)
    make(count=4, steps=0, cache=False)
    make(count=4, steps=4, cache=False)
    assert counts == [5, 3, 4]


def test_instances() -> None:
    """Each depends only on the seed and its index; choosing another needs no new sampling."""
    few = {"count": 4}
    two, three = ([make(**few, instances=n, instance=i) for i in range(n)] for n in (2, 3))
    assert len(TinyBall.prompts) == 2
    for a, b in zip(two, three, strict=False):
        assert torch.equal(a.images, b.images)
    assert not torch.equal(three[0].images, three[1].images) and not torch.equal(three[1].images, three[2].images)
    best = make(**few, instances=3)
    assert any(torch.equal(best.images, one.images) for one in three) and len(TinyBall.prompts) == 2
    alone = make(**few, instances=1)
    assert torch.equal(alone.images, two[0].images) and alone.sheet is None
    assert not torch.equal(make(**few, seed=1).images, make(**few, seed=2).images)


def test_the_sheet_of_instances_is_saved(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "liftstudio"):
        views = make(instances=3, instance=1)
    assert views.sheet is not None and "instance 1 of 3 is used" in caplog.text
    assert views.sheet.shape[0] > 3 * 96 and views.sheet.shape[1] == 17 * 96
    save_views(Path("saved"), views)
    assert Path("saved/instances.png").is_file()
    source = registry.find("posed-images", "views")
    data = {"path": "saved", "normalize": "as-given"}
    again = source(parse(data, source.Config), device=CPU).load()
    torch.testing.assert_close(again.cameras.c2w, views.cameras.c2w)
    assert (again.over(1.0) - views.over(1.0)).abs().max() < 3 / 255
    assert views.select([3, 16]).sheet is views.sheet
    save_views(Path("alone"), make(instances=1))
    assert not Path("alone/instances.png").exists()


def posed_ball(
    elevation_deg: float = 10.0, radii: dict[int, float] | None = None, radius: float = 0.7
) -> ReferenceViews:
    """Return 16 views of a ball and the input image, some of them (by index) of a ball of another radius."""
    angles = torch.zeros(1), torch.tensor([elevation_deg])
    picture = orbit_cameras(*angles, 2.7, official_cameras(16, 64).fov_deg[0].item(), 64, 64)
    cameras = concatenate([official_cameras(16, 64, distance=2.7), picture])
    images, masks = ball(cameras, radius)
    for view, other in (radii or {}).items():
        images[view], masks[view] = (frames[0] for frames in ball(cameras[[view]], other))
    return ReferenceViews(images, masks, cameras, ("",) * 17, torch.zeros(17, dtype=torch.bool), input_views=(16,))


def score(views: ReferenceViews) -> float:
    return rank(views).score


def emptied(views: ReferenceViews, numbers: Sequence[int]) -> ReferenceViews:
    masks = views.masks.clone()
    masks[numbers] = 0
    return replace(views, masks=masks)


@pytest.mark.usefixtures("coarse_ranking")
def test_agreement_of_silhouettes() -> None:
    good = score(posed_ball())
    assert good > 0.97  # outlines of 48 pixels
    larger, smaller, both = (score(posed_ball(radii=radii)) for radii in ({3: 0.8}, {3: 0.6}, {3: 0.8, 9: 0.6}))
    assert larger < good - 0.005, "one silhouette that the others do not fill"
    assert smaller < larger, "one that cuts all others"
    assert both < smaller
    wrong_picture = score(posed_ball(radii={16: 0.85}))
    assert wrong_picture < score(posed_ball(radii={3: 0.85})), "the picture counts as much as all others together"


@pytest.mark.usefixtures("coarse_ranking")
def test_empty_views_count_by_their_share() -> None:
    """They are excluded from training, and so from the hull."""
    good = posed_ball()
    one, all_but_one = (rank(emptied(good, numbers)) for numbers in ([5], range(1, 16)))
    assert one.score == pytest.approx(15 / 16 * score(good), abs=0.01)
    assert all_but_one.score == pytest.approx(score(posed_ball().select([0, 16])) / 16)
    assert score(posed_ball(radii={9: 0.3})) < one.score, "one empty view is better than one that cuts all others"
    disjoint = posed_ball()
    disjoint.masks[:16, :32] = 0  # below the picture's
    disjoint.masks[16, 24:] = 0
    none = rank(emptied(good, range(16)))
    assert none.score == 0 and none < rank(disjoint) and none < all_but_one < one < rank(good)


@pytest.mark.usefixtures("coarse_ranking")
def test_the_best_instance_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three instances, only the second's balls have the input image's size."""
    monkeypatch.setattr(TinyBall, "denoise", Instances(((0.95,) * 8, (0.7,) * 8, (0.7, 0.5) * 4)).denoise)
    picture = orbit_cameras(torch.zeros(1), torch.tensor([10.0]), 2.7, 49.134, 160, 160)
    save_ball(picture)
    options: dict[str, Any] = {"count": 8, "instances": 3, "recenter": False, "distance": 2.7}
    best, chosen = make(**options), make(**options, instance=1)
    assert torch.equal(best.masks, chosen.masks)
    assert not torch.equal(best.masks, make(**options, instance=0).masks)


EMPTY = 1e-6  # radius of a ball that no pixel sees


@pytest.mark.usefixtures("coarse_ranking")
@pytest.mark.parametrize("other", [(EMPTY,) * 16, (0.7, 0.5) * 8])
def test_an_instance_with_an_empty_view_is_better_than_a_useless_one(
    other: tuple[float, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_ball(orbit_cameras(torch.zeros(1), torch.tensor([10.0]), 2.7, 49.134, 160, 160))
    instances = Instances((other, (0.7,) * 4 + (EMPTY,) + (0.7,) * 11))
    monkeypatch.setattr(TinyBall, "denoise", instances.denoise)
    with caplog.at_level(logging.INFO, "liftstudio"):
        views = make(recenter=False, distance=2.7)
    assert "instance 1 of 2 is used" in caplog.text and "(1 empty)" in caplog.text
    assert len(views) == 16 and "004.png" not in views.names and views.input_view == 15


def test_an_empty_instance_is_refused_with_a_picture_of_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyBall, "denoise", Instances(((EMPTY,) * 16, (0.7,) * 16)).denoise)
    sheet = folder / "cache" / "views" / "instances.png"
    wanted = f"of instance 0 ({sheet}) are empty; try another views.instance, for example 1, or another views.seed"
    with pytest.raises(InputError, match=re.escape(wanted)):
        make(instance=0)
    rgb, _ = load_image(sheet)
    first, second = rgb[: len(rgb) // 2, 96:], rgb[len(rgb) // 2 :, 96:]  # right of their labels
    assert (first > 0.99).all() and (second < 0.9).any()
    assert len(make(instance=1)) == 17


class Instances:
    """Clean images of balls, with other radii in each successive instance."""

    def __init__(self, radii: tuple[tuple[float, ...], ...]) -> None:
        self.radii, self.asked = radii, 0

    def denoise(self, noisy: NoisyViews[Any]) -> Tensor:
        radii = self.radii[self.asked % len(self.radii)]
        self.asked += 1
        frames = [torch.cat(ball(noisy.cameras[[view]], radius), dim=-1)[0] for view, radius in enumerate(radii)]
        return torch.stack(frames).permute(0, 3, 1, 2) * 2 - 1


def save_ball(camera: Cameras) -> None:
    from liftstudio.data.images import save_image

    image, mask = ball(camera)
    save_image("ball.png", torch.cat([image, mask], dim=-1)[0])


def test_harmonyview_combines_the_three_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a prior with constant estimates, the result is their combination."""
    asked: list[float] = []

    def separate(self: Prior, noisy: NoisyViews[Any]) -> Estimates:
        asked.append(noisy.sigma)
        return Estimates(*(torch.full_like(noisy.latents, value) for value in (0.1, 0.3, 0.2)))

    monkeypatch.setattr(TinyBall, "denoise_separately", separate, raising=False)
    for options, s1, s2 in (({}, 2.0, 1.0), ({"harmony_scales": [0.5, 1.5]}, 0.5, 1.5)):
        views = make(guidance="harmonyview", **options, instances=1)
        grey = (0.1 + s1 * (0.1 - 0.3) + s2 * (0.1 - 0.2) + 1) / 2  # colour over white and alpha
        assert views.masks[:16].mean().item() == pytest.approx(grey, abs=2 / 255)
    assert len(asked) == 2 * 6


def test_a_prior_without_separate_estimates() -> None:
    with pytest.raises(InputError, match="tiny ball has no estimates from the input image alone"):
        make(guidance="harmonyview")


def test_the_scale_of_cfg(monkeypatch: pytest.MonkeyPatch) -> None:
    scales: list[Any] = []
    denoise = TinyBall.denoise

    def noted(self: TinyBall, noisy: NoisyViews[Any]) -> Tensor:
        scales.append(noisy.guidance_scale)
        return denoise(self, noisy)

    monkeypatch.setattr(TinyBall, "denoise", noted)
    monkeypatch.setattr(TinyBall, "guidance_scale", 1.5)
    make(count=4, instances=1, steps=1)
    make(count=4, instances=1, steps=1, guidance_scale=3)
    assert [scale.tolist() for scale in scales] == [[1.5] * 4, [3.0] * 4]


@pytest.mark.parametrize("guidance", ["cfg", "harmonyview"])
def test_the_official_network_from_file_to_views(folder: Path, guidance: str, caplog: pytest.LogCaptureFixture) -> None:
    """In miniature, with random weights: every view is noise of the right shape."""
    write_tiny_syncdreamer(folder / "tiny.safetensors", views=4, image_size=32, seed=SEED)
    prior = {"type": "auto", "weights": "tiny.safetensors"}
    options: dict[str, Any] = {"guidance": guidance, "count": 4, "steps": 2, "resolution": 0}
    views = make(prior=prior, **options, instance=0)
    assert len(views) == 5 and views.images.shape == (5, 256, 256, 3) and views.sheet is not None
    assert torch.isfinite(views.images).all() and views.images[:4].std() > 0.01
    again = make(prior=prior, **options, instances=1, cache=False)
    assert torch.equal(again.images, views.images)
    in_chunks = make(prior={**prior, "chunk": 1}, **options, instances=1, cache=False)
    assert (in_chunks.over(1.0) - views.over(1.0)).abs().mean() < 2 / 255  # rounding, then 8 bits
    with pytest.raises(InputError, match=r"makes its 4 views together, not 16; expected .* with count: 4$"):
        make(prior=prior, **{**options, "count": 16})
    with pytest.raises(InputError, match="supports its own 4 cameras only"):
        make(prior=prior, **options, fov_deg=40)


def test_another_number_of_views_is_refused_before_the_weights_are_loaded(folder: Path) -> None:
    """The file's header suffices: the rest of it is truncated here."""
    state = tiny_state(views=4, image_size=32, seed=SEED)
    del state["first_stage_model.decoder.conv_out.bias"]
    save_file(state, folder / "part.safetensors", metadata=NUMBERS)
    for kind in ("auto", "syncdreamer"):
        with pytest.raises(InputError, match="makes its 4 views together, not 16"):
            make(prior={"type": kind, "weights": "part.safetensors"})
    with pytest.raises(InputError, match="is missing"):
        make(prior={"type": "auto", "weights": "part.safetensors"}, count=4)


@pytest.mark.parametrize("guidance", ["cfg", "harmonyview"])
def test_the_bundled_prior_stands_in(guidance: str) -> None:
    options: dict[str, Any] = {"guidance": guidance, "count": 3, "steps": 1, "instances": 1, "resolution": 64}
    if guidance == "cfg":
        options["guidance_scale"] = 1.5
    views = make(prior={"type": "auto", "weights": "asset://priors/toys"}, **options)
    assert len(views) == 4 and views.masks[:3].flatten(1).mean(1).min() > 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elevation_deg": 41}, r"views\.elevation_deg: expected -10 to 40, got 41"),
        ({"guidance": "harmony"}, r"views\.guidance: expected one of cfg, harmonyview"),
        ({"harmony_scales": [1, -1]}, r"views\.harmony_scales\[1\]: expected 0 or more, got -1"),
        ({"harmony_scales": [1, 1]}, r"views\.harmony_scales: only for guidance: harmonyview"),
        ({"guidance": "harmonyview", "guidance_scale": 2}, r"views\.guidance_scale: only for guidance: cfg"),
        ({"instance": 2}, r"views\.instance: expected 0 to 1, got 2"),
        ({"instance": "first"}, r"views\.instance: expected a whole number >= 0 or best, got 'first'"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**options)
    assert not TinyBall.prompts


def test_a_picture_without_alpha_before_a_motley_background(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from liftstudio.data.images import save_image

    monkeypatch.setitem(sys.modules, "rembg", None)  # the matting extra
    save_image(folder / "motley.png", torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(SEED)))
    with pytest.raises(InputError, match="give an RGBA image, or install the matting extra"):
        make(image="motley.png")


def test_an_empty_view_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    views = make(prior={"empty_view": 3})
    assert len(views) == 16 and "003.png" not in views.names and views.names[views.input_view or 0] == "016.png"
    assert "left out because they are empty: 003.png" in caplog.text


def write_white_network(folder: Path) -> None:
    """Write `white.safetensors`: an official network whose images are white."""
    state = tiny_state(views=4, image_size=32, seed=SEED)
    state["first_stage_model.decoder.conv_out.weight"].zero_()
    state["first_stage_model.decoder.conv_out.bias"].fill_(1)
    save_file(state, folder / "white.safetensors", metadata=NUMBERS)


def test_matting_cuts_out_what_white_cannot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official network predicts no masks, and its views are white everywhere here."""
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(InputError, match=r"views\.matting: rembg is not installed; install the matting extra: pip"):
        make(matting=True)
    rembg_that_keeps((8, 4, 28, 24), monkeypatch)
    write_white_network(folder)
    options: dict[str, Any] = {"count": 4, "steps": 1, "resolution": 0, "instances": 1}
    views = make(prior={"type": "auto", "weights": "white.safetensors"}, matting=True, **options)
    assert len(views) == 5 and (views.masks[:4].flatten(1).mean(1) - 20 * 20 / 32**2).abs().max() < 0.02


def test_white_views_of_the_official_network_are_an_error(folder: Path) -> None:
    """It predicts no masks: views that are white everywhere are transparent everywhere."""
    write_white_network(folder)
    options: dict[str, Any] = {"count": 4, "steps": 1, "resolution": 0}
    for instances, which in ((1, ""), (2, r" of all instances \(.*instances\.png\)")):
        with pytest.raises(InputError, match=rf"views: all generated views{which} are empty; try another views\.seed"):
            make(prior={"type": "auto", "weights": "white.safetensors"}, instances=instances, **options)


def test_changed_options_sample_the_views_again() -> None:
    make(count=4)
    shutil.copy("ball.png", "other.png")
    make(count=4, image="other.png", instance=1)
    assert len(TinyBall.prompts) == 1
    changes: tuple[dict[str, Any], ...] = (
        {"count": 3},
        {"instances": 1},
        {"guidance_scale": 2},
        {"elevation_deg": 11},
    )
    for number, change in enumerate(changes):
        make(**{"count": 4, **change})
        assert len(TinyBall.prompts) == 2 + number

"""Several labelled images of one object: labels, framing, cameras, and early errors."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_prior import DISTANCE, FOV_DEG, TinyBall, ball
from PIL import Image
from torch import Tensor

from liftstudio.core import registry
from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.input_image import InputImage, load_input_image
from liftstudio.views.several_images import LABELS, azimuth_of, load_labelled

ELEVATION_DEG = 10.0
FRAME_RATIO = 0.6526  # of the ball, at its true size


@pytest.fixture(autouse=True)
def folder(ball_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(TinyBall, "takes_several", True)
    return ball_folder


def shoot(file: str, azimuth_deg: float, size: int = 160, pad: int = 7) -> str:
    """Write the ball, coloured by its normals, from an azimuth; off the centre of an image that is not square."""
    angles = torch.tensor([azimuth_deg]), torch.tensor([ELEVATION_DEG])
    image, mask = ball(orbit_cameras(*angles, DISTANCE, FOV_DEG, size, size))
    return write(file, F.pad(torch.cat([image, mask], dim=-1)[0].permute(2, 0, 1), (pad, 30)).permute(1, 2, 0))


def write(file: str, rgba: Tensor) -> str:
    Image.fromarray((rgba.clamp(0, 1) * 255).round().byte().numpy()).save(file)
    return file


def make(images: dict[str, str], **options: Any) -> ReferenceViews:
    """Return the views from labelled images, with other `options` as in a config file."""
    prior = {"type": "tiny-ball", "weights": "ball.safetensors"}
    data = {"steps": 4, "resolution": 32, "elevation_deg": ELEVATION_DEG, "frame_ratio": FRAME_RATIO}
    data |= {"orbit": {"frames": 9}, "images": images}
    source = registry.find("sv3d-views", "views")
    return source(parse(data | {"prior": prior} | options, source.Config, "views"), device=torch.device("cpu")).load()


def three() -> dict[str, str]:
    return {"front": shoot("a.png", 0), "back": shoot("b.png", 180, 120), "left": shoot("c.png", 90, 200, 20)}


def test_left_is_the_objects_own_left() -> None:
    """The front is on +x, so the object's own left is on +y, at azimuth 90."""
    assert (azimuth_of("front"), azimuth_of("left"), azimuth_of("right")) == (0, 90, 270)
    views = make(three())
    camera = views.cameras[[views.input_views[2]]]
    assert camera.centers[0, 1] > 3 and abs(float(camera.centers[0, 0])) < 0.1
    truth, _ = ball(camera)
    assert (views.over(1.0)[views.input_views[2]] - truth[0]).abs().mean() < 0.02  # wrong sides differ by 0.2


def test_every_image_is_a_view() -> None:
    views = make(three(), held_out=True)
    assert len(views) == 11 and views.input_views == (8, 9, 10) and views.input_view == 8
    assert views.held_out.tolist() == [True] * 8 + [False] * 3
    assert views.training().input_views == (0, 1, 2)
    (prompt,) = TinyBall.prompts
    assert [round(float(other.camera.azimuth_deg)) for other in prompt.others] == [180, 90]
    truth, _ = ball(views.cameras)
    assert (views.over(1.0) - truth).abs().mean() < 0.03


def test_numbers_are_azimuths_and_the_order_is_free() -> None:
    azimuth_deg = random.uniform(30, 300)
    images = {f"{azimuth_deg:.1f}": shoot("a.png", azimuth_deg), "0": shoot("b.png", 0)}
    views = make(images)
    turns = [float(views.cameras.azimuth_deg[view]) for view in views.input_views]
    assert turns[0] % 360 < 1e-3 and turns[1] == pytest.approx(azimuth_deg, abs=0.1)
    assert azimuth_of("-90") == azimuth_of("right") and azimuth_of("720") == 0


def test_the_object_has_the_same_height_in_all_and_fits(folder: Path) -> None:
    """A car is short from the front and long from the side."""
    for file, height, width in (("front.png", 60, 50), ("left.png", 120, 300)):
        rgba = torch.zeros(200, 400, 4)
        rgba[20 : 20 + height, 30 : 30 + width] = torch.tensor([0.5, 0.2, 0.1, 1.0])
        write(file, rgba)
    first = load_labelled({"front": "front.png", "left": "left.png"}, lambda f: load_input_image(Path(f)), 0.8)
    sides = [image.frame(100)[1] for image in (first, first.others[0].image)]
    heights, widths = ([int((mask.amax((dim, 2)) > 0.5).sum()) for mask in sides] for dim in (1, 0))
    assert widths[1] == 80 and abs(heights[0] - heights[1]) <= 1 and abs(heights[0] - 32) <= 1
    assert isinstance(first, InputImage) and first.others[0].azimuth_deg == 90


def test_another_object_is_warned_of(warnings: list[str]) -> None:
    rgba = torch.zeros(100, 100, 4)
    rgba[10:90, 45:52] = torch.tensor([0.1, 0.9, 0.1, 1.0])
    make({"front": shoot("a.png", 0), "back": write("b.png", rgba)})
    (warning,) = warnings
    assert warning.startswith("images.back: ") and "IoU of only 0.1" in warning
    warnings.clear()
    make(three())
    assert not warnings


def test_the_cache_depends_on_every_image() -> None:
    images = three()
    make(images)
    again = make(images)
    assert len(TinyBall.prompts) == 1 and again.input_views == (8, 9, 10)
    shoot("c.png", 80)
    make(images)
    make({"front": images["front"], "back": images["back"]})
    make({"front": images["front"], "back": images["back"], "80": images["left"]})
    assert len(TinyBall.prompts) == 4


def test_one_image_with_a_label_is_the_same_as_without() -> None:
    one, other = make({}, image="ball.png"), make({"front": "ball.png"})
    assert torch.equal(one.cameras.c2w, other.cameras.c2w) and one.input_views == other.input_views
    torch.testing.assert_close(one.images, other.images, atol=0.05, rtol=0)


FAULTS: list[tuple[dict[str, str], dict[str, Any], str]] = [
    ({"front": "a.png", "backk": "b.png"}, {}, r"images\.backk: expected front, .* did you mean 'back'\?"),
    ({"front": "a.png", "top": "b.png"}, {}, r"images\.top: expected front, "),
    ({"front": "a.png", "back": "b.png", "-180": "c.png"}, {}, r"images: 'back' and '-180' are the same side"),
    ({"front": "a.png", "8.5": "b.png"}, {}, r"images: 'front' and '8\.5' are the same side"),
    ({"front": "a.png", "back": "./a.png"}, {}, r"images: \./a\.png is given for 'front' and for 'back'"),
    ({"front": "a.png", "back": "copy.png"}, {}, r"images: 'front' and 'back' are the same image"),
    ({"left": "a.png", "back": "b.png"}, {}, r"images: no front"),
    ({"front": "a.png", "back": "none.png"}, {}, r"images\.back: none\.png: no such image"),
    ({"front": "a.png", "back": "empty.png"}, {}, r"images\.back: empty\.png: no foreground"),
    ({"front": "a.png"}, {"image": "b.png"}, r"image, images: both given"),
    ({}, {}, r"image, images: both missing"),
]


@pytest.mark.parametrize(("images", "options", "message"), FAULTS, ids=[message[:40] for *_, message in FAULTS])
def test_bad_input(images: dict[str, str], options: dict[str, Any], message: str) -> None:
    three()
    shoot("copy.png", 0)
    write("empty.png", torch.zeros(60, 60, 4))
    with pytest.raises(InputError, match=message):
        make(images, **options)
    assert not TinyBall.prompts


def test_a_prior_that_takes_one_image_says_which_take_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyBall, "takes_several", False)
    with pytest.raises(InputError, match=r"'tiny-ball' makes views from one image.*asset://priors/objects"):
        make(three())
    assert not TinyBall.prompts and len(make({"front": "a.png"})) == 9


def test_labels_go_around_the_object() -> None:
    assert [LABELS[name] for name in ("front", "front-left", "left", "back-left", "back")] == [0, 45, 90, 135, 180]

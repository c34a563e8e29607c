"""Objects cut out of photographs by GrabCut and alpha matting: right masks, boxes, refusals in one line."""

import functools
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from PIL import Image
from torch import Tensor

from bench.photographs import BACKGROUNDS, Photograph, photograph
from liftstudio.core.errors import InputError
from liftstudio.data.images import load_image, resize_area, save_image
from liftstudio.views.alpha_mattes import matte
from liftstudio.views.foreground import find_object
from liftstudio.views.input_image import load_input_image
from liftstudio.views.silhouettes import border_color, cut_out_before, largest_object

TOYS = ROOT / "assets" / "demo" / "toys"
TOY_NAMES = ("robot", "cat", "party")
SOFA = ROOT / "assets" / "demo" / "objects" / "sofa.png"
MARIO = ROOT / "assets" / "demo" / "mario" / "images"


@pytest.fixture(autouse=True)
def without_rembg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, in which previews are saved."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@functools.cache
def taken(name: str, background: str, seed: int = 0) -> Photograph:
    rgb, alpha = load_image(TOYS / f"{name}.png" if name in TOY_NAMES else MARIO / f"{name}.png")
    assert alpha is not None
    shot = photograph(rgb, alpha, background, seed)
    return Photograph(*(resize_area(part, 120, 160) for part in (shot.rgb, shot.alpha)))  # smaller ones are fast


def iou(alpha: Tensor, true: Tensor) -> float:
    found, wanted = alpha > 0.5, true > 0.5
    return float((found & wanted).sum() / (found | wanted).sum())


@pytest.mark.parametrize(
    ("name", "background"), [("robot", "tiles"), ("cat", "table"), ("000", "grass"), ("party", "cloth")]
)
def test_objects_are_cut_out_of_photographs(name: str, background: str, tmp_path: Path) -> None:
    shot = taken(name, background)
    save_image(tmp_path / "a.png", shot.rgb)
    found = load_input_image(tmp_path / "a.png")
    assert iou(found.alpha, shot.alpha) > 0.9
    assert found.alpha.min() >= 0 and found.alpha.max() <= 1


def test_the_same_picture_gives_the_same_mask() -> None:
    shot = taken("robot", "marble")
    torch.manual_seed(1)
    first = find_object(shot.rgb)
    np.random.seed(2)
    second = find_object(shot.rgb)
    assert first is not None and second is not None and (first.mask == second.mask).all()
    assert first.certainty == second.certainty


def pair() -> tuple[Tensor, Tensor, Tensor]:
    """Return a picture of two toys beside one another on cloth, and the masks of the left and the right one."""
    one, two = taken("robot", "cloth"), taken("cat", "cloth")
    rgb = torch.cat([one.rgb[:, 25:135], two.rgb[:, 25:135]], dim=1)
    nothing = torch.zeros_like(one.alpha[:, 25:135])
    left = torch.cat([one.alpha[:, 25:135], nothing], dim=1)
    return rgb, left, torch.cat([nothing, two.alpha[:, 25:135]], dim=1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_box_says_which_object_is_meant(side: str, tmp_path: Path) -> None:
    rgb, left, right = pair()
    wanted = left if side == "left" else right
    rows, columns = (torch.nonzero(wanted[..., 0].amax(axis) > 0.5).flatten() for axis in (1, 0))
    box = (int(columns[0]) - 4, int(rows[0]) - 3, int(columns[-1]) + 5, int(rows[-1]) + 4)
    save_image(tmp_path / "pair.png", rgb)
    found = load_input_image(tmp_path / "pair.png", box=box)
    assert iou(found.alpha, wanted) > 0.9
    outside = found.alpha.clone()
    outside[box[1] : box[3], box[0] : box[2]] = 0
    assert outside.sum() == 0


def test_a_box_in_a_picture_with_alpha_or_before_a_plain_background(tmp_path: Path) -> None:
    alpha = torch.zeros(100, 200, 1)
    alpha[20:80, 20:80] = alpha[30:70, 120:160] = 1
    rgb = torch.tensor([0.2, 0.5, 0.3]).expand(100, 200, 3)
    save_image(tmp_path / "alpha.png", torch.cat([rgb, alpha], dim=-1))
    save_image(tmp_path / "plain.png", rgb * alpha + 1 - alpha)
    for name in ("alpha", "plain"):
        found = load_input_image(tmp_path / f"{name}.png", box=(110, 20, 180, 90))
        assert (found.alpha > 0.5).sum() == 40 * 40 and found.alpha[:, :110].sum() == 0
        with pytest.raises(InputError, match=rf"{name}\.png: no foreground in \[85, 10, 118, 90\]"):
            load_input_image(tmp_path / f"{name}.png", box=(85, 10, 118, 90))


def test_a_box_of_the_whole_picture_says_nothing(tmp_path: Path) -> None:
    shot = taken("robot", "tiles")
    save_image(tmp_path / "a.png", shot.rgb)
    height, width = shot.rgb.shape[:2]
    alone, boxed = (load_input_image(tmp_path / "a.png", box=box) for box in (None, (0, 0, width, height)))
    assert torch.equal(alone.alpha, boxed.alpha)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((50, 10, 20, 60), r"image_box: expected left < right and top < bottom, got \[50, 10, 20, 60\]"),
        ((10, 60, 50, 60), r"image_box: expected left < right and top < bottom"),
        ((10, 10, 50, 101), r"image_box: \[10, 10, 50, 101\] reaches beyond .*a\.png, which is 200x100 pixels"),
        ((-1, 10, 50, 90), r"image_box: \[-1, 10, 50, 90\] reaches beyond"),
        (
            (10, 10, 30, 41),
            r"image_box: \[10, 10, 30, 41\] is too small; expected 32 pixels or more along one side and 4",
        ),
        ((10, 10, 110, 13), r"image_box: \[10, 10, 110, 13\] is too small; expected 32 pixels or more along one side"),
    ],
)
def test_faulty_boxes(box: tuple[int, int, int, int], message: str, tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", torch.rand(100, 200, 3))
    with pytest.raises(InputError, match=message):
        load_input_image(tmp_path / "a.png", box=box)


def test_of_two_objects_before_a_plain_background_the_largest_is_taken_and_said(
    tmp_path: Path, warnings: list[str]
) -> None:
    picture = torch.ones(100, 200, 3)
    picture[20:80, 20:80] = picture[30:70, 120:160] = 0.3
    save_image(tmp_path / "a.png", picture)
    found = load_input_image(tmp_path / "a.png")
    assert (found.alpha > 0.5).sum() == 60 * 60
    assert (
        len(warnings) == 1 and "a.png: of 2 objects the largest is taken; for another one set image_box=" in warnings[0]
    )


def test_pieces_near_to_one_another_are_one_object() -> None:
    mask = np.zeros((100, 200), bool)
    mask[20:80, 20:80] = mask[20:80, 82:100] = mask[40:60, 150:170] = True
    largest, count = largest_object(mask)
    assert count == 1 and largest.sum() == 60 * 78  # the third one is too small to be counted
    mask[30:70, 150:190] = True
    assert largest_object(mask)[1] == 2


@pytest.mark.parametrize("kind", ["noise", "grass"])
def test_a_picture_without_an_object_is_refused_with_a_preview(kind: str, tmp_path: Path, temporary: Path) -> None:
    picture = torch.rand(120, 160, 3)
    if kind == "grass":
        picture = resize_area(torch.from_numpy(BACKGROUNDS[kind](np.random.default_rng(3))), 120, 160)
    folder = tmp_path / "pictures"
    save_image(folder / "a.png", picture)
    with pytest.raises(InputError) as error:
        load_input_image(folder / "a.png")
    message = str(error.value)
    assert "\n" not in message and "a.png: the object in it is doubtful" in message
    for way in ("set image_box=[left, top, right, bottom]", "give an RGBA image", "pip install 'rembg[cpu]'"):
        assert way in message
    assert [path.name for path in folder.iterdir()] == ["a.png"]
    (preview,) = temporary.rglob("*.png")
    assert str(preview) in message
    rgb, alpha = load_image(preview)
    assert rgb.shape == picture.shape and alpha is not None and 0 < alpha.sum() < alpha.numel()


def test_exif_orientation_is_applied_before_the_box(tmp_path: Path) -> None:
    shot = disc(120, 160, (55, 70), 36)
    stored = Image.fromarray((shot.rgb * 255).round().byte().numpy()).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    rows, columns = (torch.nonzero(shot.alpha[..., 0].amax(axis) > 0.5).flatten() for axis in (1, 0))
    box = (int(columns[0]) - 3, int(rows[0]) - 3, int(columns[-1]) + 4, int(rows[-1]) + 4)
    found = load_input_image(tmp_path / "a.jpg", box=box)
    assert found.alpha.shape == shot.alpha.shape and iou(found.alpha, shot.alpha) > 0.9


def disc(height: int, width: int, center: tuple[float, float], radius: float) -> Photograph:
    """Return a blue ball on wood; centre (row, column) and radius in pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    off = ((y - center[0]) ** 2 + (x - center[1]) ** 2).sqrt()
    alpha = (radius + 0.5 - off).clamp(0, 1)[..., None]
    wood = resize_area(torch.from_numpy(BACKGROUNDS["wood"](np.random.default_rng(8))), height, width)
    blue = torch.tensor([0.15, 0.3, 0.75]) * (1 - 0.3 * (off / radius).clamp(0, 1) ** 2)[..., None]
    return Photograph((alpha * blue + (1 - alpha) * wood + 0.01 * torch.randn(height, width, 3)).clamp(0, 1), alpha)


def test_an_object_that_reaches_the_border(tmp_path: Path, warnings: list[str]) -> None:
    shot = disc(150, 200, (115, 105), 45)
    save_image(tmp_path / "a.png", shot.rgb)
    assert iou(load_input_image(tmp_path / "a.png").alpha, shot.alpha) > 0.9
    assert any("the object reaches the bottom border" in text for text in warnings)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_white_object_before_an_uneven_white(mode: str, tmp_path: Path) -> None:
    """A cup-like shape, brighter than the paper that it stands on and shaded at its side."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 120), torch.linspace(-1.33, 1.33, 160), indexing="ij")
    alpha = ((x.abs() < 0.5 - 0.1 * y) & (y.abs() < 0.55)).float()[..., None]
    paper = (0.8 - 0.08 * x - 0.1 * y)[..., None].expand(-1, -1, 3)
    cup = (0.97 - 0.1 * (x / 0.6).clamp(-1, 1) ** 2)[..., None] * torch.tensor([1.0, 0.99, 0.97])
    picture = alpha * cup + (1 - alpha) * paper + 0.006 * torch.randn(120, 160, 3)
    pixels = (picture.clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    assert iou(load_input_image(tmp_path / "a.png").alpha, alpha) > 0.9


def on_white(darkness: float) -> Photograph:
    """Return a sofa on a white table, with a soft shadow at its foot of that darkness."""
    rgb, alpha = (resize_area(part, 160, 160) for part in load_image(SOFA) if part is not None)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 160), torch.linspace(-1, 1, 160), indexing="ij")
    shadow = darkness * torch.exp(-((x - 0.15) ** 2 / 0.15 + (y - 0.39) ** 2 / 0.012))[..., None]
    table = 0.96 * (1 - shadow) + 0.008 * torch.randn(160, 160, 3)
    return Photograph((alpha * rgb + (1 - alpha) * table).clamp(0, 1), alpha)


def test_a_soft_shadow_on_a_white_table_is_no_part_of_the_object(tmp_path: Path) -> None:
    shot = on_white(0.5)
    save_image(tmp_path / "a.png", shot.rgb)
    background = border_color(shot.rgb)
    assert background is not None and iou(cut_out_before(shot.rgb, background)[1], shot.alpha) < 0.92, "it differs"
    assert iou(load_input_image(tmp_path / "a.png").alpha, shot.alpha) > 0.96


def test_a_white_ball_that_fades_into_the_background_is_kept(tmp_path: Path) -> None:
    """Its bright side has no outline; it is soft like a shadow, and GrabCut tells it from one."""
    shot = disc(150, 200, (75, 100), 50)
    y, x = torch.meshgrid(torch.arange(150) - 75.0, torch.arange(200) - 100.0, indexing="ij")
    shade = (0.98 - 0.25 * ((x + y) / 70).clamp(0, 1) ** 2)[..., None].expand(-1, -1, 3)
    save_image(tmp_path / "a.png", shot.alpha * shade + (1 - shot.alpha) * 0.96)
    background = torch.full((3,), 0.96)
    before = cut_out_before(shot.alpha * shade + (1 - shot.alpha) * 0.96, background)[1]
    assert load_input_image(tmp_path / "a.png").alpha.sum() > 0.95 * before.sum()


def test_a_tiny_picture(tmp_path: Path) -> None:
    shot = disc(48, 64, (25, 31), 17)
    save_image(tmp_path / "a.png", shot.rgb)
    assert iou(load_input_image(tmp_path / "a.png").alpha, shot.alpha) > 0.9


def test_a_large_picture_keeps_its_size(tmp_path: Path) -> None:
    shot = disc(150, 200, (78, 105), 45)
    pixels = [Image.fromarray((part * 255).byte().numpy()) for part in (shot.rgb, shot.alpha.expand_as(shot.rgb))]
    picture, mask = (image.resize((1200, 900), Image.Resampling.BICUBIC) for image in pixels)
    picture.save(tmp_path / "a.jpg")
    found = load_input_image(tmp_path / "a.jpg")
    assert found.alpha.shape == (900, 1200, 1)
    assert iou(found.alpha, torch.from_numpy(np.array(mask)).float()[..., :1] / 255) > 0.95


def test_the_matte_is_soft_and_free_of_the_background() -> None:
    """A disc of one colour before another, from a mask that is two pixels too large; at half and at twice the size."""
    y, x = torch.meshgrid(torch.arange(1200.0), torch.arange(1200.0), indexing="ij")
    radius = ((x - 600) ** 2 + (y - 600) ** 2).sqrt()
    alpha = ((430 - radius) / 6).clamp(0, 1)[..., None]  # soft over 6 pixels
    color, behind = torch.tensor([0.8, 0.3, 0.1]), torch.tensor([0.1, 0.4, 0.7])
    picture = alpha * color + (1 - alpha) * behind + 0.005 * torch.randn(1200, 1200, 3)
    mask = (radius < 432).numpy()[::3, ::3]
    rgb, found = matte(picture.clamp(0, 1), mask)
    band = (radius > 415) & (radius < 440)
    assert (found - alpha).abs()[band].mean() < 0.06 and (found - alpha).abs()[~band].max() < 0.02
    half = (found > 0.3) & (found < 0.7)
    assert half.sum() > 1000 and (rgb - color).abs()[half.expand_as(rgb)].mean() < 0.08


def test_how_it_was_cut_out_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    save_image(tmp_path / "a.png", taken("robot", "wood").rgb)
    with caplog.at_level(logging.INFO, "liftstudio"):
        load_input_image(tmp_path / "a.png")
    assert "a.png: opaque, cut out by GrabCut and alpha matting (certainty" in caplog.text

"""The user's image: cut out, centred, resized without fringes; unusable ones fail with one line."""

import logging
import random
import sys
from pathlib import Path

import pytest
import torch
from helpers.standins import rembg_that_keeps
from PIL import Image
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.views.input_image import load_input_image
from liftstudio.views.silhouettes import alpha_before, border_color, bounding_box, main_pieces


@pytest.fixture(autouse=True)
def without_rembg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)


def ellipse(height: int, width: int, center: tuple[float, float], radii: tuple[float, float]) -> Tensor:
    """Return the coverage [H, W, 1] of an ellipse (row, column), from 8x8 samples per pixel."""
    rows, columns = ((torch.arange(n * 8) + 0.5) / 8 for n in (height, width))
    inside = ((rows[:, None] - center[0]) / radii[0]) ** 2 + ((columns[None] - center[1]) / radii[1]) ** 2 < 1
    return inside.float().reshape(height, 8, width, 8).mean((1, 3))[..., None]


def save(path: Path, image: Tensor) -> Path:
    Image.fromarray((image.clamp(0, 1) * 255).round().byte().numpy()).save(path)
    return path


def save_rgba(path: Path, alpha: Tensor, color: Tensor, hidden: float = 0.0) -> Path:
    """Save an object of one colour; `hidden` is the colour under alpha 0."""
    rgb = torch.where(alpha > 0, color, torch.tensor(hidden)).expand(*alpha.shape[:2], 3)
    return save(path, torch.cat([rgb, alpha], dim=-1))


def random_ellipse() -> tuple[Tensor, tuple[float, float]]:
    radii = random.uniform(20, 45), random.uniform(20, 45)
    return ellipse(110, 170, (random.uniform(46, 64), random.uniform(46, 124)), radii), radii


def extent(mask: Tensor) -> tuple[float, float, float, float]:
    """Return sub-pixel centre (x, y) and size (x, y) of a mask [R, R, 1], as fractions of its side."""
    at = (torch.arange(len(mask)) + 0.5) / len(mask)
    x, y = (float((mask.sum(axis)[:, 0] * at).sum() / mask.sum()) for axis in (0, 1))
    width, height = (float(mask.amax(axis).mean()) for axis in (0, 1))
    return x, y, width, height


@pytest.mark.parametrize("resolution", [48, 96, 301])
def test_the_object_is_centred_at_the_wanted_size(tmp_path: Path, resolution: int) -> None:
    alpha, radii = random_ellipse()
    ratio = random.uniform(0.5, 1)
    picture = load_input_image(save_rgba(tmp_path / "a.png", alpha, torch.rand(3)), frame_ratio=ratio)
    image, mask = picture.frame(resolution)
    assert image.shape == (resolution, resolution, 3) and mask.shape == (resolution, resolution, 1)
    x, y, width, height = extent(mask)
    # Within a pixel of the picture (box of whole pixels) and a pixel of the frame (its outline is soft).
    tolerance = ratio / (2 * max(radii)) + 1 / resolution
    assert abs(x - 0.5) < tolerance and abs(y - 0.5) < tolerance
    assert abs(width - ratio * radii[1] / max(radii)) < 2 * tolerance
    assert abs(height - ratio * radii[0] / max(radii)) < 2 * tolerance


@pytest.mark.parametrize("resolution", [40, 200])
def test_hidden_colours_do_not_bleed_into_the_outline(tmp_path: Path, resolution: int) -> None:
    alpha, _ = random_ellipse()
    color = torch.rand(3)
    frames = []
    for hidden in (0.0, 1.0):
        path = save_rgba(tmp_path / "a.png", alpha, color, hidden)
        image, mask = load_input_image(path).frame(resolution)
        # 8 bits a channel, and where alpha is nearly 0 the colour does not matter
        assert ((image - (color * mask + 1 - mask)).abs() < 0.01).all()
        assert image.min() >= 0 and image.max() <= 1 and mask.min() >= 0 and mask.max() <= 1
        frames.append(image)
    assert torch.equal(*frames)


def test_without_recentring_the_whole_picture_is_the_frame(tmp_path: Path) -> None:
    alpha = ellipse(110, 170, (40, 60), (25, 30))
    _, mask = load_input_image(save_rgba(tmp_path / "a.png", alpha, torch.rand(3)), recenter=False).frame(170)
    torch.testing.assert_close(mask[30:140], alpha, atol=0.5 / 255 + 1e-5, rtol=0)
    assert mask[:30].max() == mask[140:].max() == 0


@pytest.mark.parametrize("background", ["white", "any"])
def test_a_plain_background_is_cut_away(tmp_path: Path, background: str) -> None:
    alpha, _ = random_ellipse()
    behind = torch.ones(3) if background == "white" else torch.rand(3)
    color = (behind + 0.5) % 1
    noise = torch.rand(110, 170, 3).sub(0.5) * 0.03  # as a JPEG file has it
    path = save(tmp_path / "a.png", alpha * color + (1 - alpha) * behind + noise)
    picture = load_input_image(path)
    assert (picture.alpha - alpha).abs().mean() < 0.004 and (picture.alpha - alpha).abs().max() < 0.4
    premultiplied = picture.rgb * picture.alpha
    assert (premultiplied - alpha * color)[(picture.alpha > 0.99)[..., 0]].abs().max() < 0.1
    assert (premultiplied - alpha * color).abs().mean() < 0.02


def test_pinholes_are_filled_and_holes_are_not() -> None:
    alpha = ellipse(120, 120, (60, 60), (50, 50))
    eye, handle = ellipse(120, 120, (40, 60), (4, 4)), ellipse(120, 120, (75, 60), (18, 18))
    color, white = torch.tensor([0.2, 0.4, 0.6]), torch.ones(3)
    solid = alpha * (1 - eye) * (1 - handle)
    found = alpha_before(solid * color + (1 - solid) * white, white)
    assert found[40, 60] == 1 and found[75, 60] == 0 and found[0, 0] == 0
    assert (found - alpha * (1 - handle)).abs().mean() < 0.01


def test_a_photograph_is_cut_out_by_rembg_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", torch.rand(60, 80, 3))
    with pytest.raises(
        InputError, match=r"a\.png: the object in it is doubtful.*RGBA image.*pip install 'rembg\[cpu\]'"
    ):
        load_input_image(path)
    rembg = rembg_that_keeps((20, 10, 60, 50), monkeypatch)
    assert load_input_image(path).alpha.sum() == 1600

    def fail(name: str) -> None:
        raise ConnectionError("no network\nat all")

    rembg.new_session = fail  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"a\.png: rembg failed to cut it out \(no network at all\); give an RGBA"):
        load_input_image(path)


def test_specks_are_dropped_and_several_objects_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    alpha = torch.zeros(100, 200, 1)
    alpha[20:80, 20:80] = 1
    whole = bounding_box(alpha)
    alpha[90:94, 190:194] = 0.8  # 16 of 3600 pixels
    picture = load_input_image(save_rgba(tmp_path / "a.png", alpha, torch.rand(3)))
    assert bounding_box(picture.alpha) == whole == (20, 20, 80, 80) and not caplog.records
    alpha[30:70, 120:160] = 1
    assert main_pieces(alpha, 0.01)[1] == 2 and main_pieces(alpha, 0.5)[1] == 1
    picture = load_input_image(save_rgba(tmp_path / "b.png", alpha, torch.rand(3)))
    assert bounding_box(picture.alpha) == (20, 20, 160, 80)
    assert "b.png: 2 separate objects" in caplog.text


def card(name: str, alpha: Tensor) -> Tensor:
    """Return the alpha of an opaque picture, of `alpha`'s size, as programs write it."""
    opaque = torch.ones_like(alpha)
    if name == "almost opaque":
        return opaque * 254 / 255
    if name == "half opaque":
        return opaque / 2
    if name == "noise":
        return opaque - 0.1 * torch.rand_like(opaque)
    if name == "one clear pixel":
        opaque[0, 0] = 0
    elif name == "clear edge":
        opaque[[0, -1]] = opaque[:, [0, -1]] = 0
    elif name == "padded":
        opaque[:, :20] = opaque[:, -20:] = 0
    elif name == "rounded":
        at = [torch.arange(n) + 0.5 for n in alpha.shape[:2]]
        beyond = [(20 - torch.minimum(a, len(a) - a)).clamp_min(0) for a in at]
        opaque[beyond[0][:, None] ** 2 + beyond[1][None] ** 2 > 20**2] = 0
    return opaque


CARDS = ["almost opaque", "half opaque", "noise", "one clear pixel", "clear edge", "padded", "rounded"]


@pytest.mark.parametrize("name", CARDS)
def test_alpha_of_an_opaque_picture_is_no_silhouette(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    alpha = ellipse(110, 170, (55, 85), (40, 50))
    color, around = torch.tensor([0.2, 0.5, 0.3]), card(name, alpha)
    picture = alpha * color + (1 - alpha) * torch.tensor([0.9, 0.9, 0.8])
    hidden = torch.cat([picture.where(around > 0, torch.tensor(0.0)), around], dim=-1)
    found = load_input_image(save(tmp_path / "a.png", hidden))
    assert (found.alpha - alpha).abs().mean() < 0.004 and (found.alpha - alpha).abs().max() < 0.4
    assert (found.rgb - color)[found.alpha[..., 0] > 0.99].abs().max() < 0.1
    assert ("shows a filled rectangle; the object is cut out" in caplog.text) == bool((around == 0).any())


def test_a_card_that_is_the_object_is_kept_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    around = card("rounded", torch.ones(110, 170, 1))
    for picture in (torch.rand(110, 170, 3), torch.full((110, 170, 3), 0.4)):
        caplog.clear()
        found = load_input_image(save(tmp_path / "a.png", torch.cat([picture, around], dim=-1)))
        assert torch.equal(found.alpha, around)
        assert "a.png: its alpha shows a filled rectangle" in caplog.text
    with pytest.raises(InputError, match="the object in it is doubtful"):
        load_input_image(save(tmp_path / "b.png", torch.cat([torch.rand(110, 170, 3), around * 0 + 254 / 255], dim=-1)))
    rembg_that_keeps((20, 10, 60, 50), monkeypatch)
    assert load_input_image(tmp_path / "a.png").alpha.sum() == 1600


def test_a_transparent_object_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    alpha = ellipse(110, 170, (55, 85), (40, 50))
    load_input_image(save_rgba(tmp_path / "a.png", alpha, torch.rand(3)))
    assert not caplog.records
    load_input_image(save_rgba(tmp_path / "b.png", alpha / 2, torch.rand(3)))
    assert "b.png: the object is partly transparent: half of it has an alpha below 0.5" in caplog.text


def test_inverted_alpha_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    load_input_image(save_rgba(tmp_path / "a.png", 1 - ellipse(110, 170, (55, 85), (40, 50)), torch.rand(3)))
    assert "a.png: alpha covers the border; is it inverted" in caplog.text


@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize(
    ("center", "sides"),
    [((90, 85), "bottom border"), ((20, 85), "top border"), ((55, 30), "left border"), ((55, 150), "right border")],
)
def test_an_object_that_the_picture_cuts_off(
    center: tuple[int, int],
    sides: str,
    opaque: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a plain background as well, though a good part of the border is then not plain."""
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    alpha, color = ellipse(110, 170, center, (40, 50)), torch.tensor([0.2, 0.5, 0.3])
    picture = alpha * color + 1 - alpha if opaque else torch.cat([alpha * 0 + color, alpha], dim=-1)
    found = load_input_image(save(tmp_path / "a.png", picture))
    assert (found.alpha - alpha).abs().mean() < 0.004
    assert f"a.png: the object reaches the {sides};" in caplog.text


def test_backgrounds_that_are_not_plain() -> None:
    """A wall above a table, a vignette and a gradient are refused, though most of their border is of one colour."""
    white, rows, columns = torch.ones(100, 100, 3), torch.arange(100)[:, None, None], torch.arange(100)[None, :, None]
    assert border_color(white) is not None
    assert border_color(white.where(rows < 80, 0.3)) is None
    vignette = 1 - ((rows - 50).abs() + (columns - 50).abs()) ** 2 / 10000 * 0.3
    assert border_color(white * vignette) is None
    assert border_color(white * (1 - rows * 0.004)) is None


def faulty(name: str, path: Path) -> None:
    if name == "missing":
        return
    if name == "not an image":
        path.write_bytes(b"hello")
        return
    alpha = torch.zeros(100, 100, 1)
    alpha[10 : 10 + (20 if name == "tiny" else 60), 10:40] = 0 if name == "transparent" else 1
    if name == "plain":
        save(path, torch.full((50, 50, 3), 0.3))
    else:
        save_rgba(path, alpha, torch.rand(3))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"a\.png: no such image"),
        ("not an image", r"a\.png: not a readable image"),
        ("transparent", r"a\.png: no foreground; the image is transparent everywhere"),
        ("plain", r"a\.png: no foreground; the image is one plain colour"),
        ("tiny", r"a\.png: the object is only 30x20 pixels; expected 32 or more"),
    ],
)
def test_images_that_cannot_be_used(fault: str, message: str, tmp_path: Path) -> None:
    faulty(fault, tmp_path / "a.png")
    with pytest.raises(InputError, match=message):
        load_input_image(tmp_path / "a.png")

"""Posed images: held-out views, sizes, normalisation, and what of them is refused."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captures import Shots, edit, load, save_masks, source
from helpers.seeds import fresh_seed
from PIL import Image

from liftstudio.core.errors import InputError
from liftstudio.data.images import resize_area
from liftstudio.views import posed_images
from liftstudio.views.saving import save_views


def test_held_out_views(shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path)
    views = load(tmp_path, held_out=[3, 0, 3])
    assert views.held_out.tolist() == [True, False, False, True, False]
    assert views.training().names == tuple(shots.names()[i] for i in (1, 2, 4))
    for wrong in ([5], [-1]):
        with pytest.raises(InputError, match=r"views\.held_out: no view"):
            load(tmp_path, held_out=wrong)
    with pytest.raises(InputError, match="all 5 views"):
        load(tmp_path, held_out=[0, 1, 2, 3, 4])


@pytest.mark.parametrize("max_size", [16, 10, 1])
def test_reduced_views(shots: Shots, tmp_path: Path, max_size: int) -> None:
    """Colours and masks are means over the covered area, without hidden colours; rays stay the same."""
    views = load(shots.save(tmp_path), max_size=max_size)
    height = max(1, round(24 * max_size / 32))
    assert views.images.shape == (5, height, max_size, 3)
    full = load(tmp_path)
    means = torch.stack([resize_area(image, height, max_size) for image in full.over(0.0)])
    torch.testing.assert_close(views.over(0.0), means, atol=1e-5, rtol=0)
    torch.testing.assert_close(views.cameras.fx / max_size, full.cameras.fx / 32)
    torch.testing.assert_close(views.cameras.cy / height, full.cameras.cy / 24)
    assert load(tmp_path, max_size=32).images.shape == full.images.shape == load(tmp_path, max_size=99).images.shape


def test_manual_scale_and_offset(shots: Shots, tmp_path: Path) -> None:
    one = source(shots.save(tmp_path), scale=2.0, offset=[0.0, 1.0, -1.0])
    moved = one.load().cameras
    torch.testing.assert_close(moved.centers, shots.cameras.centers * 2 + torch.tensor([0.0, 1.0, -1.0]))
    torch.testing.assert_close(moved.c2w[:, :3, :3], shots.cameras.c2w[:, :3, :3])
    back = one.data_from_world()
    in_data = moved.centers.double() @ back[:3, :3].T + back[:3, 3]
    torch.testing.assert_close(in_data.float(), shots.cameras.centers)
    assert one.load() is one.load()


def test_automatic_normalisation_is_logged_and_sees_the_same(
    shots: Shots, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    with caplog.at_level(logging.INFO, "liftstudio"):
        one = source(shots.save(tmp_path), normalize="auto", up="cameras")
        views = one.load()
    assert "world from data" in caplog.text
    points = torch.randn(50, 3) * 0.3
    back = one.data_from_world().float()
    in_data = points @ back[:3, :3].T + back[:3, 3]
    pixels, wanted = views.cameras.project(points)[0], shots.cameras.project(in_data)[0]
    torch.testing.assert_close(pixels, wanted, atol=1e-2, rtol=1e-3)


FAR = torch.tensor([451230.25, 5411873.5, 120.0], dtype=torch.float64)  # of a map's zone, in metres


def carry_away(data: dict[str, Any], shift: torch.Tensor = FAR, scale: float = 1.0) -> None:
    for frame in data["frames"]:
        pose = torch.tensor(frame["transform_matrix"], dtype=torch.float64)
        pose[:3, 3] = scale * pose[:3, 3] + shift
        frame["transform_matrix"] = pose.tolist()


@pytest.mark.parametrize("up", ["z", "cameras"])
def test_a_capture_far_from_its_origin_is_normalised_like_one_near_it(shots: Shots, tmp_path: Path, up: str) -> None:
    near = source(shots.save(tmp_path / "near"), normalize="auto", up=up)
    far = source(shots.save(tmp_path / "far", carry_away), normalize="auto", up=up)
    torch.testing.assert_close(far.load().cameras.c2w, near.load().cameras.c2w, atol=1e-6, rtol=0)
    carried = torch.eye(4, dtype=torch.float64)
    carried[:3, 3] = FAR
    torch.testing.assert_close(far.data_from_world(), carried @ near.data_from_world(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_the_unit_of_a_capture_does_not_matter(shots: Shots, tmp_path: Path, scale: float) -> None:
    near = source(shots.save(tmp_path / "one"), normalize="auto").load().cameras
    shots.save(tmp_path / "other", lambda data: carry_away(data, torch.zeros(3), scale))
    torch.testing.assert_close(source(tmp_path / "other", normalize="auto").load().cameras.c2w, near.c2w)


def test_a_far_capture_as_given_is_refused_unless_it_is_shifted(shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path, carry_away)
    with pytest.raises(InputError, match=r"5\.43e\+06 from the origin.*views\.normalize=auto.*views\.offset"):
        load(tmp_path)
    shots.check(load(tmp_path, offset=(-FAR).tolist()), tolerance=1e-6)


def test_the_log_has_all_digits_of_a_far_world(
    shots: Shots, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    with caplog.at_level(logging.INFO, "liftstudio"):
        one = source(shots.save(tmp_path, carry_away), normalize="auto")
        one.load()
    rows = [[float(value) for value in row.split()] for row in re.findall(r"\[([^][]*)\]", caplog.text)]
    logged = torch.tensor(rows, dtype=torch.float64)
    exact = torch.linalg.inv(one.data_from_world())
    points = FAR + 0.5 * torch.randn(9, 3, dtype=torch.float64)
    assert ((logged[:, :3] - exact[:3, :3]) @ points.T + (logged[:, 3] - exact[:3, 3])[:, None]).abs().max() < 2e-3


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_the_camera_describes_stored_pixels(shots: Shots, tmp_path: Path, orientation: int) -> None:
    """An EXIF orientation turns neither image nor mask nor maps."""
    exif = Image.Exif()
    exif[0x0112] = orientation

    def point(data: dict[str, Any]) -> None:
        for key in ("w", "h"):
            del data[key]
        for frame in data["frames"][1:]:
            frame.update(depth_path="depth.png", normal_path="normal.png")
        data["frames"][0].update(depth_path="plain_depth.png", normal_path="plain_normal.png")

    shots.save(tmp_path, point)
    save_masks(shots, tmp_path)
    values = np.random.default_rng(fresh_seed()).integers(1, 256, (24, 32, 3), dtype=np.uint8)
    for name, pixels in {"depth": values[..., 0], "normal": values}.items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{name}.png", exif=exif)
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"plain_{name}.png")
    for path in [tmp_path / shots.names()[1], tmp_path / shots.names()[2], *(tmp_path / "masks").glob("00[23].png")]:
        Image.open(path).save(path, exif=exif)
    views = load(tmp_path)
    shots.check(views)
    assert views.depths is not None and views.normals is not None
    assert torch.equal(views.depths, views.depths[:1].expand(5, -1, -1, -1))
    back = torch.einsum("vji,vhwj->vhwi", views.cameras.c2w[:, :3, :3], views.normals)
    torch.testing.assert_close(back, back[:1].expand(5, -1, -1, -1), atol=1e-5, rtol=0)


def test_turned_pixels_if_the_camera_has_their_size(shots: Shots, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    shots.save(tmp_path)
    for path in (tmp_path / name for name in shots.names()):
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    shots.check(load(tmp_path))


def crop(shots: Shots, folder: Path, boxes: list[tuple[int, int, int, int]]) -> None:
    """Save a capture of the images cropped to left, top, right, bottom."""

    def resize(data: dict[str, Any]) -> None:
        for frame, (left, top, right, bottom) in zip(data["frames"], boxes, strict=True):
            size = {"w": right - left, "h": bottom - top, "cx": frame["cx"] - left, "cy": frame["cy"] - top}
            frame.update(size, depth_path=f"{Path(frame['file_path']).stem}_depth.png")

    shots.save(folder, resize)
    for i, (name, box) in enumerate(zip(shots.names(), boxes, strict=True)):
        Image.open(folder / name).crop(box).save(folder / name)
        Image.new("L", (box[2] - box[0], box[3] - box[1]), 51).save(folder / f"{i:03d}_depth.png")


BOXES = [(0, 0, 31, 23), (1, 0, 32, 22), (8, 2, 24, 24), (4, 4, 30, 18), (2, 0, 29, 24)]


def test_images_of_several_sizes_are_padded(shots: Shots, tmp_path: Path) -> None:
    crop(shots, tmp_path, BOXES)
    views = load(tmp_path)
    assert views.images.shape == (5, 24, 31, 3) and views.windows is not None and views.depths is not None
    own = [views.cameras[[i]] for i in range(5)]
    for i, (left, top, right, bottom) in enumerate(BOXES):
        window = views.window(i)
        rgba = torch.from_numpy(shots.rgba[i, top:bottom, left:right]).float() / 255
        torch.testing.assert_close(torch.cat([views.images[i], views.masks[i]], -1)[window], rgba)
        torch.testing.assert_close(views.depths[i][window], torch.full_like(rgba[..., :1], 51.0))
        assert views.seen()[i].sum() == (right - left) * (bottom - top) and views.seen()[i][window].all()
        assert views.masks[i][~views.seen()[i]].sum() == 0
        shift = own[i].cx - window[1].start - (shots.cameras.cx[i] - left)
        torch.testing.assert_close(shift, torch.zeros(1), atol=1e-5, rtol=0)
        shift = own[i].cy - window[0].start - (shots.cameras.cy[i] - top)
        torch.testing.assert_close(shift, torch.zeros(1), atol=1e-5, rtol=0)
    chosen = views.select([3, 1])
    assert chosen.window(1) == views.window(1)


def test_padding_keeps_rays_of_reduced_images(shots: Shots, tmp_path: Path) -> None:
    crop(shots, tmp_path, BOXES)
    full, small = load(tmp_path), load(tmp_path, max_size=13)
    assert max(small.images.shape[1:3]) == 13 and small.windows is not None and full.windows is not None
    for name, focal, axis in (("cx", "fx", 0), ("cy", "fy", 1)):
        one, other = (
            (getattr(views.cameras, name) - views.windows[:, axis]) / getattr(views.cameras, focal)
            for views in (full, small)
            if views.windows is not None
        )
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_saved_views_have_no_padding(shots: Shots, tmp_path: Path) -> None:
    crop(shots, tmp_path, BOXES)
    edit(tmp_path, lambda data: [frame.pop("depth_path") for frame in data["frames"]])
    views = load(tmp_path, max_size=25)
    save_views(tmp_path / "saved", views)
    assert Image.open(tmp_path / "saved" / "002.png").size == (16, 22)
    again = load(tmp_path / "saved")
    assert again.windows is not None and views.windows is not None and torch.equal(again.windows, views.windows)
    torch.testing.assert_close(again.masks, views.masks, atol=0.5 / 255 + 1e-6, rtol=0)
    for name in ("c2w", "fx", "fy", "cx", "cy"):
        torch.testing.assert_close(getattr(again.cameras, name), getattr(views.cameras, name))


def test_one_size_needs_no_padding(shots: Shots, tmp_path: Path) -> None:
    assert load(shots.save(tmp_path)).windows is None


def test_padding_counts_for_the_limit_of_pixels(shots: Shots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crop(shots, tmp_path, [(0, 4, 32, 20), (8, 0, 24, 24), *BOXES[2:]])
    monkeypatch.setattr(posed_images, "MAX_TOTAL_PIXELS", 5 * 24 * 32 - 1)
    with pytest.raises(InputError, match=r"32x24 pixels are too many.*views\.max_size"):
        load(tmp_path)


def test_one_picture_for_two_names(shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path)
    (tmp_path / "images" / "001.png").unlink()
    edit(tmp_path, lambda data: data["frames"][1].update(file_path="./images/000.png"))
    with pytest.raises(InputError, match=r"images/000\.png: the capture has it twice, with different poses"):
        load(tmp_path)
    edit(tmp_path, lambda data: data["frames"][1].update(data["frames"][0], file_path="./images/000.png"))
    assert len(load(tmp_path)) == 5  # the same name and pose
    edit(tmp_path, lambda data: data["frames"][1].update(file_path="images/000.jpg"))
    with pytest.raises(InputError, match=r"images/000\.png.*images/000\.jpg"):
        load(tmp_path)


def faulty(name: str, shots: Shots, folder: Path) -> None:
    image = folder / "images" / "002.png"
    rgba = shots.rgba[2].copy()
    if name == "zero alpha":
        rgba[..., 3] = 0
    if name == "truncated":
        image.write_bytes(image.read_bytes()[:200])
    elif name == "empty":
        image.write_bytes(b"")
    elif name == "rotated":
        Image.fromarray(np.rot90(rgba).copy()).save(image)
    elif name == "rgb":
        Image.fromarray(rgba[..., :3].copy()).save(image)
    elif name.startswith("mask"):
        masks = [np.zeros((24, 32), np.uint8)] if name == "mask empty" else [np.full((12, 16), 255, np.uint8)]
        save_masks(shots, folder)
        Image.fromarray(masks[0]).save(folder / "masks" / "002.png")
        if name == "mask missing":
            (folder / "masks" / "002.png").unlink()
    else:
        Image.fromarray(rgba).save(image)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("zero alpha", r"002\.png: no foreground"),
        ("truncated", r"002\.png: not a readable image"),
        ("empty", r"002\.png.*empty"),
        ("rotated", r"002\.png: 24x32.*32x24"),
        ("rgb", r"002\.png: has no alpha and no mask"),
        ("mask empty", r"masks/002\.png: no foreground"),
        ("mask size", r"masks/002\.png: 16x12.*002\.png has 32x24"),
        ("mask missing", r"no mask for the image 002\.png"),
    ],
)
def test_faulty_images(fault: str, message: str, shots: Shots, tmp_path: Path) -> None:
    faulty(fault, shots, shots.save(tmp_path))
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_too_many_pixels_are_refused_at_once(shots: Shots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posed_images, "MAX_TOTAL_PIXELS", 5 * 24 * 32 - 1)
    with pytest.raises(InputError, match=r"views\.max_size"):
        load(shots.save(tmp_path))
    assert len(load(tmp_path, max_size=16)) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.0},
        {"background_threshold": 0.0},
        {"background": "green"},
        {"depth_unit": 0.0},
        {"normalize": "no"},
        {"held_out": 3},
        {"held_out": [0.5]},
        {"offset": [1.0, 2.0]},
        {"masks": "x"},
    ],
)
def test_faulty_options(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"views.{next(iter(options))}"):
        source(tmp_path, **options)

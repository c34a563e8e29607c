"""Masks of posed images: where they are found, and silhouettes from alpha or from a known background."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captures import Shots, load, save_masks, save_rgb, shoot
from PIL import Image
from torch import Tensor

from liftstudio.core.errors import InputError


def test_masks_in_a_folder(shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path)
    save_rgb(shots, tmp_path)
    save_masks(shots, tmp_path)
    shots.check(load(tmp_path))
    save_masks(shots, tmp_path, scale=255)  # written as 0 and 1 of 255
    shots.check(load(tmp_path))


def test_masks_by_path_win_over_alpha(shots: Shots, tmp_path: Path) -> None:
    def point(data: dict[str, Any]) -> None:
        for frame in data["frames"]:
            frame["mask_path"] = "masks/all.png"

    shots.save(tmp_path, point)
    mask = np.zeros((24, 32), np.uint8)
    mask[5:9, 6:20] = 255
    (tmp_path / "masks").mkdir()
    for image in (Image.fromarray(mask), Image.fromarray(np.stack([mask] * 3, -1)), Image.fromarray(mask > 0)):
        image.save(tmp_path / "masks" / "all.png")
        assert torch.equal(
            load(tmp_path).masks, torch.from_numpy(mask > 0).float()[None, ..., None].expand(5, -1, -1, 1)
        )
    transparent = Image.fromarray(np.dstack([np.full((24, 32, 3), 255, np.uint8), mask]))
    transparent.save(tmp_path / "masks" / "all.png")
    assert load(tmp_path).masks.sum() == 5 * 4 * 14


@pytest.mark.parametrize(("color", "level"), [("white", 255), ("black", 0)])
def test_known_background(shots: Shots, tmp_path: Path, color: str, level: int) -> None:
    shots.save(tmp_path)
    save_rgb(shots, tmp_path, level)
    with pytest.raises(InputError, match=r"RGBA.*masks.*views\.background"):
        load(tmp_path)
    views = load(tmp_path, background=color)
    silhouettes = torch.from_numpy(shots.rgba[..., 3:] > 0)
    assert torch.equal(views.masks > 0.5, silhouettes)  # soft along the outline, as a single picture's
    assert (views.masks - silhouettes.float()).abs().mean() < 0.01
    assert load(tmp_path, background=color, background_threshold=0.6).masks.sum() < views.masks.sum()


def test_opaque_alpha_is_no_mask(tmp_path: Path) -> None:
    shots = shoot()
    silhouettes = shots.rgba[..., 3:] > 0
    shots.rgba[:] = np.where(silhouettes, shots.rgba, 255)
    shots.save(tmp_path)
    with pytest.raises(InputError, match=r"000\.png: is opaque everywhere.*views\.background"):
        load(tmp_path)
    for alpha in (255, 254, 128):
        shots.rgba[..., 3] = alpha
        shots.rgba[:, 0, 0, 3] = 0 if alpha == 254 else alpha
        shots.save(tmp_path)
        with pytest.raises(InputError, match=r"000\.png: is opaque everywhere.*views\.background"):
            load(tmp_path)
        assert torch.equal(load(tmp_path, background="white").masks > 0.5, torch.from_numpy(silhouettes))


@pytest.mark.parametrize(("color", "level"), [("white", 255), ("black", 0)])
def test_fringes_of_jpeg_are_no_silhouette(color: str, level: int, tmp_path: Path) -> None:
    def as_jpeg(data: dict[str, Any]) -> None:
        data["frames"] = [{**data["frames"][0], "file_path": "a.jpg"}]

    shoot(2, 96, 128).save(tmp_path, as_jpeg)
    row, column = np.mgrid[:96, :128] + 0.5
    inside = (row - 48) ** 2 + (column - 64) ** 2 < 32**2
    texture = np.random.default_rng(0).integers(0, 200, (12, 16, 3)).repeat(8, 0).repeat(8, 1) + (0 if level else 55)
    picture = np.where(inside[..., None], texture, level).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=75)
    differs = np.abs(np.array(Image.open(tmp_path / "a.jpg")).astype(int) - level).max(-1) > 0.05 * 255
    assert differs.sum() > 1.07 * inside.sum()
    views = load(tmp_path, background=color)
    assert (views.masks[0] > 0.5).sum() < 1.03 * inside.sum()


LEVELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "0 and 7": lambda on: on * np.uint8(7),
    "0 and 128": lambda on: on * np.uint8(128),
    "16 and 235": lambda on: 16 + on * np.uint8(219),
    "16 bits": lambda on: on * np.uint16(1),
    "32 bits": lambda on: on * np.int32(70000),
    "floats": lambda on: on * np.float32(0.2),
    "colours": lambda on: on[..., None] * np.uint8([128, 0, 0]),
    "alpha": lambda on: np.dstack([np.zeros((*on.shape, 3), np.uint8), on * np.uint8(255)]),
    "grey and alpha": lambda on: np.dstack([np.full((*on.shape, 3), 80, np.uint8), on * np.uint8(255)]),
}


@pytest.mark.parametrize("name", LEVELS)
def test_levels_of_masks(name: str, shots: Shots, tmp_path: Path) -> None:
    masks = [LEVELS[name](rgba[..., 3] > 0) for rgba in shots.rgba]
    suffix = "tif" if name in ("floats", "32 bits") else "png"
    shots.save(tmp_path, lambda data: [f.update(mask_path=f"{i}.{suffix}") for i, f in enumerate(data["frames"])])
    for i, mask in enumerate(masks):
        Image.fromarray(mask).save(tmp_path / f"{i}.{suffix}")
    shots.check(load(tmp_path))


def test_a_picture_of_the_object_is_a_mask_by_its_alpha(shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path, lambda data: [f.update(mask_path=f"m{i}.png") for i, f in enumerate(data["frames"])])
    for i, rgba in enumerate(shots.rgba):
        dark = np.array([[[60, 20, 0]], [[0, 0, 0]]], np.uint8).repeat(12, 0)  # red above, black below
        Image.fromarray(np.dstack([dark.repeat(32, 1), rgba[..., 3]])).save(tmp_path / f"m{i}.png")
    shots.check(load(tmp_path))


def test_masks_in_other_files(shots: Shots, tmp_path: Path) -> None:
    def save(suffix: str, write: Callable[[Path, np.ndarray], object]) -> Tensor:
        shots.save(tmp_path, lambda data: [f.update(mask_path=f"{i}{suffix}") for i, f in enumerate(data["frames"])])
        for i, rgba in enumerate(shots.rgba):
            write(tmp_path / f"{i}{suffix}", rgba[..., 3] > 0)
        return load(tmp_path).masks

    def write_palette(path: Path, on: np.ndarray) -> None:
        image = Image.fromarray(on.astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 128, 0, 0])
        image.save(path)

    wanted = torch.from_numpy(shots.rgba[..., 3:] > 0)
    assert torch.equal(save(".npy", np.save), wanted.float())
    assert torch.equal(save(".png", write_palette), wanted.float())
    jpeg = save(".jpg", lambda path, on: Image.fromarray(on * np.uint8(128)).save(path, quality=90))
    assert torch.equal(jpeg > 0.5, wanted)


def test_soft_masks_stay_soft(tmp_path: Path) -> None:
    shots = shoot(2)
    soft = np.zeros((24, 32), np.uint8)
    soft[6:18, 6:26] = 255
    soft[6, 6:26] = np.arange(20) * 12
    shots.save(tmp_path, lambda data: [frame.update(mask_path="m.png") for frame in data["frames"]])
    Image.fromarray(soft).save(tmp_path / "m.png")
    torch.testing.assert_close(load(tmp_path).masks[0, ..., 0], torch.from_numpy(soft).float() / 255)


def test_label_maps_of_several_classes_are_refused(shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path, lambda data: [frame.update(mask_path="m.png") for frame in data["frames"]])
    labels = np.zeros((24, 32), np.uint8)
    labels[4:12, 4:12], labels[12:20, 4:12] = 1, 255
    Image.fromarray(labels).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m\.png: a map of several classes \(0, 1, 255\); expected 0, and one value"):
        load(tmp_path)


@pytest.mark.parametrize("where", ["masks", "alpha"])
def test_inverted_masks(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    shots = shoot()
    for count in (1, 5):
        inverted = shots.rgba.copy()
        inverted[:count, ..., 3] = 255 - inverted[:count, ..., 3]
        Shots(inverted if where == "alpha" else shots.rgba, shots.cameras).save(tmp_path)
        if where == "masks":
            save_masks(Shots(inverted, shots.cameras), tmp_path)
        place = "masks/000.png" if where == "masks" else "images/000.png"
        if count == 1:
            load(tmp_path)
            assert "masks cover the border in 1 of 5 views: inverted?" in caplog.text and place in caplog.text
            continue
        with pytest.raises(InputError, match=rf"{place}: masks cover the border in 5 of 5 views: inverted\?"):
            load(tmp_path)


def test_specks_of_masks_are_dropped(shots: Shots, tmp_path: Path) -> None:
    wanted = shots.rgba.copy()
    area = int((shots.rgba[0, ..., 3] > 0).sum())
    assert area > 100
    shots.rgba[:, 0, 7, 3] = 255
    views = load(shots.save(tmp_path))
    assert torch.equal(views.masks, torch.from_numpy(wanted[..., 3:]).float() / 255)


def test_partly_transparent_views_are_warned_of(shots: Shots, tmp_path: Path, warnings: list[str]) -> None:
    load(shots.save(tmp_path))
    assert not warnings
    shots.rgba[:2, ..., 3] //= 2
    load(shots.save(tmp_path))
    assert "partly transparent in 2 of 5 views" in "\n".join(warnings)
    shots.rgba[2, ..., 3] = 254
    load(shots.save(tmp_path))
    assert "masks are opaque everywhere in 1 of 5 views" in "\n".join(warnings)

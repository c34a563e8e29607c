"""Colours in other spaces than sRGB are converted; values of maps are not."""

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import wide_gamut
from helpers.seeds import fresh_seed
from helpers.wide_gamut import chrm, encoded, gama, grey_profile, png_with, rgb_profile
from PIL import ExifTags, Image, ImageCms

from liftstudio.data.images import load_image, load_values

TOLERANCE = 2.6 / 255  # rounding to 8 bits in the wide space, where steps are up to 1.5 times larger, and back


@pytest.fixture
def srgb() -> np.ndarray:
    """Return colours [24, 32, 3] in [0, 1], neither dark nor pure: 8 bits of a wide space are coarse there."""
    random = np.random.default_rng(fresh_seed())
    return random.uniform(0.3, 0.9, (24, 32, 1)) + random.uniform(-0.1, 0.1, (24, 32, 3))


def png(levels: np.ndarray, *chunks: tuple[bytes, bytes], **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(levels).save(data, "PNG", **options)
    return png_with(data.getvalue(), *chunks)


def adobe_exif(by_color_space: bool) -> Image.Exif:
    exif = Image.Exif()
    rule = {int(ExifTags.IFD.Interop): {int(ExifTags.Interop.InteropIndex): "R03"}}
    color_space = int(ExifTags.Base.ColorSpace)
    exif[ExifTags.IFD.Exif] = {color_space: 2} if by_color_space else {color_space: 0xFFFF, **rule}
    return exif


WAYS: dict[str, Callable[[np.ndarray], bytes]] = {
    "p3 profile": lambda c: png(encoded(c, "p3"), icc_profile=rgb_profile("p3")),
    "adobe profile": lambda c: png(encoded(c, "adobe"), icc_profile=rgb_profile("adobe")),
    "p3 coded": lambda c: png(encoded(c, "p3", None), (b"cICP", bytes([12, 13, 0, 1]))),
    "coded before profile": lambda c: png(encoded(c, "p3", None), (b"cICP", b"\x0c\x0d\0\1"), icc_profile=b"x" * 200),
    "adobe measured": lambda c: png(encoded(c, "adobe"), gama(wide_gamut.GAMMA), chrm("adobe")),
    "primaries alone": lambda c: png(encoded(c, "p3", None), chrm("p3")),
    "gamma alone": lambda c: png(np.rint(255 * wide_gamut.linear(c) ** (1 / 1.4)).astype(np.uint8), gama(1.4)),
    "srgb before gamma": lambda c: png(np.rint(255 * c).astype(np.uint8), (b"sRGB", b"\0"), gama(1.4), chrm("p3")),
    "coded srgb": lambda c: png(np.rint(255 * c).astype(np.uint8), (b"cICP", bytes([1, 13, 0, 1]))),
    "usual gamma": lambda c: png(np.rint(255 * c).astype(np.uint8), gama(2.2)),
    "exif": lambda c: png(encoded(c, "adobe"), exif=adobe_exif(True)),
    "exif interoperability": lambda c: png(encoded(c, "adobe"), exif=adobe_exif(False)),
}


@pytest.mark.parametrize("way", WAYS)
def test_colours_become_srgb(way: str, srgb: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(WAYS[way](srgb))
    assert np.abs(load_image(tmp_path / "a.png")[0].numpy() - srgb).max() < TOLERANCE


@pytest.mark.parametrize("kind", ["jpg", "tif", "webp", "alpha", "palette"])
def test_profiles_of_other_formats_and_modes(kind: str, srgb: np.ndarray, tmp_path: Path) -> None:
    color, profile = srgb[0, 0], rgb_profile("p3")
    flat = np.broadcast_to(encoded(color, "p3"), (24, 32, 3)).copy()
    image, path = Image.fromarray(flat), tmp_path / f"a.{kind if kind in ('jpg', 'tif', 'webp') else 'png'}"
    alpha = np.random.default_rng(fresh_seed()).integers(0, 256, (24, 32), dtype=np.uint8)
    if kind == "alpha":
        image.putalpha(Image.fromarray(alpha))
    image = image.quantize(4) if kind == "palette" else image
    options = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(kind, {})
    image.save(path, icc_profile=profile, **options)
    rgb, loaded_alpha = load_image(path)
    assert np.abs(rgb.numpy() - color).max() < TOLERANCE + (kind == "jpg") / 128
    assert (loaded_alpha is not None) == (kind == "alpha")
    if loaded_alpha is not None:
        assert np.array_equal((loaded_alpha[..., 0] * 255).round().byte().numpy(), alpha)


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_profiles(depth: int, srgb: np.ndarray, tmp_path: Path) -> None:
    most = 2**depth - 1
    levels = np.rint(wide_gamut.linear(srgb[..., 0]) ** (1 / 1.8) * most).astype(f"uint{depth}")
    Image.fromarray(levels).save(tmp_path / "a.png", icc_profile=grey_profile(1.8))
    assert np.abs(load_image(tmp_path / "a.png")[0].numpy() - srgb[..., :1]).max() < TOLERANCE


def test_lab_with_its_profile(
    srgb: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    flat = np.broadcast_to((srgb[0, 0] * 255).round().astype(np.uint8), (24, 32, 3)).copy()
    profile = ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(flat), ImageCms.createProfile("sRGB"), profile, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "a.tif", icc_profile=ImageCms.ImageCmsProfile(profile).tobytes())
    assert np.abs(load_image(tmp_path / "a.tif")[0].numpy() - flat / 255).max() < 0.02  # 8 bits of a and b
    assert not caplog.text


@pytest.mark.parametrize("profile", [b"not a profile" * 20, grey_profile(1.8)])
def test_profiles_that_do_not_fit_are_warned_of(
    profile: bytes, srgb: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    levels = np.rint(255 * srgb).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png(levels, icc_profile=profile))
    assert np.array_equal(np.rint(load_image(tmp_path / "a.png")[0].numpy() * 255), levels)
    assert "colour profile cannot be used" in caplog.text


def test_high_dynamic_range_is_warned_of(
    srgb: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    (tmp_path / "a.png").write_bytes(png(encoded(srgb, "p3"), (b"cICP", bytes([9, 16, 0, 1]))))
    load_image(tmp_path / "a.png")
    assert "cICP 9/16, such as HDR, are read as sRGB" in caplog.text


def test_values_of_maps_are_as_stored(srgb: np.ndarray, tmp_path: Path) -> None:
    levels = encoded(srgb, "p3")
    (tmp_path / "a.png").write_bytes(png(levels, gama(1.4), icc_profile=rgb_profile("p3")))
    assert np.array_equal(load_values(tmp_path / "a.png"), levels)
    metres = np.linspace(1.2, 70000, 24 * 32, dtype=np.float32).reshape(24, 32)
    for suffix, values in (("tif", metres), ("tif", metres.astype(np.int32)), ("png", metres.astype(np.uint16))):
        Image.fromarray(values).save(tmp_path / f"b.{suffix}")
        assert np.array_equal(load_values(tmp_path / f"b.{suffix}")[..., 0], values)
    np.save(tmp_path / "c.npy", np.asfortranarray(metres.astype(np.float64)))
    assert np.array_equal(load_values(tmp_path / "c.npy")[..., 0], metres.astype(np.float64))

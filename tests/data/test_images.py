import struct
import sys
import types
import zlib
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from helpers.seeds import fresh_seed
from PIL import Image, ImageFile

from liftstudio.core.errors import InputError
from liftstudio.data.images import (
    color_depth,
    color_normal,
    grid,
    image_size,
    load_image,
    load_values,
    reduce_image,
    resize_area,
    save_image,
    save_video,
)

HEIGHT, WIDTH = 6, 9


@pytest.fixture
def rgba() -> np.ndarray:
    """Return [6, 9, 4] uint8 with a different colour per pixel, alpha 0, 128 or 255."""
    values = np.random.default_rng(fresh_seed()).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    values[..., 3] = np.resize([0, 128, 255], (HEIGHT, WIDTH))
    return values


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def write_png16(path: Path, values: np.ndarray) -> Path:
    """Write a 16-bit PNG with 1 to 4 channels, after the format's specification."""
    height, width, channels = values.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


def check(path: Path, rgb: np.ndarray, alpha: np.ndarray | None, tolerance: float = 1e-6) -> None:
    loaded, loaded_alpha = load_image(path)
    assert loaded.dtype == torch.float32 and loaded.shape == (*rgb.shape[:2], 3)
    assert image_size(path) == rgb.shape[:2]
    assert np.abs(loaded.numpy() - rgb).max() <= tolerance
    assert (loaded_alpha is None) == (alpha is None)
    if alpha is not None and loaded_alpha is not None:
        assert loaded_alpha.shape == (*rgb.shape[:2], 1)
        assert np.abs(loaded_alpha.numpy()[..., 0] - alpha).max() <= tolerance


def test_eight_bit_modes(tmp_path: Path, rgba: np.ndarray) -> None:
    color, alpha, grey = rgba[..., :3] / 255, rgba[..., 3] / 255, np.repeat(rgba[..., :1], 3, -1) / 255
    check(saved(tmp_path / "a.png", Image.fromarray(rgba)), color, alpha)
    check(saved(tmp_path / "b.png", Image.fromarray(rgba[..., :3])), color, None)
    check(saved(tmp_path / "c.png", Image.fromarray(rgba[..., 0])), grey, None)
    check(saved(tmp_path / "d.png", Image.fromarray(np.ascontiguousarray(rgba[..., [0, 3]]), "LA")), grey, alpha)
    binary = rgba[..., 0] > 127
    check(saved(tmp_path / "e.png", Image.fromarray(binary)), np.repeat(binary[..., None], 3, -1) * 1.0, None)


def test_palettes(tmp_path: Path, rgba: np.ndarray) -> None:
    index = np.random.default_rng(fresh_seed()).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    palette = np.random.default_rng(fresh_seed()).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(palette.tobytes())
    color = palette[index] / 255
    check(saved(tmp_path / "opaque.png", image), color, None)
    check(saved(tmp_path / "one.png", image, transparency=int(index[0, 0])), color, (index != index[0, 0]) * 1.0)
    table = bytes(range(256))
    check(saved(tmp_path / "table.png", image, transparency=table), color, index / 255)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits(tmp_path: Path, channels: int) -> None:
    values = np.random.default_rng(fresh_seed()).integers(0, 65536, (HEIGHT, WIDTH, channels))
    exact = values / 65535
    color = np.repeat(exact[..., :1], 3, -1) if channels < 3 else exact[..., :3]
    # Pillow keeps 16 bits of grey only; for the others it takes the high byte, at most 1/255 off.
    tolerance = 1e-6 if channels == 1 else 1 / 255
    check(write_png16(tmp_path / "a.png", values), color, exact[..., -1] if channels in (2, 4) else None, tolerance)


def test_cmyk_jpeg_keeps_its_colors(tmp_path: Path) -> None:
    for color in [(255, 0, 0), (20, 180, 60), (255, 255, 255), (0, 0, 0)]:
        image = Image.new("RGB", (16, 16), color).convert("CMYK")
        path = saved(tmp_path / "a.jpg", image, quality=100)
        check(path, np.broadcast_to(np.array(color) / 255, (16, 16, 3)), None, tolerance=0.02)  # JPEG rounds


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, rgba: np.ndarray, orientation: int) -> None:
    upright = rgba[..., :3]
    stored = {  # how a camera stores the upright image for each value of the tag (EXIF 2.3, 4.6.4)
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, options in {"a.png": {}, "a.tif": {}, "b.tif": {"compression": "tiff_lzw"}}.items():
        path = saved(tmp_path / name, Image.fromarray(np.ascontiguousarray(stored)), exif=exif, **options)
        check(path, upright / 255, None)
        assert np.abs(load_image(path, upright=False)[0].numpy() - stored / 255).max() < 1e-6
        assert image_size(path, upright=False) == stored.shape[:2]
        grey = saved(tmp_path / name, Image.fromarray(np.ascontiguousarray(stored[..., 0])), exif=exif, **options)
        assert np.array_equal(load_values(grey)[..., 0], stored[..., 0])
        assert np.array_equal(load_values(grey, upright=True)[..., 0], upright[..., 0])


def png_of_size(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 10)
    pack = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pack)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("https://example.org/a.png", "no such image; download it, and give the file"),
        ("[a.png,b.png]", "no such image; several images of one object are given one by one: images.front="),
        ("a.png", "no such image$"),
    ],
)
def test_what_is_no_file_is_advised_on(text: str, advice: str) -> None:
    with pytest.raises(InputError, match=advice):
        load_image(text)


def test_faults_name_the_file(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", Image.effect_noise((64, 64), 50)).read_bytes()
    jpeg = saved(tmp_path / "whole.jpg", Image.effect_noise((64, 64), 50)).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    faults = {
        "empty.png": b"",
        "truncated.png": whole[: len(whole) // 2],
        "header_only.png": whole[:20],
        "flipped.png": bytes(flipped),
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "text.png": b"this is not an image",
        "zero.png": png_of_size(0, 5),
        "large.png": png_of_size(10000, 10000),
        "huge.png": png_of_size(100000, 100000),
    }
    for name, data in faults.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.png").mkdir()
    for name in [*faults, "missing.png", "folder.png"]:
        with pytest.raises(InputError, match=name) as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    for name in ["large.png", "missing.png", "text.png", "empty.png"]:
        with pytest.raises(InputError, match=name):
            image_size(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", r"found a Git LFS pointer of 43 bytes.*run git lfs pull"),
        (b"<html><body>log in</body></html>", "found an HTML page"),
        (b'{"error":"Not found"}', "found a server's error message"),
        (b"Access to model a/b is restricted.", "found a server's error message"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 500, "found a HEIC image; convert it, or pip install pillow"),
        (b"v/1\x01" + b"\0" * 50, "expected a format such as PNG or JPEG, found an OpenEXR image"),
    ],
)
def test_files_that_are_no_images_are_named(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.png").write_bytes(content)
    for read in (load_image, load_values, image_size):
        with pytest.raises(InputError, match=rf"a\.png: not a readable image \(.*{message}"):
            read(tmp_path / "a.png")
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npy: not a readable array \(an? "):
        load_values(tmp_path / "a.npy")


def test_heic_is_read_by_its_library(tmp_path: Path, rgba: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in reads every file of that kind as one picture."""
    pillow_heif = types.ModuleType("pillow_heif")

    class File(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._size, self._mode = (WIDTH, HEIGHT), "RGB"
            self.im = Image.fromarray(rgba[..., :3]).im

    def register() -> None:
        Image.register_open("HEIF", File, lambda head: head[4:12] == b"ftypheic")

    pillow_heif.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", pillow_heif)
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")  # as phones' files are renamed
    check(tmp_path / "photo.jpg", rgba[..., :3] / 255, None)


@pytest.mark.parametrize("values", [np.float32(255), np.float32(-1), np.int32(70000)])
def test_grey_levels_beyond_white_are_refused(values: np.generic, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.full((6, 9), values)))
    with pytest.raises(InputError, match=r"a\.tif: not a readable image \(grey levels from .*; expected 0 to 1\)"):
        load_image(path)


def test_damaged_files_are_not_taken_for_others(tmp_path: Path) -> None:
    data = png_of_size(5, 5)
    (tmp_path / "a.png").write_bytes(data[:29] + b"\0\0\0\0" + data[33:])  # a wrong checksum of the header
    with pytest.raises(InputError, match=r"a\.png: not a readable image \(a PNG image, but damaged\)"):
        load_image(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.array([{}]))
    with pytest.raises(InputError, match=r"a\.npy: not a readable array \(Object arrays"):
        load_values(tmp_path / "a.npy")


def test_thumbnails_of_raw_photographs_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.dng", Image.new("RGB", (8, 6)), format="TIFF", tiffinfo={0x00FE: 1})
    for read in (load_image, load_values, image_size):
        with pytest.raises(InputError, match=r"a\.dng: its first image is a thumbnail"):
            read(path)


def test_resize_area_is_the_mean_of_the_covered_area() -> None:
    image = torch.rand(12, 20, 2)
    blocks = image.reshape(4, 3, 5, 4, 2).mean((1, 3))
    torch.testing.assert_close(resize_area(image, 4, 5), blocks)
    # 5 -> 2 columns: each new one covers two and a half old ones
    row = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])[..., None]
    torch.testing.assert_close(resize_area(row, 1, 2).flatten(), torch.tensor([4.5 / 2.5, 10.5 / 2.5]))
    torch.testing.assert_close(resize_area(image, 12, 20), image)
    smaller = resize_area(image, 5, 7)
    torch.testing.assert_close(smaller.mean((0, 1)), image.mean((0, 1)))


def test_hidden_colors_do_not_bleed_when_reduced() -> None:
    rgb, alpha = torch.zeros(4, 4, 3), torch.zeros(4, 4, 1)
    rgb[..., 1] = 1  # green where it is hidden
    rgb[:, 1:2], alpha[:, 1:2] = torch.tensor([1.0, 0.0, 0.0]), 1  # one red column
    color, mask = reduce_image(rgb, alpha, 2, 2)
    torch.testing.assert_close(mask[..., 0], torch.tensor([[0.5, 0.0], [0.5, 0.0]]))
    torch.testing.assert_close(color[:, 0], torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_save_image_round_trip(tmp_path: Path, channels: int) -> None:
    image = torch.rand(5, 7, channels) * 1.2 - 0.1
    save_image(tmp_path / "new" / "a.png", image)
    rgb, alpha = load_image(tmp_path / "new" / "a.png")
    wanted = image.clamp(0, 1)
    assert (rgb - wanted[..., :3]).abs().max() <= 0.5 / 255 + 1e-6  # one rounding
    if channels == 4:
        assert alpha is not None and (alpha - wanted[..., 3:]).abs().max() <= 0.5 / 255 + 1e-6
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.parametrize(("height", "width"), [(32, 48), (31, 47)])
def test_save_video_round_trip(tmp_path: Path, height: int, width: int) -> None:
    grey = [0.2, 0.5, 0.8]
    save_video(tmp_path / "a.mp4", (torch.full((height, width, 3), value) for value in grey), fps=10)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    meta = next(reader)
    assert meta["codec"] == "h264" and meta["fps"] == 10 and meta["size"] == (width + width % 2, height + height % 2)
    assert "yuv420p" in meta["pix_fmt"]
    frames = [np.frombuffer(frame, np.uint8).mean() / 255 for frame in reader]
    assert np.allclose(frames, grey, atol=0.02)  # video quantises
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_video_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def frames():  # type: ignore[no-untyped-def]
        yield torch.zeros(16, 16, 3)
        raise RuntimeError("rendering failed")

    with pytest.raises(RuntimeError, match="rendering failed"):
        save_video(tmp_path / "a.mp4", frames(), fps=10)
    with pytest.raises(ValueError, match="no frames"):
        save_video(tmp_path / "a.mp4", [], fps=10)
    assert list(tmp_path.iterdir()) == []


def test_grid_places_images_of_several_sizes() -> None:
    red, green = torch.tensor([1.0, 0, 0]).expand(4, 5, 3), torch.tensor([0, 1.0, 0]).expand(2, 3, 3)
    grey = torch.full((3, 6, 1), 0.5)
    picture = grid([[red, green], [grey]])
    assert picture.shape == (7, 9, 3)
    assert torch.equal(picture[:4, :5], red) and torch.equal(picture[:2, 6:9], green) is True
    assert torch.equal(picture[4:7, :6], grey.expand(3, 6, 3))
    assert bool((picture[2:4, 6:] == 1).all())
    labelled = grid([[red, green]], [["red", ""]])
    assert labelled.shape[0] > 4 and bool((labelled[:-4, :5] < 0.9).any()) and bool((labelled[:-4, 6:] == 1).all())


def test_colored_passes() -> None:
    depth = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None]
    picture = color_depth(depth)
    assert picture.shape == (4, 3)
    assert picture[0, 0] == 0 and picture[1, 0] == 1 and picture[1, 0] > picture[2, 0] > picture[3, 0] > 0
    assert bool((color_depth(torch.zeros(2, 2, 1)) == 0).all())
    assert bool((color_depth(torch.tensor([[0.0], [2.0]])) == torch.tensor([[0.0], [1.0]])).all())
    normal = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    wanted = torch.tensor([[0.5, 0.5, 1.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(color_normal(normal), wanted)

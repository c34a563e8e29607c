"""Images: reading, resizing, colouring of render passes, grids, PNG files and videos."""

import contextlib
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import imageio_ffmpeg
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.files import HEIC, NUMPY, READABLE, atomic_path, file_kind
from liftstudio.data.color_spaces import ColorSpace, color_space, png_coding

MAX_PIXELS = 64 * 1024 * 1024  # larger images are rejected before decoding
LABEL_HEIGHT = 16  # pixels above each image of a grid
EXIF_ORIENTATION = 0x0112
NEW_SUBFILE_TYPE = 0x00FE  # TIFF tag; bit 0 marks a reduced version of another image in the file
TURNED_BACK = {  # undoes what an EXIF orientation asks for
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
RANGE_TOLERANCE = 0.01  # of grey levels outside [0, 1] in files of floats, which resizing leaves
PNG_HEAD = 64 * 1024  # bytes in which a PNG's cICP chunk is looked for

T = TypeVar("T")


def load_image(path: Path | str, *, upright: bool = True) -> tuple[Tensor, Tensor | None]:
    """Return an image file as RGB and alpha; reads palette, grey, 16-bit, CMYK and EXIF-rotated files as well.

    Returns sRGB [H, W, 3] and alpha [H, W, 1] (None if the file has none), float32 in [0, 1], straight alpha. Colours
    in another space (ICC profile, PNG's gamma and chromaticities) are converted to sRGB. 16-bit grey keeps its
    precision; Pillow reduces 16-bit colour to 8 bits.

    upright: turn the image as its EXIF orientation says; otherwise the pixels are returned as they are stored.

    Raises:
        InputError: the file is missing, empty, corrupt, truncated, not an image, without pixels, or above MAX_PIXELS.
    """

    def decoded(image: Image.Image) -> tuple[Tensor, Tensor | None]:
        space = color_space(image)
        return _decode(_turned(image, upright), space)

    return _opened(Path(path), decoded)


def load_values(path: Path | str, *, upright: bool = False, finite: bool = True) -> np.ndarray:
    """Return the numbers of a mask or map as stored, [H, W, C]: an image's levels of any depth, or a .npy array.

    No colour profile is applied; only palettes and CMYK become RGB or RGBA.

    upright: turn an image as its EXIF orientation says; otherwise the pixels are returned as they are stored.
    finite: refuse NaN and infinite numbers.

    Raises:
        InputError: as `load_image`; or not an array [H, W] or [H, W, C].
    """
    path = Path(path)
    if path.suffix.lower() != ".npy":
        values = _opened(path, lambda image: _stored(_turned(image, upright)))
    else:
        try:
            with path.open("rb") as file:
                values = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            kind = file_kind(path)
            reason = kind if kind and kind != NUMPY else _reason(error, path)
            raise InputError(f"{path}: not a readable array ({reason})") from None
    values = values[..., None] if values.ndim == 2 else values
    values = values.astype(np.uint8) if values.dtype == bool else values
    if values.ndim != 3 or values.dtype.kind not in "uif" or not values.size:
        raise InputError(f"{path}: expected numbers of shape [H, W], got {values.dtype} {list(values.shape)}")
    if finite and not np.isfinite(values).all():
        raise InputError(f"{path}: expected finite numbers, found NaN or infinite ones")
    return values


def image_size(path: Path | str, *, upright: bool = True) -> tuple[int, int]:
    """Return height and width in pixels of the image that `load_image` would return, from the file's header alone.

    Raises:
        InputError: see `load_image`; faults behind the header are not found.
    """
    return _opened(Path(path), lambda image: _size(image, upright))


def image_format(path: Path | str) -> str:
    """Return the format of an image file by its content, as Pillow names it: "PNG", "JPEG", ...

    Raises:
        InputError: see `load_image`; faults behind the header are not found.
    """
    return _opened(Path(path), lambda image: image.format or "")


def resize_area(image: Tensor, height: int, width: int) -> Tensor:
    """Return an image [H, W, C] reduced to [height, width, C]; each pixel is the exact mean of the area it covers."""
    if image.shape[:2] == (height, width):
        return image
    rows, columns = (_area_weights(old, new) for old, new in zip(image.shape[:2], (height, width), strict=True))
    return torch.einsum("ih,hwc,jw->ijc", rows, image, columns)


def resize_smooth(images: Tensor, height: int, width: int) -> Tensor:
    """Return images [B, H, W, C] resized to [B, height, width, C]: bilinear, antialiased; differentiable."""
    if images.shape[1:3] == (height, width):
        return images
    channels_first = images.permute(0, 3, 1, 2)
    resized = F.interpolate(channels_first, (height, width), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1)


def reduce_image(rgb: Tensor, alpha: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return straight-alpha `rgb` [H, W, 3] and `alpha` [H, W, 1] reduced; transparent pixels' colours do not bleed."""
    smaller = resize_area(torch.cat([rgb * alpha, alpha], dim=-1), height, width)
    reduced = smaller[..., 3:].clamp(0, 1)
    return (smaller[..., :3] / reduced.clamp_min(1e-6)).clamp(0, 1), reduced


def resize_lanczos(
    image: Tensor, height: int, width: int, box: tuple[float, float, float, float] | None = None
) -> Tensor:
    """Return an image [H, W, C] resized to [height, width, C] with a Lanczos filter, antialiased; it may overshoot.

    box: the part to resize: left, top, right, bottom in pixels, fractions allowed, inside the image; None: all of it.
    """
    channels = image.detach().cpu().float().unbind(-1)
    resized = [
        Image.fromarray(channel.numpy()).resize((width, height), Image.Resampling.LANCZOS, box=box)
        for channel in channels
    ]
    return torch.stack([torch.from_numpy(np.array(channel)) for channel in resized], dim=-1)


def straight_from_white(image: Tensor, alpha: Tensor) -> Tensor:
    """Return the straight colour [..., 3] in [0, 1] of an image composited over white; white where `alpha` is 0.

    image: [..., 3] in [0, 1]. alpha: [..., 1].
    """
    return (1 - (1 - image) / alpha.clamp_min(1e-6)).clamp(0, 1).where(alpha > 0, 1.0)


def nearest_filled(image: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Return an image [H, W, C] whose `empty` pixels [H, W] take the colour of the nearest other one, if any."""
    from scipy.ndimage import distance_transform_edt  # slow to import

    if empty.all():
        return image
    rows, columns = distance_transform_edt(empty, return_distances=False, return_indices=True)
    return image[rows, columns]


def to_pillow(image: Tensor) -> Image.Image:
    """Return an image [H, W, C] in [0, 1] as a Pillow image of 8 bits; C is 1, 3 or 4, values outside are clamped."""
    return Image.fromarray(_bytes(image))


def save_image(path: Path | str, image: Tensor) -> None:
    """Write an image [H, W, C] in [0, 1] atomically; C is 1, 3 or 4, values outside are clamped.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        to_pillow(image).save(temporary)


def save_video(path: Path | str, frames: Iterable[Tensor], fps: float) -> None:
    """Write frames [H, W, 3] in [0, 1] of one size as an H.264 mp4 in the widely supported yuv420p format, atomically.

    Frames are consumed one by one, so an iterator may render them on demand. Odd sizes are padded by repeating the last
    row or column.

    Raises:
        ValueError: there are no frames.
        OSError: the file cannot be written.
    """
    encoded = (_bytes(_even(frame)) for frame in frames)
    first = next(encoded, None)
    if first is None:
        raise ValueError("save_video: no frames")
    height, width = first.shape[:2]
    with atomic_path(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary),
            (width, height),
            fps=fps,
            codec="libx264",
            quality=None,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-crf", "18", "-movflags", "+faststart"],
        )
        with contextlib.closing(writer):
            writer.send(None)  # starts ffmpeg
            for frame in itertools.chain([first], encoded):
                writer.send(frame)


def grid(rows: Sequence[Sequence[Tensor]], labels: Sequence[Sequence[str]] | None = None) -> Tensor:
    """Return one image [H, W, 3] of rows of images [h, w, 1 or 3] in [0, 1] of any sizes, on white.

    labels: text above each image, in the structure of `rows`; "" leaves the space empty. None: no space for labels.
    """
    if labels is not None:
        rows = [[_labelled(i, t) for i, t in zip(*row, strict=True)] for row in zip(rows, labels, strict=True)]
    count = max(len(row) for row in rows)
    heights = [max(image.shape[0] for image in row) for row in rows]
    widths = [max(row[j].shape[1] for row in rows if j < len(row)) for j in range(count)]
    canvas = torch.ones(sum(heights), sum(widths), 3)
    tops, lefts = ([0, *itertools.accumulate(sizes)] for sizes in (heights, widths))
    for row, top in zip(rows, tops, strict=False):
        for image, left in zip(row, lefts, strict=False):
            canvas[top : top + image.shape[0], left : left + image.shape[1]] = image.clamp(0, 1)
    return canvas


def color_depth(depth: Tensor) -> Tensor:
    """Return z-depth [..., 1] as a grey image [..., 3]: the nearest point white, the farthest dark, 0 (empty) black."""
    seen = depth > 0
    if not seen.any():
        return torch.zeros_like(depth).expand(*depth.shape[:-1], 3)
    near, far = depth[seen].min(), depth[seen].max()
    grey = 1 - 0.85 * (depth - near) / (far - near).clamp_min(1e-9)
    return torch.where(seen, grey, 0).expand(*depth.shape[:-1], 3)


def color_normal(normal: Tensor) -> Tensor:
    """Return unit normals [..., 3] as colours (n + 1) / 2; zero vectors (no surface) are black."""
    return torch.where(normal.abs().sum(-1, keepdim=True) > 0, 0.5 * normal + 0.5, 0)


def _advice(text: str) -> str:
    """Return what to do where a text that is no image file looks like something else."""
    if re.match(r"https?:/", text):
        return "; download it, and give the file"
    if text.startswith("[") or "," in text:
        return "; several images of one object are given one by one: images.front=a.png images.back=b.png"
    return ""


def _opened(path: Path, use: Callable[[Image.Image], T]) -> T:
    """Return `use(image)` for the image at `path`; every failure becomes an InputError that names the file."""
    if not path.is_file():
        raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such image'}{_advice(str(path))}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the image file is empty")
    try:
        if file_kind(path) == HEIC:
            _read_heic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warning about large images; we have a limit of our own
            # From an open file: Pillow maps files that it opens by name, and then garbles turned TIFFs.
            with path.open("rb") as file, Image.open(file) as image:
                _check_size(path, *image.size)
                if image.getexif().get(NEW_SUBFILE_TYPE, 0) & 1:
                    raise InputError(f"{path}: its first image is a thumbnail, as in raw photographs; convert it")
                if image.format == "PNG" and (coding := png_coding(path.open("rb").read(PNG_HEAD))):
                    image.info["cicp"] = coding
                return use(image)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise a dozen unrelated types for corrupt files
        raise InputError(f"{path}: not a readable image ({_reason(error, path)})") from error


def _read_heic() -> None:
    """Make Pillow read HEIC, if the library for it is installed."""
    with contextlib.suppress(ModuleNotFoundError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        kind = file_kind(path)
        if kind in READABLE:
            return f"{kind}, but damaged"
        way = "; convert it, or pip install pillow-heif" if kind == HEIC else ""
        return f"expected a format such as PNG or JPEG, found {kind}{way}" if kind else "unknown or damaged format"
    return " ".join(str(error).split()) or type(error).__name__


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height == 0:
        raise InputError(f"{path}: the image has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise InputError(f"{path}: {width}x{height} pixels are too many; the limit is {MAX_PIXELS // 2**20} million")


def _size(image: Image.Image, upright: bool) -> tuple[int, int]:
    width, height = image.size
    sideways = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if sideways and upright != _is_turned_by_pillow(image) else (height, width)


def _turned(image: Image.Image, upright: bool) -> Image.Image:
    """Return an opened image as its EXIF orientation says, or as it is stored."""
    if not _is_turned_by_pillow(image):
        return ImageOps.exif_transpose(image) if upright else image
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    image.load()
    return image if upright or orientation not in TURNED_BACK else image.transpose(TURNED_BACK[orientation])


def _is_turned_by_pillow(image: Image.Image) -> bool:
    """Return whether Pillow itself turns an image when it loads it, and states the size that it then has."""
    return image.format == "TIFF"


def _decode(image: Image.Image, space: ColorSpace | None) -> tuple[Tensor, Tensor | None]:
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16-bit grey
        return _grey(np.asarray(image, dtype=np.float32) / 65535, space), None
    if image.mode == "F":
        return _grey(np.asarray(image), space), None
    alpha = None
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        alpha = torch.from_numpy(np.array(opaque.getchannel("A"))).float()[..., None] / 255
        image = image.convert("L") if image.mode in ("LA", "La") else opaque.convert("RGB")
    rgb = space.to_srgb(image) if space else image.convert("RGB")
    return torch.from_numpy(np.array(rgb)).float() / 255, alpha


def _stored(image: Image.Image) -> np.ndarray:
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        image = image.convert("L" if image.mode == "1" else "RGBA" if image.has_transparency_data else "RGB")
    return np.asarray(image)


def _grey(values: np.ndarray, space: ColorSpace | None) -> Tensor:
    if not np.isfinite(values).all():
        raise ValueError("NaN or infinite pixels")
    if values.min() < -RANGE_TOLERANCE or values.max() > 1 + RANGE_TOLERANCE:
        raise ValueError(f"grey levels from {values.min():.4g} to {values.max():.4g} of white; expected 0 to 1")
    rgb = values.clip(0, 1).astype(np.float32)[..., None].repeat(3, -1)
    return torch.from_numpy(space.srgb_values(rgb) if space else rgb)


def _area_weights(old: int, new: int) -> Tensor:
    """Return weights [new, old]: the fraction of each new pixel that each old pixel covers."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    start = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], start + 1) - torch.maximum(edges[:-1, None], start)
    return (overlap.clamp_min(0) * new / old).float()


def _bytes(image: Tensor) -> np.ndarray:
    array = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array)


def _even(frame: Tensor) -> Tensor:
    if frame.shape[0] % 2:
        frame = torch.cat([frame, frame[-1:]])
    return torch.cat([frame, frame[:, -1:]], dim=1) if frame.shape[1] % 2 else frame


def _labelled(image: Tensor, text: str) -> Tensor:
    strip = Image.new("RGB", (image.shape[1], LABEL_HEIGHT), "white")
    ImageDraw.Draw(strip).text((3, 2), text, fill="black", font=ImageFont.load_default(11))
    pixels = torch.from_numpy(np.array(strip)).float() / 255
    return torch.cat([pixels, image.expand(*image.shape[:2], 3)])

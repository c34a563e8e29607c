"""Pictures and videos of a run as data URIs, shrunk to what a page needs."""

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import torch
from PIL import Image

from liftstudio.core.assets import SCHEME, input_path
from liftstudio.core.errors import InputError
from liftstudio.data.images import load_image, to_pillow
from liftstudio.studio.report.record import Record, mapping
from liftstudio.studio.results import Result

QUALITY = 85  # of WebP
INPUT_PIXELS = 400  # along the longer side
SHEET_PIXELS = 1400
STILL_PIXELS = 200
MOST_VIEWS = 12  # thumbnails of a capture
VIDEO_BYTES = 1_000_000  # upper limit for an embedded video


@dataclass(frozen=True)
class Picture:
    """An embedded picture; `link`: the whole file, relative to the page; empty: none."""

    uri: str
    width: int
    height: int
    caption: str = ""
    link: str = ""


@dataclass(frozen=True)
class Video:
    """A video; `uri` is empty if it is too large to be embedded, and then only the link is shown."""

    uri: str
    link: str


def data_uri(data: bytes, kind: str) -> str:
    """Return a data URI of bytes of a media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(image: Image.Image, longest: int, caption: str = "", link: str = "") -> Picture:
    """Return a picture reduced to `longest` pixels along its longer side, if it is larger."""
    small = image.convert("RGBA" if image.has_transparency_data else "RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=QUALITY)
    return Picture(data_uri(file.getvalue(), "image/webp"), *small.size, caption, link)


def file_picture(record: Record, name: str, longest: int = SHEET_PIXELS, caption: str = "") -> Picture | None:
    """Return a picture of the run folder, if it is there; a damaged one is noted."""
    path = record.folder.path / name
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            return picture(image, longest, caption, quote(name))
    except (OSError, ValueError) as error:
        record.notes.append(f"{name}: not readable ({error})")
        return None


def file_video(record: Record, name: str, limit: int = VIDEO_BYTES) -> Video | None:
    """Return a video of the run folder, if it is there."""
    path = record.folder.path / name
    if not path.is_file():
        return None
    is_small = path.stat().st_size <= limit
    return Video(data_uri(path.read_bytes(), "video/mp4") if is_small else "", quote(name))


def input_pictures(record: Record, longest: int = INPUT_PIXELS) -> list[Picture]:
    """Return the user's pictures, each with its label and file name, as far as they are still there."""
    named = {label: str(path) for label, path in mapping(record.config, "images").items()}
    if record.config.get("image"):
        named = {"": str(record.config["image"])}
    found = []
    for label, text in named.items():
        path = input_path(text)
        try:
            rgb, alpha = load_image(path)
            is_packaged = text.startswith(SCHEME)  # its time is that of the installation
            if not is_packaged and path.stat().st_mtime > record.folder.config.stat().st_mtime:
                record.notes.append(
                    f"{text}: the picture has changed since the run began; the report shows it as it is now"
                )
        except (InputError, OSError) as error:
            record.notes.append(f"input picture: {error}")
            continue
        pixels = rgb if alpha is None else torch.cat([rgb, alpha], dim=-1)
        found.append(picture(to_pillow(pixels), longest, f"{label}: {path.name}" if label else path.name))
    return found


def views(record: Record) -> list[Picture]:
    """Return some of a capture's views, which the run folder holds with its inputs alone."""
    try:
        images = Result(record.folder).views
    except InputError as error:
        record.notes.append(str(error))
        return []
    chosen = images[:: -(-len(images) // MOST_VIEWS) or 1]
    return [picture(image, STILL_PIXELS) for image in chosen]


def stills(record: Record, kind: str = "*", longest: int = STILL_PIXELS) -> list[Picture]:
    """Return the stills of the test stage, all or of one pass, with their azimuths and passes."""
    names = sorted(path.stem for path in record.folder.test.glob(f"stills/*_{kind}.png"))
    found = [file_picture(record, f"test/stills/{name}.png", longest, f"{name[:3]}°, {name[4:]}") for name in names]
    return [each for each in found if each is not None]


def relative_link(path: Path, start: Path) -> str:
    """Return the address of a file for a page in the folder `start`; empty if there is none."""
    try:
        return quote(Path(os.path.relpath(path.resolve(), start.resolve())).as_posix())
    except ValueError:  # another drive
        return ""

"""Environment maps: images of radiance in all directions, in Radiance HDR files; see `directions.equirectangular`."""

import re
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write, file_kind
from liftstudio.data.images import MAX_PIXELS

HEAD = 4096  # bytes in which the size of an HDR file is looked for
SIZE = re.compile(rb"\n\n-Y (\d+) \+X (\d+)\n")


def read_environment(path: Path) -> Tensor:
    """Return the linear radiance [H, 2H, 3] of a Radiance HDR file.

    Raises:
        InputError: the file is missing, damaged, too large, of another format, or not twice as wide as high.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    data = path.read_bytes()
    if not data.startswith(b"#?"):
        kind = file_kind(path) or "another format"
        raise InputError(f"{path}: expected an environment map as Radiance HDR (.hdr), found {kind}")
    size = SIZE.search(data[:HEAD])
    if size is None:
        raise InputError(f"{path}: the HDR file does not state its size as -Y height +X width, as it should")
    height, width = int(size[1]), int(size[2])
    if width != 2 * height or not height:
        wanted = "an environment map is twice as wide as high (equirectangular)"
        raise InputError(f"{path}: {wanted}, got {width} x {height}")
    if width * height > MAX_PIXELS:
        raise InputError(f"{path}: {width} x {height} pixels are above the limit of {MAX_PIXELS}")
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    except cv2.error:
        decoded = None
    if decoded is None or decoded.shape[:2] != (height, width) or not np.isfinite(decoded).all():
        raise InputError(f"{path}: not a readable HDR file (damaged or truncated)")
    return torch.from_numpy(decoded[..., ::-1].astype(np.float32))


def save_environment(path: Path, radiance: Tensor) -> None:
    """Write linear radiance [H, W, 3] >= 0 as a Radiance HDR file, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    done, data = cv2.imencode(".hdr", np.ascontiguousarray(radiance.numpy()[..., ::-1], np.float32))
    assert done
    atomic_write(path, data.tobytes())

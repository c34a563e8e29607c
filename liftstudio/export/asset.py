"""A finished object, ready to be written to mesh files."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from liftstudio.data.mesh import Mesh
from liftstudio.export.options import TextureFormat
from liftstudio.export.unwrap import UvMesh

Bytes = NDArray[np.uint8]

MOMENT = (1980, 1, 1, 0, 0, 0)  # of all files in an archive, so that its bytes repeat
METALLIC, ROUGHNESS = 0.0, 1.0  # the material of all files: a rough dielectric
JPEG_QUALITY, WEBP_QUALITY = 92, 90


@dataclass(frozen=True)
class Skin:
    """The textures of a surface; images [size, size, C] have row 0 at the top.

    uv_mesh:    the surface, cut along the seams.
    normals:    [V, 3] at the vertices of `uv_mesh`, world space.
    color:      [size, size, 3] sRGB.
    normal_map: [size, size, 3] tangent-space normals as (n + 1) / 2, +y towards the top of the image; None: none.
    tangents:   [V, 4] of `uv_mesh` where there is a normal map: unit tangent, world space, and the bitangent's sign.
    occlusion:  [size, size] unoccluded share of the surroundings; None: none.
    """

    uv_mesh: UvMesh
    normals: Tensor
    color: Bytes
    normal_map: Bytes | None = None
    tangents: Tensor | None = None
    occlusion: Bytes | None = None


@dataclass(frozen=True)
class Asset:
    """One object in world coordinates.

    name:    stem of its files.
    surface: the mesh, not cut along seams.
    normals: [V, 3] unit vertex normals of `surface`.
    colors:  [V, 3] sRGB at its vertices.
    skin:    None: the colour is that of the vertices.
    quads:   whether faces after one another are halves of quads, see `polygons`.
    """

    name: str
    surface: Mesh
    normals: Tensor
    colors: Bytes
    skin: Skin | None = None
    quads: bool = False


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file; `save` and `format` are as in Pillow, so that trimesh stores them unchanged.

    format: "PNG", "JPEG" or "WEBP".
    """

    data: bytes
    format: str

    @property
    def suffix(self) -> str:
        """The suffix of a file of these bytes, with the dot."""
        return f".{self.format.lower()}"

    def save(self, fp: io.BytesIO, format: str) -> None:
        """Write the bytes; `format` is not used."""
        fp.write(self.data)


def encoded(image: Bytes, texture_format: TextureFormat, *, lossless: bool = False) -> EncodedImage:
    """Return an image [H, W] or [H, W, 3] as a file; lossless: JPEG is replaced by PNG, and WebP keeps all bits."""
    file, name = io.BytesIO(), texture_format.upper()
    if texture_format == "webp":
        Image.fromarray(image).save(file, name, lossless=lossless, quality=100 if lossless else WEBP_QUALITY)
    elif texture_format == "jpeg" and not lossless:
        Image.fromarray(image).save(file, name, quality=JPEG_QUALITY, subsampling=0)
    else:
        name = "PNG"
        Image.fromarray(image).save(file, name)
    return EncodedImage(file.getvalue(), name)


def widely_read(texture_format: TextureFormat) -> TextureFormat:
    """Return the texture format for files that may not contain WebP."""
    return "png" if texture_format == "webp" else texture_format

"""Charts from xatlas: a script that `unwrap` runs in a separate process; imports only numpy and xatlas.

The destructor of an Atlas wakes its threads and joins them, but occasionally the wake-up is lost and it waits for ever.
So every Atlas is kept alive until the process ends by `os._exit`, which runs no destructors.
"""

import io
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xatlas
from numpy.typing import NDArray

# xatlas takes more than linear time and reports no progress, so it gets the surface in pieces of at most this many
# faces. That is faster, shows progress, and was not found to increase the number of charts.
FACES_PER_PIECE = 4096
# The scale of the charts (1: they would cover the texture without waste) is found by bisection between MIN_SCALE and
# 1, in this many steps. If not even MIN_SCALE fits, because charts are very many, the gutters are narrowed.
HALVINGS = 5
MIN_SCALE = 0.3

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_kept: list[xatlas.Atlas] = []  # every Atlas, so that none is destroyed


@dataclass(frozen=True)
class _Piece:
    """A subset of a mesh's faces, cut into charts."""

    face_list: Ints  # [n] indices of the faces in the whole mesh
    faces: Ints  # [n, 3] the same faces, as indices into `source` and `uv`
    source: Ints  # [v] vertex of the whole mesh
    uv: Floats  # [v, 2] texels


def main() -> None:
    """Unwrap the mesh on standard input; command-line arguments: `texture_size` and `gutter`, in texels.

    Input:  npz with vertices [V, 3] float32, texels, and faces [F, 3] int64.
    Output: lines with the completed fraction in [0, 1]; then, if the charts fit, an empty line and an npz with
            faces [F, 3] int64 into the cut vertices, source [v] int64 into the uncut ones, uv [v, 2] float32 in
            texels without the gutter along the border, and the numbers charts and gutter.
    """
    texture_size, gutter = map(int, sys.argv[1:])
    mesh = np.load(sys.stdin.buffer)
    texels, faces = mesh["vertices"], mesh["faces"]
    face_lists = list(_split(texels[faces].mean(1), np.arange(len(faces))))
    pieces = []
    for face_list in face_lists:
        pieces.append(_cut(texels, faces, face_list))
        _write(f"{0.9 * len(pieces) / len(face_lists)}\n".encode())
    packed = _packed(pieces, texture_size, gutter)
    if packed:
        _write(b"1.0\n\n" + _archive(*packed, len(faces)))


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _archive(pieces: list[_Piece], charts: int, gutter: int, face_count: int) -> bytes:
    file = io.BytesIO()
    np.savez(
        file,
        faces=_joined_faces(pieces, face_count),
        source=np.concatenate([piece.source for piece in pieces]),
        uv=np.concatenate([piece.uv for piece in pieces]),
        charts=charts,
        gutter=gutter,
    )
    return file.getvalue()


def _split(centres: Floats, face_list: Ints) -> Iterator[Ints]:
    """Split the faces in half along the longest side of their bounds until no list exceeds FACES_PER_PIECE."""
    if len(face_list) <= FACES_PER_PIECE:
        yield face_list
        return
    axis = np.ptp(centres[face_list], axis=0).argmax()
    along = face_list[np.argsort(centres[face_list, axis], kind="stable")]
    yield from _split(centres, along[: len(along) // 2])
    yield from _split(centres, along[len(along) // 2 :])


def _cut(texels: Floats, faces: Ints, face_list: Ints) -> _Piece:
    """Cut some faces of a mesh with vertices in texels into charts (xatlas ignores areas below 1e-7)."""
    source, local = np.unique(faces[face_list], return_inverse=True)
    atlas = _kept_atlas()
    atlas.add_mesh(texels[source].astype(np.float32), local.reshape(-1, 3).astype(np.uint32))
    atlas.generate(xatlas.ChartOptions(), _pack_options(padding=1, scale=1.0))
    return _placed(atlas, 0, face_list, source)


def _packed(pieces: list[_Piece], texture_size: int, gutter: int) -> tuple[list[_Piece], int, int] | None:
    """Pack the charts of all pieces, at one scale, into the texture without a gutter along its border.

    Returns the pieces with packed coordinates, the number of charts, and the gutter, halved until the charts fit; None
    if they do not fit even without a gutter.
    """
    while True:
        atlas = _largest_fit(pieces, texture_size - 2 * gutter, 2 * gutter, MIN_SCALE if gutter else 0.01)
        if atlas:
            placed = [_placed(atlas, i, piece.face_list, piece.source) for i, piece in enumerate(pieces)]
            return placed, atlas.chart_count, gutter
        if gutter == 0:
            return None
        gutter //= 2


def _largest_fit(pieces: list[_Piece], size: int, gap: int, min_scale: float) -> xatlas.Atlas | None:
    """The packing into one square of `size` texels at the largest scale found; None if `min_scale` does not fit."""
    fitting, low, high = _packed_once(pieces, size, gap, min_scale), min_scale, 1.0
    for _ in range(HALVINGS if fitting else 0):
        middle = (low + high) / 2
        atlas = _packed_once(pieces, size, gap, middle)
        if atlas:
            fitting, low = atlas, middle
        else:
            high = middle
    return fitting


def _packed_once(pieces: list[_Piece], size: int, gap: int, scale: float) -> xatlas.Atlas | None:
    atlas = _kept_atlas()
    for piece in pieces:
        atlas.add_uv_mesh(piece.uv, piece.faces.astype(np.uint32))
    atlas.generate(xatlas.ChartOptions(), _pack_options(gap, scale, size))
    return atlas if atlas.atlas_count <= 1 else None


def _kept_atlas() -> xatlas.Atlas:
    _kept.append(xatlas.Atlas())
    return _kept[-1]


def _pack_options(padding: int, scale: float, size: int = 0) -> xatlas.PackOptions:
    """Packing options; padding: texels between charts; scale: texels per unit; size: texels per side, 0: as needed."""
    options = xatlas.PackOptions()
    options.resolution = size
    options.padding = padding
    options.texels_per_unit = scale
    options.bilinear = False  # no extra padding: `padding` is the whole gap
    return options


def _placed(atlas: xatlas.Atlas, index: int, face_list: Ints, source: Ints) -> _Piece:
    vertex, faces, uv = atlas[index]
    # Faces without area are in no chart; their coordinates are zero, or NaN if the atlas is empty.
    texels = np.nan_to_num(uv * np.array([atlas.width, atlas.height], np.float32))
    return _Piece(face_list, faces.astype(np.int64), source[vertex], texels)


def _joined_faces(pieces: list[_Piece], count: int) -> Ints:
    """Faces [count, 3] of all pieces in their original order, as indices into the concatenated vertices."""
    faces, offset = np.empty((count, 3), np.int64), 0
    for piece in pieces:
        faces[piece.face_list] = piece.faces + offset
        offset += len(piece.source)
    return faces


if __name__ == "__main__":
    status = 0
    try:
        main()
    except BaseException:
        traceback.print_exc()  # to standard error, which is not buffered
        status = 1
    os._exit(status)

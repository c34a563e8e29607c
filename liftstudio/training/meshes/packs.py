"""Packs of textured meshes, on disk and in memory."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liftstudio.core.errors import InputError
from liftstudio.core.files import ZIP, file_kind

ARRAYS = {"v": ("f", 3), "uv": ("u", 2), "f": ("iu", 3), "tex": ("u", 0), "pal": ("u", 3)}  # dtype kinds, columns
OFFSETS = {"v_off": "v", "f_off": "f", "tex_off": "tex", "pal_off": "pal"}  # the array that each indexes
UV_STEPS = 65535


@dataclass(frozen=True)
class StoredMesh:
    """A textured mesh as stored in a pack: z up, front +x, at any position and scale.

    vertices: [V, 3] float32.  faces: [F, 3] int32, of either winding.
    uv:       [V, 2] float32 in [0, 1], v runs downwards from the first row.
    texels:   [h, w] uint8, indices into `palette`; a texture with a single row is not interpolated.
    palette:  [P, 3] uint8 sRGB.
    """

    name: str
    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    uv: NDArray[np.float32]
    texels: NDArray[np.uint8]
    palette: NDArray[np.uint8]


@dataclass(frozen=True)
class Pack:
    """N meshes of one file. `arrays` are those of the file; the mesh in row i owns rows off[i] to off[i + 1]."""

    name: str
    ids: list[str]
    rows: list[int]
    arrays: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, indices: list[int]) -> "Pack":
        """Return the pack of the meshes at `indices`."""
        return Pack(self.name, [self.ids[i] for i in indices], [self.rows[i] for i in indices], self.arrays)

    def mesh(self, index: int) -> StoredMesh:
        """Return the mesh at `index`."""
        row = self.rows[index]
        height, width = self.arrays["tex_hw"][row]
        return StoredMesh(
            self.ids[index],
            self._cut("v", "v_off", row).astype(np.float32),
            self._cut("f", "f_off", row).astype(np.int32),
            self._cut("uv", "v_off", row).astype(np.float32) / np.float32(UV_STEPS),
            self._cut("tex", "tex_off", row).reshape(height, width),
            self._cut("pal", "pal_off", row),
        )

    def _cut(self, name: str, offsets: str, row: int) -> NDArray[Any]:
        return self.arrays[name][self.arrays[offsets][row] : self.arrays[offsets][row + 1]]


def pack_of(name: str, meshes: Sequence[StoredMesh]) -> Pack:
    """Build a pack of meshes; its arrays are those of a file, except for wider types of vertices and faces."""
    uv = [np.rint(mesh.uv.clip(0, 1) * UV_STEPS).astype(np.uint16) for mesh in meshes]
    parts = {
        "v": [mesh.vertices for mesh in meshes],
        "uv": uv,
        "f": [mesh.faces for mesh in meshes],
        "tex": [mesh.texels.ravel() for mesh in meshes],
        "pal": [mesh.palette for mesh in meshes],
    }
    arrays: dict[str, NDArray[Any]] = {key: np.concatenate(rows) for key, rows in parts.items()}
    arrays |= {key: np.cumsum([0, *map(len, parts[target])]) for key, target in OFFSETS.items()}
    arrays["tex_hw"] = np.array([mesh.texels.shape for mesh in meshes], np.int32)
    return Pack(name, [mesh.name for mesh in meshes], list(range(len(meshes))), arrays)


def read_pack(path: Path) -> Pack:
    """Read and check a pack.

    Raises:
        InputError: names the file, and the mesh if it is at fault: not a pack, arrays that do not fit together, indices
            out of range, non-finite values, a mesh without faces or without texture.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("ids", "tex_hw", *ARRAYS, *OFFSETS)}
    except KeyError as error:
        raise InputError(f"{path}: not a pack of meshes: it has no array {str(error.args[0]).split()[0]}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        kind = file_kind(path) if path.is_file() else ""
        raise InputError(f"{path}: not a readable pack of meshes: {error if kind in ('', ZIP) else kind}") from None
    for name in OFFSETS:
        if arrays[name].dtype.kind in "iu":
            arrays[name] = arrays[name].astype(np.int64)  # differences of unsigned offsets would never be negative
    ids = arrays.pop("ids")
    if ids.dtype.kind != "U" or ids.ndim != 1 or len(set(ids.tolist())) != len(ids):
        raise InputError(f"{path}: ids: expected unique strings")
    pack = Pack(path.stem, ids.tolist(), list(range(len(ids))), arrays)
    _check_arrays(pack, path)
    _check_meshes(pack, path)
    return pack


def _check_arrays(pack: Pack, path: Path) -> None:
    """Raise an InputError if types, shapes or offsets are wrong."""
    arrays = pack.arrays
    for name, (kinds, columns) in ARRAYS.items():
        array = arrays[name]
        if array.dtype.kind not in kinds or array.shape[1:] != ((columns,) if columns else ()) or array.ndim < 1:
            raise InputError(
                f"{path}: {name}: {array.dtype} {list(array.shape)} is not the dtype and shape of this array in a pack"
            )
    for name in ("tex", "pal"):
        if arrays[name].dtype != np.uint8:
            raise InputError(f"{path}: {name}: expected uint8, got {arrays[name].dtype}")
    if arrays["uv"].dtype != np.uint16 or len(arrays["uv"]) != len(arrays["v"]):
        raise InputError(f"{path}: uv: expected uint16 and one row for each row of v")
    for name, target in OFFSETS.items():
        offsets = arrays[name]
        is_sound = offsets.dtype.kind in "iu" and offsets.shape == (len(pack) + 1,)
        if not (is_sound and offsets[0] == 0 and offsets[-1] == len(arrays[target]) and (np.diff(offsets) >= 0).all()):
            raise InputError(
                f"{path}: {name}: expected {len(pack) + 1} offsets that increase from 0 to the length of {target}"
            )
    if arrays["tex_hw"].dtype.kind not in "iu" or arrays["tex_hw"].shape != (len(pack), 2):
        raise InputError(f"{path}: tex_hw: expected integer height and width of {len(pack)} textures")


def _check_meshes(pack: Pack, path: Path) -> None:
    """Raise an InputError for the first mesh that cannot be rendered."""
    arrays = pack.arrays
    counts = {target: np.diff(arrays[name]) for name, target in OFFSETS.items()}
    height, width = arrays["tex_hw"].astype(np.int64).T
    faces = arrays["f"].astype(np.int64)
    problems = {
        "it has no faces": counts["f"] == 0,
        "it has no texture": (counts["tex"] == 0) | (counts["pal"] == 0),
        "its texture does not have the size given by tex_hw": (height * width != counts["tex"]) | (height < 1),
        "its vertices are not finite": _any((~np.isfinite(arrays["v"])).sum(1) > 0, arrays["v_off"]),
        "its faces refer to missing vertices": _largest(faces.max(1), arrays["f_off"]) >= counts["v"],
        "its faces have negative vertex indices": _any((faces < 0).sum(1) > 0, arrays["f_off"]),
        "its texels refer to missing colours": _largest(arrays["tex"], arrays["tex_off"]) >= counts["pal"],
    }
    for problem, is_wrong in problems.items():
        if is_wrong.any():
            raise InputError(f"{path}: {pack.ids[int(is_wrong.argmax())]}: {problem}")


def _any(flags: NDArray[np.bool_], offsets: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return [N]: whether any flag is set among the rows of each mesh."""
    total = np.concatenate([[0], np.cumsum(flags)])
    return np.diff(total[offsets]) > 0


def _largest(values: NDArray[np.integer], offsets: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return [N]: the largest value among the rows of each mesh; -1 for a mesh without rows."""
    largest = np.full(len(offsets) - 1, -1, np.int64)
    filled = np.diff(offsets) > 0
    if filled.any():
        largest[filled] = np.maximum.reduceat(values, offsets[:-1][filled])
    return largest

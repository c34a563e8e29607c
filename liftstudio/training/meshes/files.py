"""A folder of the user's own mesh files as a pack: few faces, and one small texture for each."""

import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree
from torch import Tensor

from liftstudio.core.cache import cached, content_key, file_digest
from liftstudio.core.errors import InputError
from liftstudio.core.logs import WorkProgress
from liftstudio.data.mesh import Mesh
from liftstudio.data.mesh_io import read_mesh
from liftstudio.export.bake import bake_texture, surface_texels
from liftstudio.export.cleanup import decimate, vertex_normals
from liftstudio.export.unwrap import unwrap_mesh
from liftstudio.synthetic.assembly import Floats
from liftstudio.training.meshes.packs import Pack, StoredMesh, pack_of
from liftstudio.training.meshes.posing import canonical

SUFFIXES = (".glb", ".obj", ".ply")
FACES = 4000  # of an object at most, after decimation
TEXTURE = 128  # texels across
VERSION = 2  # of this way to read a file: another one reads all files anew
_GUTTER = 2  # texels between charts, half of it
_SAMPLES = 100_000  # points on the surface that colours are taken at
_COLORS = 256
_GREY = 160  # of what has no colour at all
_MTLLIB = re.compile(r"^[ \t]*mtllib[ \t]+(.*\S)", re.IGNORECASE | re.MULTILINE)
_MAP_KD = re.compile(r"^[ \t]*map_kd[ \t]+(.*\S)", re.IGNORECASE | re.MULTILINE)
_IN_PLACE = {"-s": r"1(\.0*)?", "-o": r"-?0(\.0*)?", "-t": r"-?0(\.0*)?"}  # options of a texture that do nothing


def find_files(folder: Path) -> list[Path]:
    """The mesh files in a folder, at any depth, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def read_files(folder: Path) -> Pack:
    """All mesh files of a folder, named by their paths in it; kept in the cache until one of its files changes.

    Raises:
        InputError: naming the file: not readable, without faces, without a material library or a texture that it asks
            for, or with a texture that is to be scaled or moved.
    """
    found = find_files(folder)
    digests = {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}

    def make() -> dict[str, Any]:
        meshes = []
        with WorkProgress("objects") as progress:
            for number, path in enumerate(found):
                progress(str(path.relative_to(folder)), number / len(found))
                meshes.append(read_file(path, str(path.relative_to(folder))))
        return {name: torch.from_numpy(array) for name, array in pack_of("files", meshes).arrays.items()}

    kept = cached("objects", content_key({"version": VERSION, "files": digests}), make)
    names = [str(path.relative_to(folder)) for path in found]
    return Pack("files", names, list(range(len(names))), {name: tensor.numpy() for name, tensor in kept.items()})


def read_file(path: Path, name: str) -> StoredMesh:
    """A mesh file, decimated, unwrapped anew, with the colours of the nearest points of its surface.

    A GLB is y-up, front +z, by its specification; the others are taken as z-up, front +x.

    Raises:
        InputError: see `read_files`.
    """
    mesh = read_mesh(path)
    points, colors = _colored_points(path)
    if path.suffix.lower() == ".glb":  # `read_mesh` makes the front -y
        mesh = Mesh(torch.stack([-mesh.vertices[:, 1], mesh.vertices[:, 0], mesh.vertices[:, 2]], dim=1), mesh.faces)
        points = points[:, [2, 0, 1]]
    tree = cKDTree(points)

    def albedo(places: Tensor, _: Tensor) -> Tensor:
        return torch.from_numpy(colors[tree.query(places.numpy())[1]]).float() / 255

    try:
        unwrapped = unwrap_mesh(decimate(mesh, FACES), TEXTURE, _GUTTER)
        texture = bake_texture(albedo, surface_texels(unwrapped, vertex_normals(unwrapped.mesh), TEXTURE))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    reduced = Image.fromarray(texture).quantize(_COLORS, dither=Image.Dither.NONE)
    palette = np.array(reduced.getpalette(), np.uint8).reshape(-1, 3)
    uv = unwrapped.uv.numpy() * [1.0, -1.0] + [0.0, 1.0]
    vertices, faces = canonical(unwrapped.mesh.vertices.numpy()), unwrapped.mesh.faces.numpy()
    return StoredMesh(
        name, vertices.astype(np.float32), faces.astype(np.int32), uv.astype(np.float32), np.asarray(reduced), palette
    )


def _colored_points(path: Path) -> tuple[Floats, NDArray[np.uint8]]:
    """Points [N, 3] over the surface, in the file's axes, and their colours [N, 3]."""
    try:
        with warnings.catch_warnings(action="ignore"):
            scene = _load_obj(path) if path.suffix.lower() == ".obj" else trimesh.load_scene(path, process=False)
            parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
            area = np.array([part.area for part in parts])
            counts = np.ceil(_SAMPLES * area / max(area.sum(), 1e-30)).astype(int) + 3
            drawn = [_sampled(part, count, path) for part, count in zip(parts, counts, strict=True)]
    except InputError:
        raise
    except Exception as error:  # trimesh raises whatever its parsers stumble over
        raise InputError(f"{path}: its colours cannot be read ({type(error).__name__}: {error})") from error
    points, colors = zip(*drawn, strict=True)
    return np.concatenate(points), np.concatenate(colors)


def _load_obj(path: Path) -> trimesh.Scene:
    """An OBJ with its materials; trimesh by itself reads one library, and says nothing of files that it does not find.

    So it is given a single library that holds all of them, with the whole paths of the textures.
    """
    text = path.read_text(errors="replace")
    textures: dict[str, bytes] = {}

    def with_whole_paths(library: Path) -> str:
        def whole(setting: re.Match[str]) -> str:
            texture = _texture(setting[1], library, path)
            textures[str(texture)] = texture.read_bytes()
            return f"map_Kd {texture}"

        return _MAP_KD.sub(whole, library.read_text(errors="replace"))

    libraries = [library for names in _MTLLIB.findall(text) for library in _split_libraries(names, path)]
    materials = "\n".join(map(with_whole_paths, libraries)).encode()
    file = io.BytesIO(f"mtllib all\n{text}".encode())
    return trimesh.load_scene(file, "obj", resolver={"all": materials, **textures}, process=False)


def _split_libraries(names: str, path: Path) -> list[Path]:
    """The material libraries that a line of an OBJ names."""
    found = []
    while names:
        names, library = _split_last(names, path.parent, path)
        found.append(library)
    return found


def _texture(setting: str, library: Path, path: Path) -> Path:
    """The texture that a material has: the last of its setting, after options.

    Raises:
        InputError: it is not there, or is to be scaled or moved.
        OSError: it is no picture that can be read.
    """
    options, texture = _split_last(setting, library.parent, path)
    in_place = None
    for word in options.split():
        if re.match("-[a-z]", word):
            in_place = _IN_PLACE.get(word)
        elif in_place and not re.fullmatch(in_place, word):
            raise InputError(f"{path}: {texture.name} is to be scaled or moved ({options}), which is not supported")
    Image.open(texture).close()
    return texture


def _split_last(names: str, folder: Path, path: Path) -> tuple[str, Path]:
    """What comes before the last file that is named, and that file; names may hold spaces.

    Raises:
        InputError: there is no such file, which the OBJ `path` wants.
    """
    for word in re.finditer(r"\S+", names):
        file = folder / names[word.start() :]
        if file.is_file():
            return names[: word.start()].strip(), file
    raise InputError(f"{path}: it names {names}, which is not there")


def _sampled(part: Any, count: int, path: Path) -> tuple[Floats, NDArray[np.uint8]]:
    """Points [count, 3] on one of trimesh's meshes, and their colours [count, 3]."""
    random = np.random.default_rng(0)
    weights = np.maximum(part.area_faces, 1e-30)
    face = random.choice(len(part.faces), count, p=weights / weights.sum())
    u, v = np.sort(random.random((2, count)), axis=0)
    shares = np.stack([u, v - u, 1 - v], axis=1)

    def mean(values: Any) -> Floats:
        return np.einsum("nc,nck->nk", shares, np.asarray(values, np.float64)[part.faces[face]])

    return mean(part.vertices), _colors(part.visual, face, mean, path.suffix.lower() == ".glb")


def _colors(visual: Any, face: NDArray[np.int64], mean: Any, linear: bool) -> NDArray[np.uint8]:
    """[N, 3] sRGB of points on faces [N]; mean: what vertex values are there; linear: how factors are written."""
    if visual.kind == "texture":
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        if image is not None and visual.uv is not None:
            texels = _texels(np.asarray(image.convert("RGB")), mean(visual.uv))
            factor = getattr(material, "baseColorFactor", None)
            scale = 1.0 if factor is None else _displayed(np.asarray(factor)[:3], linear) / 255
            return np.rint(texels * scale).astype(np.uint8)
        return np.tile(_displayed(material.main_color[:3], linear), (len(face), 1)).astype(np.uint8)
    if visual.kind == "vertex":
        return np.rint(_displayed(mean(visual.vertex_colors[:, :3]), linear)).astype(np.uint8)
    if visual.kind == "face":
        return np.asarray(visual.face_colors[face, :3], np.uint8)
    return np.full((len(face), 3), _GREY, np.uint8)


def _texels(image: NDArray[np.uint8], uv: Floats) -> NDArray[np.uint8]:
    """[N, 3] of an image that repeats; v upwards."""
    height, width = image.shape[:2]
    column, row = (uv[:, 0] % 1 * width).astype(int), ((-uv[:, 1]) % 1 * height).astype(int)
    return image[row.clip(0, height - 1), column.clip(0, width - 1)]


def _displayed(color: Any, linear: bool) -> Floats:
    """sRGB colours in [0, 255]; `linear`: of linear ones."""
    values = np.asarray(color, np.float64)
    return 255 * (values / 255) ** (1 / 2.2) if linear else values

"""Reads a folder of the user's own mesh files into a pack: each mesh decimated, with one small texture."""

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
from liftstudio.data.color_spaces import color_space
from liftstudio.data.images import image_size
from liftstudio.data.lookup import find_file
from liftstudio.data.mesh import Mesh
from liftstudio.data.mesh_io import read_mesh
from liftstudio.export.bake import bake_texture, surface_texels
from liftstudio.export.cleanup import decimate, vertex_normals
from liftstudio.export.unwrap import unwrap_mesh
from liftstudio.synthetic.assembly import Floats
from liftstudio.training.meshes.packs import Pack, StoredMesh, pack_of
from liftstudio.training.meshes.posing import canonical

SUFFIXES = (".glb", ".obj", ".ply")
FACES = 4000  # maximum per object, after decimation
TEXTURE = 128  # width and height in texels
VERSION = 3  # of this reader; part of the cache key
_GUTTER = 2  # texels around each chart: half the distance between charts
_SAMPLES = 100_000  # surface points at which colours are sampled
_COLORS = 256
_GREY = 160  # for meshes without colour
_MTLLIB = re.compile(r"^[ \t]*mtllib[ \t]+(.*\S)", re.IGNORECASE | re.MULTILINE)
_MAP_KD = re.compile(r"^[ \t]*map_kd[ \t]+(.*\S)", re.IGNORECASE | re.MULTILINE)
_IN_PLACE = {"-s": r"1(\.0*)?", "-o": r"-?0(\.0*)?", "-t": r"-?0(\.0*)?"}  # texture options, at values without effect


def find_files(folder: Path) -> list[Path]:
    """Return the mesh files in a folder and its sub-folders, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def read_files(folder: Path) -> Pack:
    """Read all mesh files of a folder into a pack; ids are relative paths. Cached until any file in the folder changes.

    Raises:
        InputError: names the file: it is not readable, has no faces, refers to a missing material library or texture,
            or scales or offsets a texture.
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
    """Read a mesh file, decimate and unwrap it, and bake its colours from the nearest points of the original surface.

    GLB is y-up, front +z, by its specification; other formats are taken to be z-up, front +x.

    Raises:
        InputError: see `read_files`.
    """
    mesh = read_mesh(path, torch.float64)
    points, colors = _colored_points(path)
    if path.suffix.lower() == ".glb":  # `read_mesh` turns the front to -y
        mesh = Mesh(torch.stack([-mesh.vertices[:, 1], mesh.vertices[:, 0], mesh.vertices[:, 2]], dim=1), mesh.faces)
        points = points[:, [2, 0, 1]]
    middle = torch.stack(mesh.vertices.aminmax(dim=0)).mean(dim=0)  # far meshes lose their digits in float32
    mesh, points = Mesh((mesh.vertices - middle).float(), mesh.faces), points - middle.numpy()
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
    """Return points [N, 3] on the surface, in the axes of the file, and their colours [N, 3]."""
    try:
        with warnings.catch_warnings(action="ignore"):
            scene = _load_obj(path) if path.suffix.lower() == ".obj" else trimesh.load_scene(path, process=False)
            parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
            area = np.array([part.area for part in parts])
            counts = np.ceil(_SAMPLES * area / max(area.sum(), 1e-30)).astype(int) + 3
            drawn = [_sampled(part, count, path) for part, count in zip(parts, counts, strict=True)]
    except InputError:
        raise
    except Exception as error:  # the parsers of trimesh raise errors of any type
        raise InputError(f"{path}: cannot read its colours ({type(error).__name__}: {error})") from error
    points, colors = zip(*drawn, strict=True)
    return np.concatenate(points), np.concatenate(colors)


def _load_obj(path: Path) -> trimesh.Scene:
    """Load an OBJ with its materials.

    trimesh reads only one material library and ignores missing files. It is therefore given a single library that joins
    all of them, with full texture paths.
    """
    text = path.read_text(errors="replace")
    textures: dict[str, bytes] = {}

    def with_full_paths(library: Path) -> str:
        def full_path(setting: re.Match[str]) -> str:
            texture = _texture(setting[1], library, path)
            textures[str(texture)] = texture.read_bytes()
            return f"map_Kd {texture}"

        return _MAP_KD.sub(full_path, library.read_text(errors="replace"))

    libraries = [library for names in _MTLLIB.findall(text) for library in _split_libraries(names, path)]
    materials = "\n".join(map(with_full_paths, libraries)).encode()
    file = io.BytesIO(f"mtllib all\n{text}".encode())
    return trimesh.load_scene(file, "obj", resolver={"all": materials, **textures}, process=False)


def _split_libraries(names: str, path: Path) -> list[Path]:
    """Return the material libraries named in an `mtllib` line of an OBJ."""
    found = []
    while names:
        names, library = _split_last(names, path.parent, path)
        found.append(library)
    return found


def _texture(setting: str, library: Path, path: Path) -> Path:
    """Return the texture of a `map_Kd` setting: the file name after the options.

    Raises:
        InputError: the file is missing or no readable image, or the options scale or offset it.
    """
    options, texture = _split_last(setting, library.parent, path)
    in_place = None
    for word in options.split():
        if re.match("-[a-z]", word):
            in_place = _IN_PLACE.get(word)
        elif in_place and not re.fullmatch(in_place, word):
            raise InputError(f"{path}: scaling or moving a texture is not supported: {texture.name} ({options})")
    image_size(texture)  # reports files that are no images
    return texture


def _split_last(names: str, folder: Path, path: Path) -> tuple[str, Path]:
    """Split off the last file name, which may contain spaces; return what comes before it, and the file.

    Raises:
        InputError: there is no such file, though the OBJ `path` refers to it.
    """
    for word in re.finditer(r"\S+", names):
        file = find_file(folder / names[word.start() :].replace("\\", "/"))  # names of Windows
        if file is not None:
            return names[: word.start()].strip(), file
    raise InputError(f"{path}: it refers to {names}, which does not exist")


def _sampled(part: Any, count: int, path: Path) -> tuple[Floats, NDArray[np.uint8]]:
    """Return points [count, 3] on a mesh of trimesh, and their colours [count, 3]."""
    random = np.random.default_rng(0)
    weights = np.maximum(part.area_faces, 1e-30)
    face = random.choice(len(part.faces), count, p=weights / weights.sum())
    u, v = np.sort(random.random((2, count)), axis=0)
    shares = np.stack([u, v - u, 1 - v], axis=1)

    def mean(values: Any) -> Floats:
        return np.einsum("nc,nck->nk", shares, np.asarray(values, np.float64)[part.faces[face]])

    return mean(part.vertices), _colors(part.visual, face, mean, path.suffix.lower() == ".glb")


def _colors(visual: Any, face: NDArray[np.int64], mean: Any, linear: bool) -> NDArray[np.uint8]:
    """Return the sRGB colours [N, 3] of points on faces [N].

    mean: interpolates vertex attributes at the points. linear: whether factors and vertex colours are linear.
    """
    if visual.kind == "texture":
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        if image is not None and visual.uv is not None:
            space = None if linear else color_space(image)  # glTF ignores the profiles of its images
            texels = _texels(np.asarray(space.to_srgb(image) if space else image.convert("RGB")), mean(visual.uv))
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
    """Look up texels [N, 3] at uv [N, 2], v upwards, in an image that repeats."""
    height, width = image.shape[:2]
    column, row = (uv[:, 0] % 1 * width).astype(int), ((-uv[:, 1]) % 1 * height).astype(int)
    return image[row.clip(0, height - 1), column.clip(0, width - 1)]


def _displayed(color: Any, linear: bool) -> Floats:
    """Convert colours in [0, 255] to sRGB if they are linear."""
    values = np.asarray(color, np.float64)
    return 255 * (values / 255) ** (1 / 2.2) if linear else values

"""The export options and their checks; imports nothing slow."""

import importlib.util
import itertools
from dataclasses import dataclass, field
from typing import Annotated, Literal

from liftstudio.core.checks import check_range
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import MinLength, NonNegativeFloat, NonNegativeInt, Range, check_ranges

Format = Literal["glb", "obj", "ply", "stl", "3mf", "usdz"]
TextureFormat = Literal["png", "webp", "jpeg"]
FaceCount = Annotated[int, Range(4)]


@dataclass
class ExportConfig:
    """The mesh files written at the end of a run."""

    formats: Annotated[list[Format], MinLength(1)] = field(default_factory=lambda: ["glb"])  # obj: with mtl and png
    color: Literal["texture", "vertices"] = "texture"  # where the colour is stored; ply: at the vertices, stl: nowhere
    texture_size: Annotated[int, Range(16, 16384)] = 1024  # texels per side of the square texture
    texture_format: TextureFormat = "png"  # of the colour's texture; webp only in glb, the other formats then have png
    target_faces: FaceCount = 20000  # faces after decimation; a surface with fewer is not decimated
    faces: list[FaceCount] = field(default_factory=list)  # levels of detail: mesh.*, mesh_1.*, ...; []: target_faces
    remesh: Literal["none", "quads", "triangles"] = "none"  # even faces, not decimation; obj, ply, usdz keep quads
    edge_length: Annotated[float, Range(0.002, 1, or_zero=True)] = 0.0  # of remesh, world units; 0: by the face count
    repair: bool = False  # make the surface watertight: join open edges, turn faces over, fill holes
    min_component_area: Annotated[float, Range(0, below=1)] = 0.02  # components below this fraction of area are dropped
    gutter: NonNegativeInt = 4  # texels of padding around every chart, in its colour; fewer if there are many charts
    normal_map: bool = False  # also bake the normals of the surface before decimation, for glb, obj and usdz
    occlusion_map: bool = False  # also bake how much of the surroundings each point sees, for glb and usdz
    shaded: bool = False  # also write everything with the light baked in, as mesh_shaded.*
    longest_side_mm: NonNegativeFloat = 0.0  # real size; stl and 3mf are in mm, the others in m; 0: world units
    origin: Literal["world", "center", "bottom"] = "world"  # what lies at (0, 0, 0); center, bottom: of the bounds
    up: Literal["y", "z"] | None = None  # of obj, ply, stl, usdz; none: y in usdz, else z; always y in glb, z in 3mf

    @property
    def levels(self) -> list[int]:
        """The face counts of the levels of detail, the finest first."""
        return self.faces or [self.target_faces]


def check_export(config: ExportConfig) -> None:
    """Check the export options.

    Raises:
        InputError: an option is out of range, options contradict each other, or a package is missing; the message names
            the option.
    """
    check_ranges(config, ExportConfig, "export")
    if len(set(config.formats)) < len(config.formats):
        raise InputError(f"export.formats: expected each once, got {', '.join(config.formats)}")
    check_range("export.gutter", config.gutter, 0, config.texture_size // 8)
    if any(fine <= coarse for fine, coarse in itertools.pairwise(config.faces)):
        raise InputError(f"export.faces: expected the finest level first, got {', '.join(map(str, config.faces))}")
    for name, wanted in (("normal_map", config.normal_map), ("occlusion_map", config.occlusion_map)):
        if wanted and config.color == "vertices":
            raise InputError(f"export.{name}: needs export.color=texture")
    if config.edge_length and config.remesh == "none":
        raise InputError("export.edge_length: needs export.remesh=quads or triangles")
    if config.edge_length and config.faces:
        raise InputError("export.edge_length: contradicts export.faces, whose levels have edge lengths of their own")
    if config.remesh != "none" and importlib.util.find_spec("pyinstantmeshes") is None:
        raise InputError("export.remesh: needs the remesh extra; install it with: pip install 'liftstudio[remesh]'")
    if "usdz" in config.formats and importlib.util.find_spec("pxr") is None:
        raise InputError("export.formats: usdz needs the usd extra; install it with: pip install 'liftstudio[usd]'")

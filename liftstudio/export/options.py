"""The export options and their checks; imports nothing slow."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from liftstudio.core.checks import check_range
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import MinLength, NonNegativeInt, Range, check_ranges

Format = Literal["glb", "obj", "ply"]


@dataclass
class ExportConfig:
    """The mesh files written at the end of a run."""

    formats: Annotated[list[Format], MinLength(1)] = field(default_factory=lambda: ["glb"])  # obj: with mtl and png
    texture_size: Annotated[int, Range(16, 16384)] = 1024  # texels per side of the square texture
    target_faces: Annotated[int, Range(4)] = 20000  # faces after decimation; a surface with fewer is not decimated
    min_component_area: Annotated[float, Range(0, below=1)] = 0.02  # components below this fraction of area are dropped
    gutter: NonNegativeInt = 4  # texels of padding around every chart, in its colour; fewer if there are many charts
    shaded: bool = False  # also write everything with the light baked in, as mesh_shaded.*


def check_export(config: ExportConfig) -> None:
    """Check the export options.

    Raises:
        InputError: an option is out of range; the message names it, its range and its value.
    """
    check_ranges(config, ExportConfig, "export")
    if len(set(config.formats)) < len(config.formats):
        raise InputError(f"export.formats: expected each once, got {', '.join(config.formats)}")
    check_range("export.gutter", config.gutter, 0, config.texture_size // 8)

"""The options of an export, checked before any work; imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from liftstudio.core.checks import check_range
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import MinLength, NonNegativeInt, Range, check_ranges

Format = Literal["glb", "obj", "ply"]


@dataclass
class ExportConfig:
    """What is written at the end of a run."""

    formats: Annotated[list[Format], MinLength(1)] = field(default_factory=lambda: ["glb"])  # obj: with mtl and png
    texture_size: Annotated[int, Range(16, 16384)] = 1024  # texels per side of the square texture
    target_faces: Annotated[int, Range(4)] = 20000  # faces after decimation; a surface with fewer is left as it is
    min_component_area: Annotated[float, Range(0, below=1)] = 0.02  # pieces below this share of the area are dropped
    gutter: NonNegativeInt = 4  # texels around every chart that repeat its colour; fewer if charts are very many
    shaded: bool = False  # also write everything with the light left in, as mesh_shaded.*


def check_export(config: ExportConfig) -> None:
    """Refuse impossible settings before any work.

    Raises:
        InputError: naming the setting, what it may be and what it is.
    """
    check_ranges(config, ExportConfig, "export")
    if len(set(config.formats)) < len(config.formats):
        raise InputError(f"export.formats: expected each once, got {', '.join(config.formats)}")
    check_range("export.gutter", config.gutter, 0, config.texture_size // 8)

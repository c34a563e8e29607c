"""The options of an export, checked before any work; imports nothing heavy."""

from dataclasses import dataclass, field

from liftstudio.core.errors import InputError

FORMATS = ("glb", "obj", "ply")
TEXTURE_SIZES = (16, 16384)


@dataclass
class ExportConfig:
    """What is written at the end of a run."""

    formats: list[str] = field(default_factory=lambda: ["glb"])  # any of glb, obj (with mtl and png), ply
    texture_size: int = 1024  # texels per side of the square texture, 16 to 16384
    target_faces: int = 20000  # faces after decimation, at least 4; a surface with fewer is left as it is
    min_component_area: float = 0.02  # pieces below this fraction of the total area are dropped, in [0, 1)
    gutter: int = 4  # texels around every chart that repeat its colour; fewer if charts are very many
    shaded: bool = False  # also write everything with the light left in, as mesh_shaded.*


def check_export(config: ExportConfig) -> None:
    """Refuse impossible settings before any work.

    Raises:
        InputError: naming the setting, what it may be and what it is.
    """
    if not config.formats or len(set(config.formats)) < len(config.formats):
        raise InputError(f"export.formats: wanted some of {', '.join(FORMATS)}, each once, got {config.formats}")
    for name in config.formats:
        if name not in FORMATS:
            raise InputError(f"export.formats: unknown format '{name}', there are {', '.join(FORMATS)}")
    low, high = TEXTURE_SIZES
    _require(low <= config.texture_size <= high, "texture_size", f"{low} to {high} texels", config.texture_size)
    _require(config.target_faces >= 4, "target_faces", "at least 4", config.target_faces)
    _require(0 <= config.min_component_area < 1, "min_component_area", "in [0, 1)", config.min_component_area)
    limit = config.texture_size // 8
    _require(0 <= config.gutter <= limit, "gutter", f"0 to {limit} texels (texture_size / 8)", config.gutter)


def _require(condition: bool, name: str, wanted: str, value: float) -> None:
    if not condition:
        raise InputError(f"export.{name}: wanted {wanted}, got {value}")

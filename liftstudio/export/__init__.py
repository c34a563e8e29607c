"""Export of a surface with a colour field to mesh files; see `export_mesh`.

Only the options are imported at once, so that a bad config is rejected without loading the pipeline's slow libraries.
"""

from typing import TYPE_CHECKING, Any

from liftstudio.export.options import ExportConfig, check_export

if TYPE_CHECKING:
    from liftstudio.export.pipeline import export_mesh

__all__ = ["ExportConfig", "check_export", "export_mesh"]


def __getattr__(name: str) -> Any:
    if name == "export_mesh":
        from liftstudio.export.pipeline import export_mesh

        return export_mesh
    raise AttributeError(f"module 'liftstudio.export' has no attribute '{name}'")

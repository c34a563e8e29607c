"""Export of a surface with a colour field to mesh files; see `pipeline.export_mesh`.

Only the options are imported here, so that a bad config is rejected without loading the pipeline's slow libraries.
"""

from liftstudio.export.options import ExportConfig, check_export

__all__ = ["ExportConfig", "check_export"]

"""From a surface with a colour field to mesh files; `pipeline.export_mesh` does it.

Only the options are imported here: the pipeline's libraries take longer than refusing a bad config may.
"""

from liftstudio.export.options import ExportConfig, check_export

__all__ = ["ExportConfig", "check_export"]

"""Jobs as every interface starts them: the work itself, then the report on what it left."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from liftstudio.core.logs import log
from liftstudio.run.jobs import Job, run_job

if TYPE_CHECKING:
    from liftstudio.run.folder import RunFolder


def work(job: Job, on_folder: Callable[["RunFolder"], None] = lambda folder: None) -> "RunFolder":
    """Do a job, write the report of its run and return its folder; see `run_job` for arguments and errors."""
    folder = run_job(job, on_folder)
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the first of the processes that several devices need
        _report(folder)
    return folder


def _report(folder: "RunFolder") -> None:
    """Write the report; the run does not fail if that fails."""
    try:
        from liftstudio.studio.report.page import write_report

        log.info("report: %s", write_report(folder))
    except Exception as error:
        log.warning("report: not written (%s: %s)", type(error).__name__, " ".join(str(error).split()))

"""Jobs as every interface starts them: the work itself, then the report on what it left."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from liftstudio.core.errors import InputError
from liftstudio.core.logs import kept_messages, log
from liftstudio.run.jobs import Job, run_job

if TYPE_CHECKING:
    from liftstudio.run.folder import RunFolder


def work(job: Job, on_folder: Callable[["RunFolder"], None] = lambda folder: None) -> "RunFolder":
    """Do a job, write the report of its run and return its folder; see `run_job` for arguments and errors.

    The folder keeps what the job says. Where the job fails, the report shows the run as far as it got.
    """
    folders = list["RunFolder"]()
    with kept_messages() as messages:

        def begin(folder: "RunFolder") -> None:
            folders.append(folder)
            if _is_first():
                messages.write_to(folder.messages)
            on_folder(folder)

        try:
            folder = run_job(job, begin)
        except InputError as error:
            if folders and _is_first():
                messages.keep(f"error: {error}")
                _report(folders[0])
            raise
        if _is_first():
            _report(folder)
    return folder


def _is_first() -> bool:
    """Return whether this is the first of the processes that several devices need."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _report(folder: "RunFolder") -> None:
    """Write the report; the run does not fail if that fails."""
    try:
        from liftstudio.studio.report.page import write_report

        log.info("report: %s", write_report(folder))
    except Exception as error:
        log.warning("report: not written (%s: %s)", type(error).__name__, " ".join(str(error).split()))

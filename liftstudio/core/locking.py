"""Exclusive use of a folder: of two processes that would write into it, the second is refused."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLock, Timeout

from liftstudio.core.errors import InputError

NAME = "lock"  # file in the folder: process id, host and start of the process, a line each


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into `folder` during the block, by a lock file in it.

    The folder is created if it is missing, and deleted if it is empty in the end. A lock that a killed process of this
    machine left behind is taken over; its start time tells it from a new process with the same id. Processes that
    another one has launched to share its work take no lock.

    Raises:
        InputError: another process has locked the folder; names it.
        OSError: the folder cannot be written.
    """
    if not _is_first_process():
        yield
        return
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _held(folder):
            yield
    finally:
        for place in missing:
            with contextlib.suppress(OSError):  # not empty
                place.rmdir()


def is_locked(folder: Path) -> bool:
    """Return whether another process would be refused by `exclusive` now; nothing in `folder` changes.

    A lock that a killed process left behind is none, as there: a copy of it can be taken.
    """
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, NAME)
        try:
            shutil.copy2(folder / NAME, copy)
            SoftFileLock(copy).acquire(blocking=False).lock.release()
        except FileNotFoundError:
            return False
        except Timeout:
            return True
    return False


def check_free(folder: Path) -> None:
    """Raise the InputError of `exclusive` if another process has locked `folder` now."""
    if is_locked(folder):
        raise InputError(_refusal(folder))


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    lock = SoftFileLock(folder / NAME)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(_refusal(folder)) from None
    try:
        yield
    finally:
        lock.release()


def _refusal(folder: Path) -> str:
    path = folder / NAME
    try:
        process, host = path.read_text().split()[:2]
    except (OSError, ValueError):  # it is being written or deleted
        return f"{folder}: another process writes there; wait for it; if there is none, delete {path}"
    if host == socket.gethostname():
        return f"{folder}: process {process} writes there; wait until it ends, or stop it"
    where = host.partition("?")[0]  # a container adds the id of its processes' namespace
    return f"{folder}: process {process} on {where} writes there; wait until it ends; if it does not run, delete {path}"


def _is_first_process() -> bool:
    """Return whether this process was not launched for another device of the same run."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"

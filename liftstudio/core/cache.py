"""Cache of expensive results between runs, in $LIFTSTUDIO_CACHE or else ~/.cache/liftstudio."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from liftstudio.core.assets import output_path
from liftstudio.core.checkpoints import read_verified, write_verified
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log


def cache_folder() -> Path | None:
    """Return the folder of the cache; None, with a warning, if it is not given and the user has no home folder.

    Raises:
        InputError: see `output_path`.
    """
    given = os.environ.get("LIFTSTUDIO_CACHE")
    if given:
        return output_path(given)
    with contextlib.suppress(RuntimeError):
        return Path.home() / ".cache" / "liftstudio"
    _warn_of_no_home()
    return None


@functools.cache
def _warn_of_no_home() -> None:
    log.warning("there is no home folder: results are not kept for later runs; set LIFTSTUDIO_CACHE to a folder")


def content_key(parts: dict[str, Any]) -> str:
    """Return a file name for plain data, a hash of its content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached(kind: str, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of `make` (nested dicts and lists of tensors and numbers), from the cache if it is there.

    A damaged entry is computed again. A cache that cannot be written gives a warning, no error.
    """
    folder = cache_folder()
    if folder is None:
        return make()
    path = folder / kind / f"{key}.ckpt"
    if path.is_file():
        try:
            found = read_verified(path)
            log.info("%s: from the cache, %s", kind, path)
            return found
        except InputError as error:
            log.warning("%s; computing it again", error)
    made = make()
    try:
        write_verified(path, made)
    except OSError as error:
        log.warning("%s: cannot be written to the cache (%s)", error.filename or path, error.strerror or error)
    return made

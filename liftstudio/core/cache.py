"""Cache of expensive results between runs, in $LIFTSTUDIO_CACHE or else ~/.cache/liftstudio."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from liftstudio.core.checkpoints import read_verified, write_verified
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log


def cache_folder() -> Path:
    """Return the folder of the cache."""
    given = os.environ.get("LIFTSTUDIO_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "liftstudio"


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
    path = cache_folder() / kind / f"{key}.ckpt"
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

"""Results of long work, kept between runs in $LIFTSTUDIO_CACHE, else ~/.cache/liftstudio."""

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
    """Where results are kept."""
    given = os.environ.get("LIFTSTUDIO_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "liftstudio"


def content_key(parts: dict[str, Any]) -> str:
    """A file name for plain data; other data have another name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached(kind: str, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns (nested dicts and lists of tensors and numbers), from the cache if it is there and whole.

    A damaged entry is made again. A cache that cannot be written is warned of and costs nothing else.
    """
    path = cache_folder() / kind / f"{key}.ckpt"
    if path.is_file():
        try:
            found = read_verified(path)
            log.info("%s: from the cache, %s", kind, path)
            return found
        except InputError as error:
            log.warning("%s; made again", error)
    made = make()
    try:
        write_verified(path, made)
    except OSError as error:
        log.warning("%s: not kept for another run (%s)", error.filename or path, error.strerror or error)
    return made

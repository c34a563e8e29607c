"""What run folders are called."""

import re
import time
from pathlib import Path

SLUG_LENGTH = 60


def slug(text: str) -> str:
    """A short name that is safe in any path: letters, digits, dot, dash and underscore."""
    cleaned = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-._")
    return cleaned[:SLUG_LENGTH].rstrip("-._") or "run"


def default_tag(source: str | None) -> str:
    """The stem of the run's input and the time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    stem = slug(Path(source).stem)[: SLUG_LENGTH - len(stamp) - 1] if source else ""
    return f"{stem}-{stamp}" if stem else stamp

"""Names of run folders, and of what is beside them."""

import re
import time
from pathlib import Path

SLUG_LENGTH = 60
INPUTS = "inputs"  # folder of pictures that were given as pixels, uploaded or made, beside the run folders
QUEUE = "queue"  # folder of the queue's jobs, beside the run folders


def slug(text: str) -> str:
    """Return a short name that is safe in any path: only letters, digits, dots, dashes and underscores."""
    cleaned = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-._")
    return cleaned[:SLUG_LENGTH].rstrip("-._") or "run"


def default_tag(source: str | None) -> str:
    """Return a tag made of the stem of the run's input, if any, and the time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    stem = slug(Path(source).stem)[: SLUG_LENGTH - len(stamp) - 1] if source else ""
    return f"{stem}-{stamp}" if stem else stamp

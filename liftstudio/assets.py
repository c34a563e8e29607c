"""Files that come with the project, named `asset://...` in configs."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCHEME = "asset://"


def input_path(text: str) -> Path:
    """The path of a packaged file (`asset://demo/mario`) or of a user's file (relative to the current folder)."""
    if text.startswith(SCHEME):
        return ROOT / "assets" / text.removeprefix(SCHEME)
    return Path(text).expanduser()

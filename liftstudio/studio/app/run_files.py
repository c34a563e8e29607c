"""The files of run folders that the page shows and offers, and no others."""

from pathlib import Path
from urllib.parse import quote

from starlette.responses import FileResponse, PlainTextResponse, Response

ROUTE = "/runs"  # followed by <name>/<tag>/<path in the run folder>
TYPES = {
    ".3mf": "model/3mf",
    ".csv": "text/plain",
    ".glb": "model/gltf-binary",
    ".html": "text/html",
    ".hdr": "image/vnd.radiance",
    ".jpg": "image/jpeg",
    ".json": "text/plain",
    ".mp4": "video/mp4",
    ".mtl": "text/plain",
    ".obj": "text/plain",
    ".ply": "application/octet-stream",
    ".png": "image/png",
    ".stl": "model/stl",
    ".txt": "text/plain",
    ".usdz": "model/vnd.usdz+zip",
    ".webp": "image/webp",
    ".yaml": "text/plain",
}
REPORT = "report.html"  # the only page in a run folder; it has all that it shows in itself
REPORT_POLICY = (
    "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; "
    "img-src data: blob:; media-src data: blob:; "
    "script-src 'unsafe-inline' 'unsafe-eval' data: blob:; style-src 'unsafe-inline'; connect-src data: blob:; "
    "font-src data:; worker-src blob:; frame-src data: blob:"
)


def find_file(runs_dir: Path, name: str) -> Path | None:
    """Return the file <name>/<tag>/<path> in a run folder; None if the page serves no such file.

    It must be of a type in TYPES and, with all symbolic links followed, still in its run folder.
    """
    parts = name.split("/")
    if len(parts) < 3 or any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        return None
    run, path = runs_dir.joinpath(*parts[:2]), runs_dir.joinpath(*parts)
    if path.suffix not in TYPES or (path.suffix == ".html" and parts[2:] != [REPORT]):
        return None
    try:
        real = path.resolve(strict=True)
        is_inside = run.resolve() == runs_dir.resolve().joinpath(*parts[:2]) and real.is_relative_to(run.resolve())
    except (OSError, RuntimeError):
        return None
    return real if is_inside and real.is_file() and (run / "config.yaml").is_file() else None


def address(runs_dir: Path, path: Path, route: str = ROUTE) -> str:
    """Return the address of a file in a run folder, relative to the page's; it changes when the file does."""
    return f".{route}/{quote(path.relative_to(runs_dir).as_posix())}?{path.stat().st_mtime_ns}"


def respond(runs_dir: Path, name: str) -> Response:
    """Return the answer to a request for a file."""
    path = find_file(runs_dir, name)
    if path is None:
        return PlainTextResponse("there is no such file", 404)
    headers = {"content-security-policy": REPORT_POLICY} if path.suffix == ".html" else {}
    return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)

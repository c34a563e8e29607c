"""The mesh of a run in 3D, as a page in a frame: the viewer of the report, with buttons for how the mesh is drawn."""

from functools import lru_cache
from pathlib import Path

from starlette.responses import HTMLResponse, PlainTextResponse, Response

from liftstudio.run.folder import RunFolder
from liftstudio.studio.app.run_files import REPORT_POLICY, find_file
from liftstudio.studio.report.scene import MARK, embedded_mesh, encoded, viewer
from liftstudio.studio.results import Result

ROUTE = "/scenes"  # followed by the name of a mesh file as in `run_files`
SUFFIXES = (".glb", ".obj", ".ply", ".stl")  # of the files that are shown
LOOKS = ("shaded", "albedo", "normal", "wireframe")
KEPT = 8  # pages of the newest meshes that are kept in memory
CONTROLS = """<style>
nav { position: fixed; left: 8px; bottom: 8px; display: flex; flex-wrap: wrap; gap: 4px;
  font: 13px system-ui, sans-serif; }
button { font: inherit; padding: 4px 10px; border: 1px solid #8888; border-radius: 8px; color: #334155;
  background: #fffc; cursor: pointer; }
button[aria-pressed=true] { color: #fff; background: #4f46e5; }
</style><nav>BUTTONS</nav><script>
const buttons = document.querySelectorAll("nav button");
for (const button of buttons) button.addEventListener("click", () => {
  for (const other of buttons) other.setAttribute("aria-pressed", other === button);
  look(button.value);
});
</script></body>"""


def respond(runs_dir: Path, name: str) -> Response:
    """Return the answer to a request for the page of a mesh file."""
    path = find_file(runs_dir, name)
    if path is None or path.suffix not in SUFFIXES:
        return PlainTextResponse("there is no such mesh", 404)
    run = RunFolder(runs_dir.resolve().joinpath(*name.split("/")[:2]))
    try:
        page = _page(path, path.stat().st_mtime_ns, run)
    except Exception as error:  # readers of mesh files raise what they like
        return PlainTextResponse(f"{path.name} cannot be shown: {type(error).__name__}", 422)
    return HTMLResponse(page, headers={"content-security-policy": REPORT_POLICY})


@lru_cache(KEPT)
def _page(path: Path, changed: int, run: RunFolder) -> str:
    """Return the page of a mesh file; changed: when the file was, for the cache."""
    data, _ = embedded_mesh(path, Result(run).metrics)
    buttons = "".join(
        f'<button value="{name}" aria-pressed="{str(name == LOOKS[0]).lower()}">{name}</button>' for name in LOOKS
    )
    page = viewer().replace(encoded(MARK), encoded(data))
    return page.replace("</body>", CONTROLS.replace("BUTTONS", buttons))

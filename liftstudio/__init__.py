"""liftstudio: textured 3D meshes from images, by optimisation under diffusion priors."""

import atexit
import contextlib
import ctypes
import importlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from liftstudio import export, metrics
    from liftstudio.core.errors import InputError
    from liftstudio.data.mesh_io import read_mesh
    from liftstudio.studio.parts import load_image, load_prior, orbit, render
    from liftstudio.studio.pipeline import CancelledError, Event, Pipeline, lift
    from liftstudio.studio.results import Result

# How long OpenMP's threads spin for more work before they sleep; read when torch is first imported. By default they
# spin for milliseconds after every parallel torch op, on the cores that our own thread pool (ops/threads.py) needs
# next. If they sleep at once, waking them takes longer than many ops. This value is about 50 us.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Compiled matrix products that oneDNN and torch's layer above it keep, one for each shape. In training nearly every
# step brings new shapes, and the default of 1024 each lets a run grow by gigabytes.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
os.environ.setdefault("LRU_CACHE_CAPACITY", "128")

__version__ = "0.1.0"

# Where the public names are; each is imported when it is first asked for, since torch takes seconds.
_PLACES = {
    "CancelledError": "liftstudio.studio.pipeline",
    "Event": "liftstudio.studio.pipeline",
    "InputError": "liftstudio.core.errors",
    "Pipeline": "liftstudio.studio.pipeline",
    "Result": "liftstudio.studio.results",
    "export": "",
    "lift": "liftstudio.studio.pipeline",
    "load_image": "liftstudio.studio.parts",
    "load_prior": "liftstudio.studio.parts",
    "metrics": "",
    "orbit": "liftstudio.studio.parts",
    "read_mesh": "liftstudio.data.mesh_io",
    "render": "liftstudio.studio.parts",
}
__all__ = [
    "CancelledError",
    "Event",
    "InputError",
    "Pipeline",
    "Result",
    "export",
    "lift",
    "load_image",
    "load_prior",
    "metrics",
    "orbit",
    "read_mesh",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'liftstudio' has no attribute '{name}'")
    if not _PLACES[name]:
        return importlib.import_module(f"liftstudio.{name}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])


def _keep_freed_memory() -> None:
    """Make the C library reuse large blocks instead of returning them to the system after every torch op.

    Otherwise each large tensor gets new pages, which the kernel zeroes first: a quarter of a step's time on the CPU.
    """
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of glibc; other C libraries have no mallopt
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def _replace_unwritable_cache() -> None:
    """Let a temporary folder stand in for the user's cache folder where that cannot be written, as in containers.

    numba and Warp keep their compiled kernels there (numba only if it cannot write beside the sources), and numba
    refuses to compile a kernel that it cannot keep. Child processes share the folder.
    """
    if not _is_writable(Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))):  # noqa: PTH111
        with contextlib.suppress(OSError):  # no writable place at all
            folder = tempfile.mkdtemp(prefix="liftstudio-cache-")
            os.environ["XDG_CACHE_HOME"] = folder
            atexit.register(_remove, folder, os.getpid())


def _is_writable(folder: Path) -> bool:
    """Return whether files can be made in `folder`, or the folder itself if it does not exist."""
    if folder.parts[:1] == ("~",):  # there is no home folder
        return False
    try:
        with tempfile.TemporaryFile(dir=next(place for place in (folder, *folder.parents) if place.is_dir())):
            return True
    except OSError:
        return False


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a child process that was forked
        shutil.rmtree(folder, ignore_errors=True)


_keep_freed_memory()
_replace_unwritable_cache()

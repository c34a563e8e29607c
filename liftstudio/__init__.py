"""liftstudio: images to textured 3D meshes by optimisation under diffusion priors."""

import contextlib
import ctypes
import os

# Read by OpenMP when torch is first imported: how long its threads spin for more work before they sleep. By default
# they do so for milliseconds after every parallel torch op, on the very cores that our own thread pool
# (ops/threads.py) wants next; if they sleep at once, waking them takes longer than many an op. This is about 50 us.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"


def _keep_freed_memory() -> None:
    """Let the C library reuse large blocks instead of returning them to the system after every torch op.

    Otherwise each large tensor is made of new pages, which the kernel clears first: a quarter of a step on the CPU.
    """
    mmap_max, trim_threshold = -4, -1  # of glibc's malloc.h; other C libraries do not have the function
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


_keep_freed_memory()

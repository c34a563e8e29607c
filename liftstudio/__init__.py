"""liftstudio: textured 3D meshes from images, by optimisation under diffusion priors."""

import contextlib
import ctypes
import os

# How long OpenMP's threads spin for more work before they sleep; read when torch is first imported. By default they
# spin for milliseconds after every parallel torch op, on the cores that our own thread pool (ops/threads.py) needs
# next. If they sleep at once, waking them takes longer than many ops. This value is about 50 us.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"


def _keep_freed_memory() -> None:
    """Make the C library reuse large blocks instead of returning them to the system after every torch op.

    Otherwise each large tensor gets new pages, which the kernel zeroes first: a quarter of a step's time on the CPU.
    """
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of glibc; other C libraries have no mallopt
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


_keep_freed_memory()

"""Runs `nogil` numba jobs over ranges on a thread pool.

numba's `prange` is not used: its workqueue layer aborts when two Python threads launch at once, and its OpenMP
layer oversubscribes the cores together with torch's. A plain pool is as fast and has neither problem.
"""

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


@functools.cache
def _pool(process_id: int, workers: int) -> ThreadPoolExecutor:
    # One pool per process, as threads do not survive a fork.
    return ThreadPoolExecutor(workers, thread_name_prefix="liftstudio-op")


def parallel_for(job: Callable[[int, int], None], total: int, *, grain: int = 1) -> None:
    """Call `job(begin, end)` on disjoint ranges that together cover `[0, total)`.

    The ranges depend only on `total`, `grain` (minimum items per range) and torch's number of threads, so a job whose
    ranges write to disjoint memory gives bit-identical results on repeat.
    """
    workers = torch.get_num_threads()
    chunks = max(1, min(4 * workers, total // max(grain, 1)))
    bounds = [total * i // chunks for i in range(chunks + 1)]
    if workers == 1 or chunks == 1:
        for begin, end in itertools.pairwise(bounds):
            job(begin, end)
        return
    ranges = iter(list(itertools.pairwise(bounds)))  # shared: each idle thread takes the next

    def work() -> None:
        for begin, end in ranges:
            job(begin, end)

    # The caller works too: if it only waited, its core would idle until it is woken.
    helpers = [_pool(os.getpid(), workers - 1).submit(work) for _ in range(workers - 1)]
    work()
    for helper in helpers:
        helper.result()

"""The thread pool of the compiled kernels."""

import random
import threading

import pytest
import torch
from helpers.seeds import fresh_seed

from liftstudio.ops.threads import parallel_for

SEED = fresh_seed(__name__)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> int:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", range(5))
def test_every_item_is_done_once_and_ranges_are_the_same_on_repeat(threads: int, case: int) -> None:
    draw = random.Random(SEED + case)
    total, grain = draw.randint(0, 1000), draw.randint(1, 300)
    seen: list[list[tuple[int, int]]] = []
    for _ in range(2):
        ranges: list[tuple[int, int]] = []
        parallel_for(lambda begin, end, ranges=ranges: ranges.append((begin, end)), total, grain=grain)
        assert sorted(i for begin, end in ranges for i in range(begin, end)) == list(range(total)), (SEED, case)
        seen.append(sorted(ranges))
    assert seen[0] == seen[1]


def test_all_threads_work_at_the_same_time(threads: int) -> None:
    meeting = threading.Barrier(threads, timeout=20)  # broken, and raised here, unless as many jobs run at once
    parallel_for(lambda begin, end: meeting.wait() and None, threads * 4, grain=4)


def test_an_error_in_a_job_is_raised(threads: int) -> None:
    def job(begin: int, end: int) -> None:
        if begin <= 57 < end:
            raise ValueError("in the job")

    with pytest.raises(ValueError, match="in the job"):
        parallel_for(job, 100)

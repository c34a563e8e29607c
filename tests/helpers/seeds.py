"""Seeds of random tests: the same in every run, or new ones where LIFTSTUDIO_TEST_SEEDS is `new` (make test-random)."""

import os
import zlib
from collections import Counter

_drawn: Counter[str] = Counter()


def fresh_seed(place: str = "", bits: int = 32) -> int:
    """Return a new seed of the given number of bits at every call.

    place: what the seeds are for: the module's name at import time; by default the running test.
    """
    if os.environ.get("LIFTSTUDIO_TEST_SEEDS") == "new":
        return int.from_bytes(os.urandom(4)) >> (32 - bits)
    place = place or os.environ["PYTEST_CURRENT_TEST"]
    _drawn[place] += 1
    return zlib.crc32(f"{place} {_drawn[place]}".encode()) >> (32 - bits)

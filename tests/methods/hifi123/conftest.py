"""Stable Diffusion 2's depth model in miniature, opened once."""

import functools
from collections.abc import Iterator

import pytest

from liftstudio.methods.hifi123 import checkpoint


@pytest.fixture(scope="module")
def opened_once() -> Iterator[None]:
    """Check the networks of a folder only once; for modules whose tests leave their folders as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("liftstudio.methods.hifi123.prior.open_folder", functools.cache(checkpoint.open_folder))
        yield

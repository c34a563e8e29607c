import logging
from collections.abc import Iterator

import pytest
from captures import Shots, shoot


@pytest.fixture
def shots() -> Shots:
    return shoot()


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """The warnings that the project has logged so far in this test."""
    logged: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("liftstudio")
    logger.addHandler(handler)
    yield logged
    logger.removeHandler(handler)

import pytest
from captures import Shots, shoot


@pytest.fixture
def shots() -> Shots:
    return shoot()

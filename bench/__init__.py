"""Benchmarks; liftstudio comes first because it sets how OpenMP's threads wait, before torch starts them."""

import liftstudio  # noqa: F401

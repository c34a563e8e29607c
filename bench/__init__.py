"""Benchmarks. liftstudio is imported first: it sets how OpenMP threads wait, before torch starts them."""

import liftstudio  # noqa: F401

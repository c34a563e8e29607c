"""Guidance: which views to render at a step, and what to think of them."""

"""Guidance: which views to render at a step, and the losses on their renders."""

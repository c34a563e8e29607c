"""Lights: irradiance from the normal."""

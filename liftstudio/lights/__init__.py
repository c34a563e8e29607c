"""Lights: irradiance as a function of the surface normal."""

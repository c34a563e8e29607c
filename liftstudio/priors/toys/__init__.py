"""The bundled prior of toy figures: a denoiser of multi-view images with an internal volume."""

"""The bundled prior: a denoiser of multi-view images with a volume inside."""

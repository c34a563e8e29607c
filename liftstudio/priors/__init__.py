"""Diffusion priors: one interface, noise levels and samplers, reading of weights, the bundled prior and its trainer."""

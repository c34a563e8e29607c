"""Diffusion priors: their interface, noise levels and samplers, weight files, and the bundled priors."""

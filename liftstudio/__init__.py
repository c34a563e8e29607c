"""liftstudio: images to textured 3D meshes by optimisation under diffusion priors."""

__version__ = "0.1.0"

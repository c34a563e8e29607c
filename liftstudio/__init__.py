"""liftstudio: images to textured 3D meshes by optimisation under diffusion priors."""

import os

# Read by OpenMP when torch is first imported. Its threads otherwise spin for milliseconds after every parallel torch
# op, on the very cores that our own thread pool (ops/threads.py) wants next: rasterisation takes five times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

"""Quality metrics against ground-truth images and meshes."""

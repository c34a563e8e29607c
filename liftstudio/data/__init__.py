"""Data types that the packages exchange: cameras, images, meshes, renders."""

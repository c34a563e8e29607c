"""Measures of quality, against true images and true meshes."""

"""Representations of a shape: density fields, signed distance grids, meshes."""

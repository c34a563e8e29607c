"""Geometries: density fields, signed distance fields and grids, meshes."""

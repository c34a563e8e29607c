"""Renderers turn a scene and cameras into images."""

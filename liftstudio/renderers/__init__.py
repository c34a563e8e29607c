"""Renderers: images of a scene from cameras."""

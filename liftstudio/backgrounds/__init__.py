"""Backgrounds: colour from the viewing direction."""

"""Backgrounds: colour as a function of the viewing direction."""

"""The live viewer: a run in a browser, while it goes on or afterwards; needs viser, the extra `viewer`."""

"""One run from its config to its mesh files."""

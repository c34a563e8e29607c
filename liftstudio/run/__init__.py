"""A run, from its config to its mesh files."""

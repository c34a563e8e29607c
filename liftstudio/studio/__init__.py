"""liftstudio from Python, and the interfaces that are made of it: page, viewer, report."""

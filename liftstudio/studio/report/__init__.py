"""The report of a run and the comparison of several: one HTML file each, which needs no network."""

"""Systems: the stages of a run and their optimisation."""

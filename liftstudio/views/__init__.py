"""Sources of reference views: posed images on disk, or samples from a prior."""

"""Where reference views come from: posed images on disk, or a prior's sampler."""

"""HiFi-123: generated views that keep the texture of the input photograph (Yu et al. 2023)."""

COMPONENTS = {
    "depth-prior": {"sd2-depth": "prior"},
    "view-enhancer": {"rgnv": "rgnv"},
    "map-estimator": {"monocular": "monocular"},
    "guidance": {"hifi123-rgsd": "rgsd", "depth-sds": "depth_sds"},
    "prior-task": {"depth-diffusion": "training"},
}

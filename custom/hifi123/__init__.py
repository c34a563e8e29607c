"""HiFi-123: views that keep the texture of the photograph (Yu et al. 2023)."""

COMPONENTS = {
    "depth-prior": {"sd2-depth": "prior"},
    "view-enhancer": {"rgnv": "rgnv"},
    "map-estimator": {"monocular": "monocular"},
    "guidance": {"hifi123-rgsd": "rgsd", "depth-sds": "depth_sds"},
    "prior-task": {"depth-diffusion": "training"},
}

"""HiFi-123: views that keep the texture of the photograph (Yu et al. 2023)."""

COMPONENTS = {
    "depth-prior": {"sd2-depth": "prior"},
    "view-enhancer": {"rgnv": "enhancer"},
    "map-estimator": {"monocular": "maps"},
    "guidance": {"hifi123-rgsd": "guidance", "depth-sds": "sds"},
    "prior-task": {"depth-diffusion": "training"},
}

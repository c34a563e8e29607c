"""SV3D: from one image to a mesh with masked SDS (Voleti et al. 2024)."""

COMPONENTS = {
    "prior": {"sv3d": "prior"},
    "views": {"sv3d-views": "views"},
    "guidance": {"sv3d-masked-sds": "guidance"},
    "prior-task": {"sv3d": "training"},
}

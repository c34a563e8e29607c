"""Zero-1-to-3: a view of an object from another viewpoint, given one image and a relative camera (Liu et al. 2023)."""

COMPONENTS = {
    "prior": {"zero123": "prior"},
    "views": {"zero123-views": "views"},
    "guidance": {"zero123-sds": "guidance"},
}

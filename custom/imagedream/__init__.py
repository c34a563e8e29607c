"""ImageDream and MVDream: four views of an object from an image and a text (Wang & Shi 2023; Shi et al. 2023)."""

COMPONENTS = {
    "prior": {"imagedream": "prior"},
    "views": {"imagedream-views": "views", "mvdream-views": "views"},
    "guidance": {"imagedream-sds": "guidance", "mvdream-sds": "guidance"},
}

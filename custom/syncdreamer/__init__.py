"""SyncDreamer and HarmonyView: from one image to sixteen synchronised views (Liu et al. 2023; Woo et al. 2024)."""

COMPONENTS = {
    "prior": {"syncdreamer": "prior"},
    "views": {"syncdreamer-views": "views"},
}

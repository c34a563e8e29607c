"""Published results in the layout of the papers' tables, each with its source.

The papers' objects, views and instances differ from those of the benchmarks here: 30 objects of Google Scanned Objects
for SyncDreamer and HarmonyView (the latter's views and meshes are the best of 4 instances), 300 for SV3D's views, 50
for its meshes. A table without rows only gives the layout.
"""

from dataclasses import dataclass

Figures = tuple[float | None, ...]


@dataclass(frozen=True)
class Published:
    """One table of a paper.

    columns: heading -> (our column, digits). rows: method -> values in that order; None if not reported.
    kind:    which of our rows to compare: novel views of priors, or meshes.
    source:  paper and table number.
    """

    title: str
    kind: str
    columns: dict[str, tuple[str, int]]
    rows: dict[str, Figures]
    source: str


_NOVEL = {"PSNR": ("psnr", 2), "SSIM": ("ssim", 3), "LPIPS": ("lpips", 3)}
_SHAPE = {"Chamfer dist.": ("chamfer", 4), "volume IoU": ("iou", 4)}
_GSO_SHAPES: dict[str, Figures] = {
    "RealFusion": (0.0819, 0.2741),
    "Magic123": (0.0516, 0.4528),
    "One-2-3-45": (0.0629, 0.4086),
    "Point-E": (0.0426, 0.2875),
    "Shap-E": (0.0436, 0.3584),
    "Zero-1-to-3": (0.0339, 0.5035),
    "SyncDreamer": (0.0261, 0.5421),
}
_SV3D = {"LPIPS": ("lpips", 3), "PSNR": ("psnr", 2), "SSIM": ("ssim", 3), "CLIP-S": ("clip_to_view", 3)}

TABLES: dict[str, list[Published]] = {
    "syncdreamer": [
        Published(
            "novel views",
            "views",
            _NOVEL,
            {
                "RealFusion": (15.26, 0.722, 0.283),
                "Zero-1-to-3": (18.93, 0.779, 0.166),
                "SyncDreamer": (20.05, 0.798, 0.146),
            },
            "SyncDreamer (Liu et al. 2023), as reprinted by MVDiffusion++ (Tang et al. 2024, arXiv 2402.12712)",
        ),
        Published(
            "meshes",
            "mesh",
            _SHAPE,
            _GSO_SHAPES,
            "SyncDreamer (Liu et al. 2023), as reprinted by HarmonyView (Woo et al. 2023, arXiv 2312.15980), table 4",
        ),
    ],
    "harmonyview": [
        Published(
            "novel views",
            "views",
            _NOVEL | {"E_flow": ("e_flow", 3), "CD": ("cd_score", 3)},
            {
                "RealFusion": (15.26, 0.722, 0.283, None, None),
                "Zero-1-to-3": (18.98, 0.795, 0.166, 3.820, 0.628),
                "SyncDreamer": (20.19, 0.819, 0.140, 2.071, 0.717),
                "HarmonyView": (20.69, 0.825, 0.133, 1.945, 0.792),
            },
            "HarmonyView (Woo et al. 2023, arXiv 2312.15980), table 2",
        ),
        Published(
            "meshes",
            "mesh",
            _SHAPE,
            _GSO_SHAPES | {"HarmonyView": (0.0187, 0.6401)},
            "HarmonyView (Woo et al. 2023, arXiv 2312.15980), table 4",
        ),
    ],
    "sv3d": [
        Published(
            "novel views on static orbits",
            "views",
            _SV3D,
            {
                "SyncDreamer": (0.17, 15.78, 0.76, 0.87),
                "Zero123": (0.13, 17.29, 0.79, 0.85),
                "Zero123-XL": (0.14, 17.11, 0.78, 0.85),
                "Stable Zero123": (0.13, 18.34, 0.78, 0.85),
                "Free3D": (0.15, 16.18, 0.79, 0.84),
                "EscherNet": (0.13, 16.73, 0.79, 0.85),
                "SV3D_u": (0.09, 21.14, 0.87, 0.89),
                "SV3D_c": (0.09, 20.56, 0.87, 0.88),
                "SV3D_p": (0.08, 21.26, 0.88, 0.89),
            },
            "SV3D (Voleti et al. 2024, arXiv 2403.12008), table 1",
        ),
        Published(
            "meshes, seen on dynamic orbits",
            "mesh",
            _SV3D,
            {
                "true views": (0.078, 19.508, 0.879, 0.897),
                "EscherNet": (0.178, 14.438, 0.804, 0.835),
                "Free3D": (0.197, 14.202, 0.799, 0.809),
                "Stable Zero123": (0.166, 14.635, 0.813, 0.805),
                "SV3D_u": (0.133, 15.957, 0.834, 0.871),
                "SV3D_c": (0.132, 16.373, 0.834, 0.870),
                "SV3D_p, static orbit": (0.125, 16.821, 0.848, 0.864),
                "SV3D_p, no SDS": (0.124, 16.864, 0.841, 0.875),
                "SV3D_p": (0.119, 17.405, 0.849, 0.877),
            },
            "SV3D (Voleti et al. 2024, arXiv 2403.12008), table 5",
        ),
        Published(
            "shapes",
            "mesh",
            {"CD": ("chamfer", 3), "3D IoU": ("iou", 3)},
            {
                "true views": (0.021, 0.689),
                "Point-E": (0.074, 0.162),
                "Shap-E": (0.071, 0.267),
                "DreamGaussian": (0.055, 0.411),
                "One-2-3-45++": (0.054, 0.406),
                "SyncDreamer": (0.053, 0.451),
                "EscherNet": (0.042, 0.466),
                "Free3D": (0.047, 0.426),
                "Stable Zero123": (0.039, 0.550),
                "SV3D_u": (0.027, 0.589),
                "SV3D_c": (0.027, 0.584),
                "SV3D_p, static orbit": (0.028, 0.610),
                "SV3D_p, no SDS": (0.024, 0.611),
                "SV3D_p": (0.024, 0.614),
            },
            "SV3D (Voleti et al. 2024, arXiv 2403.12008), table 6",
        ),
    ],
    "hifi123": [
        Published(
            "meshes beside the picture",
            "mesh",
            {
                "CLIP similarity": ("clip_to_picture", 3),
                "contextual distance": ("contextual_to_picture", 3),
                "PSNR": ("psnr", 2),
                "LPIPS": ("lpips", 3),
            },
            {},
            "HiFi-123 (Yu et al. 2024, arXiv 2310.06744), whose own figures are not included",
        ),
    ],
}

"""Memory of well-known graphics cards."""

# Name -> GB. The gibibytes that makers mean are 7 % more, which is left for the driver and for fragmentation.
CARDS = {
    "rtx-3060": 12, "rtx-3080": 10, "rtx-3090": 24, "rtx-4060-ti": 16, "rtx-4070": 12, "rtx-4080": 16, "rtx-4090": 24,
    "rtx-5070": 12, "rtx-5080": 16, "rtx-5090": 32, "rtx-a6000": 48, "rtx-6000-ada": 48, "t4": 16, "v100": 32,
    "a10": 24, "l4": 24, "l40s": 48, "a100": 80, "h100": 80, "h200": 141,
}  # fmt: skip

"""HiFi-123: views that keep the texture of the photograph (Yu et al. 2023)."""

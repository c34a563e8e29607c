"""Text-to-image models as 2D priors: DeepFloyd IF, Stable Diffusion and what has their form."""

COMPONENTS = {
    "prior": {"deepfloyd-if": "prior", "stable-diffusion": "prior"},
    "guidance": {"text-to-image-sds": "guidance"},
}

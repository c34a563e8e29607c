"""Text-to-image models as 2D priors: DeepFloyd IF, Stable Diffusion and models of the same form."""

COMPONENTS = {
    "prior": {"deepfloyd-if": "prior", "stable-diffusion": "prior"},
    "guidance": {"text-to-image-sds": "guidance"},
}

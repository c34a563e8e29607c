"""Stable Diffusion and DeepFloyd IF in miniature: folders in diffusers' format, with random weights."""

from pathlib import Path

import torch

from helpers.tiny_hifi123 import tiny_text, tiny_unet, tiny_vae, write_tokenizer
from helpers.tiny_sv3d import randomize

PIXELS = 16  # across the tiny IF's images
SIZE = 32  # across the tiny Stable Diffusion's
T5_WIDTH = 24


def write_tiny_stable_diffusion(folder: Path, seed: int = 0, prediction: str = "epsilon") -> Path:
    """Write the whole folder, as diffusers itself does."""
    from diffusers import PNDMScheduler

    generator = torch.Generator().manual_seed(seed)
    tiny_unet(generator, in_channels=4, out_channels=4).save_pretrained(folder / "unet")
    tiny_vae(generator).save_pretrained(folder / "vae")
    tiny_text(generator).save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    PNDMScheduler(**betas, prediction_type=prediction).save_pretrained(folder / "scheduler")
    return folder


def write_tiny_painter(folder: Path) -> Path:
    """Write a whole pipeline whose pictures all show a dark square before white, of 64 pixels.

    The decoder paints it, whatever the latents are: a constant that zeros beyond the border lower there, normalised.
    """
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    generator = torch.Generator().manual_seed(0)
    vae = tiny_vae(generator)
    for name, weight in vae.decoder.named_parameters():
        weight.zero_()
        if "upsamplers" in name and weight.ndim == 4:
            weight[range(len(weight)), range(len(weight))] = 1 / 9
        if "conv_shortcut" in name and weight.ndim == 4:
            weight[range(len(weight)), range(len(weight))] = 1
    vae.decoder.conv_in.bias.fill_(1)
    vae.decoder.conv_norm_out.weight.fill_(1)
    vae.decoder.conv_out.weight[:, :, 1, 1] = -8 / vae.decoder.conv_out.in_channels
    vae.decoder.conv_out.bias.fill_(0.5)
    write_tokenizer(folder / "tokenizer")
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=tiny_text(generator),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=tiny_unet(generator, in_channels=4, out_channels=4, sample_size=16),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def write_tiny_if(folder: Path, seed: int = 0) -> Path:
    """Write the whole folder of a stage I; its tokenizer has one token per letter."""
    from diffusers import DDPMScheduler
    from transformers import T5Config, T5EncoderModel

    generator = torch.Generator().manual_seed(seed)
    unet = tiny_unet(
        generator,
        in_channels=3,
        out_channels=6,
        sample_size=PIXELS,
        use_linear_projection=False,
        attention_head_dim=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=32,
        cross_attention_norm="group_norm",
        encoder_hid_dim=T5_WIDTH,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    unet.save_pretrained(folder / "unet")
    sizes = {"d_model": T5_WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 3, "vocab_size": 32}
    tower = randomize(T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu")), generator)
    tower.save_pretrained(folder / "text_encoder")
    _write_letters(folder / "tokenizer")
    schedule = DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True)
    schedule.save_pretrained(folder / "scheduler")
    return folder


def _write_letters(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    ends = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(folder)

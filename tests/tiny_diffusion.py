"""Randomly initialised diffusion models of a few kilobytes, in the folders of diffusers."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
import torch


def unet_folder(folder: Path) -> Path:
    """Save a pixel diffusion network for 8-pixel images of five classes."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4,
        num_class_embeds=5, add_attention=False,
    ).save_pretrained(folder)  # fmt: skip
    diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(folder)
    return folder


def stable_diffusion_folder(folder: Path) -> Path:
    """Save a Stable Diffusion pipeline whose images are 8 times as large as its latents."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    words = _tokenizer(folder / "words", transformers)
    text = transformers.CLIPTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=len(words), max_position_embeddings=16, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        cross_attention_dim=16, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    diffusers.StableDiffusionPipeline(
        text_encoder=transformers.CLIPTextModel(text), tokenizer=words, unet=unet, vae=vae,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder / "model")  # fmt: skip
    return folder / "model"


def _tokenizer(folder: Path, transformers: Any) -> Any:
    characters = string.ascii_lowercase + string.digits
    words = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "pad_token": "<|endoftext|>"}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **special}))
    return transformers.CLIPTokenizer.from_pretrained(folder)

"""Tiny random text-to-video pipelines of diffusers, in the format of the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ["a", "bar", "left", "right"]
WIDTH = 16


def latte() -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel

    transformer = LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1,
        cross_attention_dim=16, attention_bias=True, sample_size=4, patch_size=2,
        activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
        norm_elementwise_affine=False, caption_channels=WIDTH, video_length=3,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4), latent_channels=4, norm_num_groups=2,
    )  # fmt: skip
    return LattePipeline(*_t5(), vae, transformer, DDIMScheduler(clip_sample=False))


def cogvideox(rotary: bool = False, across: int | None = None) -> Any:
    """
    Args:
        rotary: as the 5B network has it, and not the 2B one.
        across: frames of a patch, as version 1.5 has them.
    """
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        time_embed_dim=8, text_embed_dim=WIDTH, num_layers=1, sample_width=2, sample_height=2,
        sample_frames=9, patch_size=2, patch_size_t=across, temporal_compression_ratio=4,
        max_text_seq_length=226, use_rotary_positional_embeddings=rotary,
        patch_bias=across is None,
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4,
    )  # fmt: skip
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
        clip_sample=False,
    )  # fmt: skip
    tokenizer, encoder = _t5()
    return CogVideoXPipeline(tokenizer, encoder, vae, transformer, scheduler)


def wan() -> Any:
    from diffusers import (
        AutoencoderKLWan,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )
    from transformers import UMT5Config, UMT5EncoderModel

    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=WIDTH, freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    tokenizer, _ = _t5()
    encoder = UMT5EncoderModel(UMT5Config(vocab_size=110, **_SIZES)).eval()
    return WanPipeline(tokenizer, encoder, vae, scheduler, transformer)


def hunyuan() -> Any:
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        LlamaConfig,
        LlamaModel,
        LlamaTokenizer,
    )

    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=1, patch_size_t=1,
        text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    blocks = 4
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, down_block_types=("HunyuanVideoDownBlock3D",) * blocks,
        up_block_types=("HunyuanVideoUpBlock3D",) * blocks, block_out_channels=(8,) * blocks,
        layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip
    pieces = {"<unk>": 0, "<s>": 1, "</s>": 2} | {w: n for n, w in enumerate(WORDS, 3)}
    llama = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=3,
        vocab_size=len(pieces),
    )  # fmt: skip
    clip = CLIPTextConfig(
        hidden_size=8, intermediate_size=8, num_attention_heads=2, num_hidden_layers=1,
        vocab_size=len(pieces), bos_token_id=1, eos_token_id=2, projection_dim=8,
    )  # fmt: skip
    marks = {"<|startoftext|>": 0, "<|endoftext|>": 1} | {
        f"{w}</w>": n for n, w in enumerate(WORDS, 2)
    }
    return HunyuanVideoPipeline(
        LlamaModel(llama).eval(), LlamaTokenizer(pieces, pad_token="</s>"), transformer, vae,
        FlowMatchEulerDiscreteScheduler(shift=7.0), CLIPTextModel(clip).eval(),
        CLIPTokenizer(marks),
    )  # fmt: skip


MAKERS: dict[str, Any] = {
    "latte": latte,
    "cogvideox": cogvideox,
    "cogvideox-rotary": lambda: cogvideox(rotary=True),
    "cogvideox-1.5": lambda: cogvideox(rotary=True, across=2),
    "wan": wan,
    "hunyuan": hunyuan,
}


def saved(folder: Path, name: str) -> Path:
    """Make a pipeline and save it; give its folder."""
    torch.manual_seed(0)
    MAKERS[name]().save_pretrained(folder / name)
    return folder / name


_SIZES: dict[str, Any] = {
    "d_model": WIDTH, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1,
}  # fmt: skip


def _t5() -> tuple[Any, Any]:
    """A tokenizer of a few words, and its encoder."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -1.0) for word in WORDS]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    return tokenizer, T5EncoderModel(T5Config(vocab_size=110, **_SIZES)).eval()

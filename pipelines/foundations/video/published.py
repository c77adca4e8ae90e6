"""Published text-to-video models, from the hub or a folder in diffusers' format, as teachers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipelines.foundations.video.denoiser import FAMILIES, Denoiser
from pipelines.foundations.video.teacher import Teacher
from pipelines.foundations.video.text import PAD, Text
from stages.core import params as core
from stages.core.errors import UserError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Published(core.Params):
    """
    Attributes:
        source: a name on the hub, or a folder, best given relative to the project.
        revision: branch, tag or commit of the hub's repository; null for its main branch, and
            for a folder.
        frames, height, width: of a clip, in frames and pixels.
        strength: guidance given to a network that was distilled to take it (HunyuanVideo).
    """

    net: Literal["published"]
    source: str
    revision: str | None
    dtype: Literal["float32", "float16", "bfloat16"]
    frames: int = Field(ge=1)
    height: int = Field(ge=8)
    width: int = Field(ge=8)
    strength: float | None = Field(gt=0)


def describe(model: Published, vocabulary: list[str], root: Path) -> dict[str, Any]:
    """What `teacher.json` says of a published model: all that loads it, and its weights' digests.

    Raises:
        UserError: it cannot be had, or is of no family known here.
    """
    folder = _folder(model.source, model.revision, root)
    weights = sorted((folder / "transformer").glob("*.safetensors"))
    if not weights:
        raise UserError(
            f"{model.source} holds no transformer/*.safetensors; it must be a text-to-video "
            "pipeline in diffusers' format"
        )
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}
    about = {**model.model_dump(), "kind": "published", "checksums": files}
    # The hub's cache names a snapshot's folder by its commit, which later runs then ask for.
    commit = None if (root / model.source).is_dir() else folder.name
    return {**about, "revision": commit, "vocabulary": vocabulary}


def load(about: dict[str, Any], device: torch.device | None, root: Path) -> Teacher:
    """The model that `describe` described, whole: text encoders, transformer, decoder.

    Raises:
        UserError: it cannot be had, or is of no family known here.
    """
    folder = _folder(about["source"], about["revision"], root)
    pipe = _pipeline(folder, about["source"], DTYPES[about["dtype"]]).to(device or "cpu")
    pipe.set_progress_bar_config(disable=True)
    denoiser = Denoiser(pipe.transformer, about["strength"]).eval().requires_grad_(False)
    words = about["vocabulary"]

    def read(prompts: Tensor) -> tuple[Text, Text]:
        texts = [" ".join(words[i] for i in row if i != PAD) for row in prompts.tolist()]
        given, empty = _text(pipe, denoiser.family, texts)
        return given.to(pipe.transformer.dtype), empty.to(pipe.transformer.dtype)

    shape, spare = _shape(pipe, denoiser.family, about)
    return Teacher(
        denoiser=denoiser,
        noising=pipe.scheduler,
        read=read,
        shape=shape,
        decode=lambda x: _decode(pipe, denoiser.family, x[:, spare:]).clamp(-1, 1),
        about=about,
    )


def _folder(source: str, revision: str | None, root: Path) -> Path:
    """Where a pipeline's files lie; those of the hub are fetched."""
    if (root / source).is_dir():
        return root / source
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(source, revision=revision))
    except (OSError, ValueError, ImportError) as error:
        raise UserError(_message(source, error)) from None


def _pipeline(folder: Path, source: str, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    try:
        pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(_message(source, error)) from None
    name = type(getattr(pipe, "transformer", None)).__name__
    if name not in FAMILIES:
        raise UserError(f"{source} has a {name} as its transformer; known: {', '.join(FAMILIES)}")
    return pipe


def _message(source: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0]
    return (
        f"the published model '{source}' cannot be had: {first}; give a name on the hub, or a "
        "folder in diffusers' format (foundations.video.teach.variants in params.yaml); it "
        "needs the packages transformers, sentencepiece and accelerate"
    )


def _text(pipe: Any, family: str, prompts: list[str]) -> tuple[Text, Text]:
    """Prompts and empty ones through the pipeline's own text encoders."""
    nothing = [""] * len(prompts)
    if family == "hunyuan":
        given, pooled, mask = pipe.encode_prompt(prompts)
        blank, blank_pooled, blank_mask = pipe.encode_prompt(nothing)
        return Text(given, mask, pooled), Text(blank, blank_mask, blank_pooled)
    if family == "latte":
        # For a single prompt the pipeline cuts both texts to the prompt's length; masked to that
        # length, prompts of different lengths make one batch.
        given, blank = pipe.encode_prompt(prompts, negative_prompt="", mask_feature=False)
        ids = pipe.tokenizer(
            prompts, padding="max_length", max_length=given.shape[1], truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        mask = ids.attention_mask.bool().to(given.device)
        return Text(given, mask), Text(blank, mask)
    # As long as each pipeline makes texts where it is simply called.
    length = 512 if family == "wan" else pipe.transformer.config.max_text_seq_length
    given, blank = pipe.encode_prompt(prompts, nothing, max_sequence_length=length)
    return Text(given), Text(blank)


def _shape(pipe: Any, family: str, about: dict[str, Any]) -> tuple[tuple[int, int, int, int], int]:
    """(T, C, H, W) of the latents, and how many of their first frames only fill up a patch."""
    frames, config = about["frames"], pipe.transformer.config
    space = pipe.vae_scale_factor if family == "latte" else pipe.vae_scale_factor_spatial
    spare = 0
    if family != "latte":
        frames = (frames - 1) // pipe.vae_scale_factor_temporal + 1
    if family == "cogvideox" and config.patch_size_t is not None:
        spare = -frames % config.patch_size_t
    height, width = about["height"] // space, about["width"] // space
    return (frames + spare, config.in_channels, height, width), spare


def _decode(pipe: Any, family: str, x: Tensor) -> Tensor:
    """Latents (B, T, C, H, W) -> clips (B, T', 3, H', W')."""
    vae = pipe.vae
    x = x.to(vae.dtype)
    if family == "latte":
        images = vae.decode(x.flatten(0, 1) / vae.config.scaling_factor).sample
        return images.unflatten(0, x.shape[:2])  # type: ignore[no-any-return]
    if family == "cogvideox":
        return pipe.decode_latents(x).transpose(1, 2)  # type: ignore[no-any-return]
    if family == "wan":
        size = (1, 1, -1, 1, 1)
        mean = x.new_tensor(vae.config.latents_mean).view(size)
        std = x.new_tensor(vae.config.latents_std).view(size)
        x = x * std + mean
    else:
        x = x / vae.config.scaling_factor
    return vae.decode(x.transpose(1, 2)).sample.transpose(1, 2)  # type: ignore[no-any-return]

"""Published pipelines as teachers: the same latents and clips as diffusers' own pipelines."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.foundations.video import diffusion, published, teacher
from pipelines.foundations.video.published import Published
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from tests.pipelines.foundations.video import pipes

MISSING = [name for name in ("transformers", "accelerate") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

VOCABULARY = ["<pad>", "<unknown>", *pipes.WORDS]
PROMPTS = torch.tensor([[2, 3, 0], [2, 3, 4]])
TEXTS = ["a bar", "a bar left"]
# frames and side of a clip, (T, C, H, W) of its latents, steps, guidance, strength
CASES: dict[str, tuple[int, int, tuple[int, int, int, int], int, float, float | None]] = {
    "latte": (3, 8, (3, 4, 4, 4), 5, 3.0, None),
    "cogvideox": (9, 16, (3, 4, 2, 2), 5, 3.0, None),
    "cogvideox-rotary": (9, 16, (3, 4, 2, 2), 5, 3.0, None),
    "cogvideox-1.5": (9, 16, (4, 4, 2, 2), 5, 3.0, None),
    "wan": (9, 16, (3, 16, 2, 2), 4, 3.0, None),
    "hunyuan": (9, 16, (3, 4, 2, 2), 4, 1.0, 6.0),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("published")


def model(name: str, **changes: Any) -> Published:
    frames, side, _, _, _, strength = CASES[name]
    own = {"net": "published", "source": f"models/{name}", "revision": None, "dtype": "float32"}
    own |= {"frames": frames, "height": side, "width": side, "strength": strength}
    return Published.model_validate(own | changes)


def opened(root: Path, name: str) -> teacher.Teacher:
    if not (root / "models" / name).is_dir():
        pipes.saved(root / "models", name)
    folder = root / "teach" / name
    write_json(folder / "teacher.json", published.describe(model(name), VOCABULARY, root))
    return teacher.load(folder, None, root)


def own(root: Path, name: str, noise: torch.Tensor, texts: list[str], kind: str) -> torch.Tensor:
    """What diffusers' pipeline makes of the same noise."""
    from diffusers import DiffusionPipeline

    frames, side, _, steps, guidance, strength = CASES[name]
    pipe = DiffusionPipeline.from_pretrained(root / "models" / name)
    pipe.set_progress_bar_config(disable=True)
    first = name.partition("-")[0]
    length = {"latte": "video_length"}.get(first, "num_frames")
    out = pipe(
        prompt=texts,
        height=side,
        width=side,
        num_inference_steps=steps,
        guidance_scale=guidance if strength is None else strength,
        latents=noise if first == "cogvideox" else noise.transpose(1, 2),
        output_type=kind,
        **{length: frames},
    ).frames
    return out.transpose(1, 2) if kind == "latent" and first != "cogvideox" else out


@pytest.mark.parametrize("name", CASES)
def test_latents_are_those_of_the_pipeline(root: Path, name: str) -> None:
    found = opened(root, name)
    _, _, shape, steps, guidance, _ = CASES[name]
    assert found.shape == shape
    # Latte's pipeline cuts texts to their length, but only for a single prompt.
    count = 1 if name == "latte" else 2
    noise = diffusion.noise_for(TEXTS[:count], shape, 0)
    text, empty = found.read(PROMPTS[:count])
    x = diffusion.sample(found.denoiser, found.noising, text, empty, noise, steps, guidance)
    torch.testing.assert_close(
        x, own(root, name, noise, TEXTS[:count], "latent"), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("name", CASES)
def test_clips_are_those_of_the_pipeline(root: Path, name: str) -> None:
    found = opened(root, name)
    frames, side, shape, steps, guidance, _ = CASES[name]
    made = found.generate(TEXTS[:1], PROMPTS[:1], steps=steps, guidance=guidance, seed=0, batch=1)
    assert made.shape == (1, frames, 3, side, side) and made.abs().max() <= 1
    expected = own(root, name, diffusion.noise_for(TEXTS[:1], shape, 0), TEXTS[:1], "pt")
    torch.testing.assert_close((made + 1) / 2, expected, atol=1e-3, rtol=0)


def test_prompts_of_different_lengths_make_one_batch(root: Path) -> None:
    found = opened(root, "latte")
    text, empty = found.read(PROMPTS)
    x, t = torch.randn(2, *found.shape), torch.tensor([5, 500])
    both = found.denoiser(x, t, text)
    for place in range(2):
        alone, _ = found.read(PROMPTS[place : place + 1])
        one = found.denoiser(x[place : place + 1], t[place : place + 1], alone)
        torch.testing.assert_close(both[place : place + 1], one, atol=1e-5, rtol=1e-4)
    assert torch.equal(text.mask, empty.mask)  # type: ignore[arg-type]


def test_what_is_kept_names_the_weights_and_no_machine(root: Path) -> None:
    opened(root, "cogvideox")
    text = (root / "teach/cogvideox/teacher.json").read_text()
    about = read_json(root / "teach/cogvideox/teacher.json")
    assert about["source"] == "models/cogvideox" and str(root) not in text
    assert len(about["checksums"]["diffusion_pytorch_model.safetensors"]) == 64


def test_a_folder_that_is_no_pipeline_is_an_error(root: Path) -> None:
    (root / "models/empty").mkdir(parents=True, exist_ok=True)
    with pytest.raises(UserError, match="holds no transformer"):
        published.describe(model("latte", source="models/empty"), VOCABULARY, root)


def test_a_pipeline_of_another_kind_is_an_error(root: Path) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    pipe = DiTPipeline(
        DiTTransformer2DModel(num_attention_heads=1, attention_head_dim=8, num_layers=1,
                              in_channels=4, sample_size=4),
        AutoencoderKL(block_out_channels=(4,), norm_num_groups=2), DDIMScheduler(),
    )  # fmt: skip
    pipe.save_pretrained(root / "models/image")
    folder = root / "teach/image"
    about = published.describe(model("latte", source="models/image"), VOCABULARY, root)
    write_json(folder / "teacher.json", about)
    with pytest.raises(
        UserError, match="has a DiTTransformer2DModel as its transformer; known: Latte"
    ):
        teacher.load(folder, None, root)


def test_a_name_that_nobody_has_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DiffusionPipeline

    def nowhere(*_: Any, **__: Any) -> None:
        raise OSError("no such repository\nmore")

    monkeypatch.setattr(DiffusionPipeline, "download", nowhere)
    with pytest.raises(UserError, match="'some/name' cannot be had: no such repository; give"):
        published.describe(model("latte", source="some/name"), VOCABULARY, root)

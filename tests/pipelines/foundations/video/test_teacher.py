"""A teacher kept and opened again."""

from pathlib import Path

import pytest
import torch

from pipelines.foundations.video import teacher
from pipelines.foundations.video.model import build
from pipelines.foundations.video.text import Words
from stages.core.digests import of_paths
from stages.core.errors import UserError
from stages.core.files import listing, read_json
from tests.pipelines.foundations.video.small import (
    FRAMES,
    NETS,
    SIDE,
    WORDS,
    drawn,
    numbers,
    scheduler,
    shape,
)
from tests.pipelines.foundations.video.test_model import awake

PROMPTS = torch.tensor([[2, 4], [3, 0], [3, 5]])
NAMES = ["a", "b", "c"]


def kept(folder: Path, name: str) -> teacher.Teacher:
    torch.manual_seed(0)
    net = awake(build(numbers(name), shape()))
    words = Words.fresh(len(WORDS), 8, 0)
    about = {"shape": [FRAMES, 1, SIDE, SIDE], "net": NETS[name]}
    teacher.keep(folder, net, scheduler(), words, about)
    return teacher.load(folder)


@pytest.mark.parametrize("name", NETS)
def test_what_is_opened_is_what_was_kept(tmp_path: Path, name: str) -> None:
    found = kept(tmp_path, name)
    torch.manual_seed(0)
    net = awake(build(numbers(name), shape()))
    x, t = drawn(3, FRAMES, 1, SIDE, SIDE), torch.tensor([5, 50, 99])
    text, empty = found.read(PROMPTS)
    assert torch.equal(found.denoiser(x, t, text), net(x, t, text))
    assert torch.equal(empty.tokens, Words.fresh(len(WORDS), 8, 0).empty(3, 2).tokens)
    assert (
        found.shape == (FRAMES, 1, SIDE, SIDE) and found.noising.config.num_train_timesteps == 100
    )
    assert not found.denoiser.training and not any(
        p.requires_grad for p in found.denoiser.parameters()
    )


@pytest.mark.parametrize("name", NETS)
def test_it_lies_there_as_diffusers_keeps_pipelines_and_without_paths(
    tmp_path: Path, name: str
) -> None:
    kept(tmp_path / "a", name)
    kept(tmp_path / "b", name)
    names = [path.relative_to(tmp_path / "a").as_posix() for path in listing(tmp_path / "a")]
    assert names == [
        "scheduler/scheduler_config.json", "teacher.json", "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors", "words.safetensors",
    ]  # fmt: skip
    assert of_paths(tmp_path / "a", names) == of_paths(tmp_path / "b", names)
    assert str(tmp_path) not in "".join(
        path.read_text() for path in listing(tmp_path / "a") if path.suffix == ".json"
    )


def made(found: teacher.Teacher, names=NAMES, prompts=PROMPTS, **changes) -> torch.Tensor:
    settings = {"steps": 5, "guidance": 2.0, "seed": 0, "batch": 2} | changes
    return found.generate(names, prompts, **settings)


def test_clips_depend_on_name_prompt_and_seed_and_not_on_the_batch(tmp_path: Path) -> None:
    found = kept(tmp_path, "cogvideox")
    clips = made(found)
    assert clips.shape == (3, FRAMES, 1, SIDE, SIDE) and clips.abs().max() <= 1
    torch.testing.assert_close(made(found, batch=3), clips, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made(found, ["c"], PROMPTS[2:]), clips[2:], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(made(found, seed=1), clips, atol=1e-2)
    assert not torch.allclose(made(found, prompts=PROMPTS[[1, 1, 1]])[0], clips[0], atol=1e-4)


def test_a_compressed_denoiser_can_take_its_place(tmp_path: Path) -> None:
    found = kept(tmp_path, "latte")

    class Still(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.level = torch.nn.Parameter(torch.tensor(0.0))

        def forward(self, x, t, text):
            a = found.noising.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
            # v of a clip that is `level` everywhere.
            noise = (x - a.sqrt() * self.level) / (1 - a).sqrt()
            return a.sqrt() * noise - (1 - a).sqrt() * self.level

    still = Still()
    still.level.data.fill_(0.5)
    clips = made(found, denoiser=still)
    torch.testing.assert_close(clips, torch.full_like(clips, 0.5), atol=1e-3, rtol=0)


def test_a_folder_without_a_teacher_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no teacher: teacher\.json is missing"):
        teacher.load(tmp_path)


def test_the_about_says_what_it_is(tmp_path: Path) -> None:
    kept(tmp_path, "latte")
    about = read_json(tmp_path / "teacher.json")
    assert about == {"kind": "trained", "net": NETS["latte"], "shape": [FRAMES, 1, SIDE, SIDE]}

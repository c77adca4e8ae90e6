"""Tiny data sets on disk, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

RATE = 8000
VOICES = ("anna", "bert", "carla", "dora", "emil")


def speech(seed: int, seconds: float, rate: int = RATE, pitch: float = 150.0) -> np.ndarray:
    """Something with the envelope of speech: harmonics, switched on and off; (n,) int16."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * k * pitch * time + rng.uniform(0, 6)) / k for k in range(1, 8))
    envelope = 0.55 + 0.45 * np.sin(2 * np.pi * 3 * time + rng.uniform(0, 6))
    return np.round(6000 * envelope * tone).astype(np.int16)


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")


def voice_project(root: Path, files: int = 30) -> None:
    """A project whose data.lock names five voices, unpacked as if they had been fetched."""
    packages = {}
    for number, voice in enumerate(VOICES):
        digest = f"{number:064x}"
        packages[f"voice-{voice}"] = {
            "index": "debian",
            "version": "1-1",
            "sha256": digest,
            "bytes": 1,
            "licence": "GPL-2.0-only" if voice == "bert" else "CC-BY-3.0",
            "author": voice.title(),
            "attribution": f"spoken by {voice.title()}",
            "take": ["sounds"],
            "papers": ["sepprune"],
            "voice": {"id": voice, "speaker": voice.title(), "language": "xx"},
        }
        folder = root / f"work/.downloads/unpacked/voice-{voice}-{digest[:12]}/sounds"
        for k in range(files):
            samples = speech(100 * number + k, 1.2 + 0.1 * (k % 7), pitch=100 + 30 * number)
            quiet = np.zeros(RATE // 10, dtype=np.int16)
            place = "digits" if k % 3 == 0 else "."
            write(folder / place / f"say{k}.wav", np.concatenate([quiet, samples, quiet]))
        write(folder / "silence/1.wav", np.zeros(RATE, dtype=np.int16))
        write(folder / "tt-noise.wav", speech(7, 3.0))
        write(folder / "short.wav", speech(8, 0.4))
    (root / "data.lock").write_text(yaml.safe_dump({"packages": packages}))


SETS = {
    "lrs2mix": ({"train": "tr", "valid": "cv", "test": "tt"}, ("mix", "s1", "s2")),
    "libri2mix": (
        {
            "train": "wav8k/min/train-100",
            "valid": "wav8k/min/dev",
            "test": "wav8k/min/test",
        },
        ("mix_clean", "s1", "s2"),
    ),
    "echoset": (
        {"train": "train", "valid": "val", "test": "test"},
        ("mix.wav", "spk1_reverb.wav", "spk2_reverb.wav"),
    ),
}


def published_tree(root: Path, layout: str, rate: int = RATE, count: int = 4) -> None:
    """A published set of a few mixtures a split; one mixture of each is too short for 1 s."""
    splits, files = SETS[layout]
    for folder in splits.values():
        for k in range(count):
            seconds = 0.5 if k == 0 else 1.2 + 0.1 * k
            parts = [speech(2 * k + j, seconds, rate, 120 + 60 * j) // 2 for j in (0, 1)]
            for file, samples in zip(files, (parts[0] + parts[1], *parts), strict=True):
                nested = layout == "echoset"
                name = f"scene/room/{k:02d}_{k + 50}/{file}" if nested else f"{file}/{k:02d}.wav"
                write(root / folder / name, samples, rate)

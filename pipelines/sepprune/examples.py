"""A few mixtures to look at and to listen to: what the dense and the pruned net make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.sepprune import pictures
from pipelines.sepprune.data import Speech
from pipelines.sepprune.names import label
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.pictures import add_exhibit, save
from stages.evaluate.audio import write_wav
from stages.evaluate.separation import best, improvement, si_sdr_pairs


class Spectrogram(core.Params):
    """`window` and `hop` in samples; what lies `floor_db` below the peak is black."""

    window: int = Field(ge=16, le=1024)
    hop: int = Field(ge=8, le=1024)
    floor_db: float = Field(gt=0, le=120)


class Examples(core.Params):
    """Mixtures by test set and place in it. The first one's spectrograms are drawn.

    `backbone` names whose nets are heard; clips end after `seconds`.
    """

    backbone: str
    items: Annotated[dict[str, list[Annotated[int, Field(ge=0)]]], Field(min_length=1)]
    seconds: float = Field(gt=0, le=4)
    spectrogram: Spectrogram


@dataclass(frozen=True)
class Clip:
    """One signal (T,) of a mixture; `voice` is 0 for the mixture itself."""

    voice: int
    source: str
    signal: Tensor
    note: str


def check(params: Examples, sizes: Mapping[str, int]) -> None:
    """Check that the chosen mixtures exist.

    Args:
        sizes: number of mixtures by test set.

    Raises:
        UserError: a place beyond the end. A test set that this data has not got is passed over.
    """
    for split, places in params.items.items():
        late = [place for place in places if place >= sizes.get(split, place + 1)]
        if late:
            raise UserError(
                f"params.yaml: sepprune.evaluate.examples.items.{split} names {late}; "
                f"the test set has the places 0 to {sizes[split] - 1}"
            )


def write(params: Examples, speech: Speech, nets: Mapping[str, nn.Module], out: Path) -> None:
    """Write the clips as small WAV files and draw the first mixture, and list them as exhibits.

    A clip is left out where the licences of its voices do not let it be handed on.

    Args:
        nets: by variant, the dense one first.
    """
    drawn = False
    for split, places in params.items.items():
        if split not in speech.splits:
            continue
        _, mixes, sources = speech.fixed(split)
        for place in places:
            clips = clips_of(mixes[place], sources[place], nets)
            credit = speech.credit(split, place)
            title = f"{pictures.SPLITS.get(split, 'test set').capitalize()}, mixture {place + 1}"
            if not drawn:
                draw(params.spectrogram, clips, speech.rate, title, out)
                drawn = True
            if credit:
                _listen(clips, params.seconds, speech.rate, f"{split}-{place}", title, credit, out)


def titled(clip: Clip) -> str:
    return f"Voice {clip.voice}, {label(clip.source)}" if clip.voice else "Mixture"


@torch.inference_mode()
def clips_of(mix: Tensor, sources: Tensor, nets: Mapping[str, nn.Module]) -> list[Clip]:
    """The mixture (T,), then for each voice its reference (2, T) and each net's estimate of it."""
    clips = [Clip(0, "mixture", mix, "")]
    clips += [Clip(1 + i, "reference", source, "") for i, source in enumerate(sources)]
    for name, net in nets.items():
        device = next(net.parameters()).device
        estimates = net(mix[None].to(device)).cpu()
        order = best(si_sdr_pairs(estimates, sources[None]))[1][0]
        gain = float(improvement(si_sdr_pairs, estimates, sources[None], mix[None]))
        note = f"SI-SDRi of the mixture {gain:.1f} dB"
        clips += [Clip(1 + i, name, estimates[0, k], note) for i, k in enumerate(order.tolist())]
    return sorted(clips, key=lambda clip: clip.voice)


def _listen(
    clips: Sequence[Clip], seconds: float, rate: int, name: str, title: str, credit: str, out: Path
) -> None:
    for clip in clips:
        voice = f"voice{clip.voice}-{clip.source}" if clip.voice else clip.source
        file = f"audio/{name}-{voice}.wav"
        write_wav(out / file, clip.signal[: round(seconds * rate)].numpy(), rate)
        add_exhibit(
            out, kind="audio", name=f"audio-{name}-{voice}", file=file, group=title,
            title=titled(clip),
            caption=clip.note if clip.voice else credit,  # the credit stands once for its group
            alt="",
        )  # fmt: skip


def draw(spec: Spectrogram, clips: Sequence[Clip], rate: int, title: str, out: Path) -> None:
    """Draw the spectrograms of one mixture's clips."""
    images = [
        (
            titled(clip),
            pictures.spectrogram(clip.signal.numpy(), spec.window, spec.hop, spec.floor_db),
        )
        for clip in clips
    ]
    notes = dict.fromkeys(f"{label(c.source)}: {c.note}" for c in clips if c.note)
    save(
        out,
        "spectrograms",
        pictures.spectrograms(images, len(clips[0].signal) / rate, rate / 2, spec.floor_db),
        title=f"Spectrograms: {title}",
        caption=f"Power over time and frequency, each panel from its own peak (bright) down to "
        f"{spec.floor_db:g} dB below it (dark). One column a voice. {'. '.join(notes)}.",
        alt=f"Spectrograms of one mixture of two voices. {'. '.join(notes)}.",
    )

"""How clips move, and how much otherwise than full precision's from the same noise.

A clip that collapsed to a still picture is as smooth and as consistent as can be. So none of these
is better when it is higher or lower: what counts is the distance from full precision.

Clips are (N, T, C, H, W) with T ≥ 2; values are float64, one a clip.
"""

from __future__ import annotations

from torch import Tensor


def flicker(clips: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring frames, (N,), in units of the pixels.

    Raises:
        ValueError: these are no clips of two frames or more.
    """
    frames = _checked(clips)
    return (frames[:, 1:] - frames[:, :-1]).abs().mean((1, 2))


def similarity(clips: Tensor) -> Tensor:
    """Cosines between the frames of a clip, each as one vector: (N, T, T), 1 on the diagonal.

    Of pixels in [0, 1]: where the background is -1, all frames of a clip are nearly parallel. An
    empty frame has no direction; its cosine with others is 0.

    Raises:
        ValueError: these are no clips of two frames or more.
    """
    frames = _checked(clips)
    lengths = frames.norm(dim=2, keepdim=True)
    unit = frames / lengths.where(lengths > 0, 1.0)
    found = (unit @ unit.mT).clamp(-1, 1)
    found.diagonal(dim1=1, dim2=2).fill_(1)
    return found


def similarity_error(clips: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference of the cosines of all pairs of frames, (N,).

    Q-VDiT (arXiv 2505.22167, equation 13) trains on such a matrix, of a network's outputs; where
    that is done this is no independent measure.

    Raises:
        ValueError: these are no clips of two frames or more, or of different shapes.
    """
    _paired(clips, reference)
    frames = clips.shape[1]
    gaps = (similarity(clips) - similarity(reference)).abs()
    # The diagonal agrees by definition.
    return gaps.sum((1, 2)) / (frames * (frames - 1))


def compared(clips: Tensor, reference: Tensor, low: float, high: float) -> dict[str, Tensor]:
    """All measures of clips beside full precision's, (N,) each.

    `flicker` and `similarity` of the clips themselves (the latter the mean over pairs of frames);
    `flicker_change`, signed; `flicker_error`, its size; `similarity_error`.

    Args:
        low, high: the pixels' range, from which they are brought to [0, 1].

    Raises:
        ValueError: these are no clips of two frames or more, or of different shapes.
    """
    _paired(clips, reference)
    ours, theirs = ((x.double() - low) / (high - low) for x in (clips, reference))
    frames = clips.shape[1]
    pairs = similarity(ours).sum((1, 2)) - frames
    change = flicker(ours) - flicker(theirs)
    return {
        "flicker": flicker(ours),
        "similarity": pairs / (frames * (frames - 1)),
        "flicker_change": change,
        "flicker_error": change.abs(),
        "similarity_error": similarity_error(ours, theirs),
    }


def _checked(clips: Tensor) -> Tensor:
    """Clips as (N, T, C·H·W) float64 on the CPU."""
    if clips.ndim != 5 or clips.shape[1] < 2:
        raise ValueError(f"{tuple(clips.shape)} are no clips (N, T, C, H, W) with T of 2 or more")
    return clips.detach().cpu().double().flatten(2)


def _paired(clips: Tensor, reference: Tensor) -> None:
    if clips.shape != reference.shape:
        raise ValueError(f"shapes {tuple(clips.shape)} and {tuple(reference.shape)} differ")

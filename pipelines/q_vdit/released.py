"""What the released code computes where it departs from the paper; arms of their own here.

* Every layer has a low-rank branch of rank 32 in front of the quantizer (`Arm.inner`), beside the
  rank-1 branch, which has no gain by frame.
* In the attention along time the branch acts a second time, multiplied by a mask over frames that
  starts at one: `Doubled`.
* The output (B, C, T, H, W) is cut into frames without moving T to the front: `scrambled`.
* Activations are not quantized while the branches learn (`Arm.inputs`), and the student is called
  without the mask of the text with which the teacher's outputs were made (`Arm.masked`).
"""

from __future__ import annotations

from torch import Tensor

from pipelines.q_vdit.tqe import TokenAware
from stages.core.errors import UserError


class Doubled(TokenAware):
    """The branch once in the weight and once by frame: 1 + M for a gain, which is 2 at first."""

    def factor(self) -> Tensor | None:
        assert self.gain is not None
        return 1 + self.gain


def scrambled(x: Tensor) -> Tensor:
    """Clips (B, T, C, H, W) as the release compares their "frames": (B, T, C·H·W).

    It has (B, C, T, H, W) and reads T rows off it as they lie in memory. With C = 8 and T = 16 the
    first row is half of channel 0, of frames 0 to 7, and no row is a frame.
    """
    return x.transpose(1, 2).reshape(len(x), x.shape[1], -1)


def check_channels(channels: int) -> None:
    """Refuse an arm with scrambled frames where it would be the arm without them.

    Raises:
        UserError: clips have one channel.
    """
    if channels == 1:
        raise UserError(
            "an arm of q_vdit has frames: scrambled, but clips of one channel lie in memory frame "
            "by frame, so nothing is scrambled; drop the arm, or take a source in colour "
            "(foundations.video.prepare.source: games)"
        )

"""Weights and inputs of a linear layer, each with its grid, its clip and its rounding."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from stages.core.params import Params
from stages.quantize import clip, dynamic, grids
from stages.quantize.grids import SMALLEST, Grid, Shrink
from stages.quantize.rounding import Rounding


class WeightSpec(Params):
    """How a weight (out, in) is quantized.

    On a static grid the steps are found once, by `calibrate`, and are then parameters; on a
    dynamic one they follow the weight, as they must where a transform, a clip or an inner branch is
    learned.
    """

    grid: Grid
    clip: Literal["max", "searched", "learned"]
    norm: float | None = Field(gt=0)
    """p of the clip's search; only with clip `searched`."""
    rounding: Literal["nearest", "learned"]

    @model_validator(mode="after")
    def _consistent(self) -> WeightSpec:
        if self.grid.granularity == "token":
            raise ValueError("a weight has no tokens; a step per row is granularity 'channel'")
        if (self.norm is None) == (self.clip == "searched"):
            raise ValueError("a norm belongs to clip 'searched', and only there")
        if self.clip == "learned" and not self.grid.dynamic:
            raise ValueError("a learned clip needs a dynamic grid: its steps change as it learns")
        if self.rounding == "learned" and self.grid.dynamic:
            raise ValueError("learned rounding needs a static grid: it starts from held steps")
        return self


class InputSpec(Params):
    """How a layer's inputs (..., tokens, in) are quantized; static steps are one per tensor."""

    grid: Grid
    clip: Literal["max", "learned"]

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        if self.grid.granularity == "channel":
            raise ValueError("a step per input channel cannot leave the sum over channels")
        if not self.grid.dynamic and (self.grid.granularity != "tensor" or self.clip != "max"):
            raise ValueError("static inputs are quantized per tensor with clip 'max'")
        return self


class Codes(NamedTuple):
    """What is stored: codes as int8 or uint8, scale and zero (..., G)."""

    values: Tensor
    scale: Tensor
    zero: Tensor

    def decode(self) -> Tensor:
        return grids.decode(*self)


class WeightQuantizer(nn.Module):
    """(out, in) -> fake-quantized (out, in); once fixed, whatever codes it was given.

    Attributes:
        scale: the steps (out, G) of a static grid, to be trained; the zero point is not.
        clip: learned shares of the extent, of clip `learned`.
        rounding: of rounding `learned`.
    """

    zero: Tensor
    ratio: Tensor
    held: Tensor | None

    def __init__(self, spec: WeightSpec, weight: Tensor) -> None:
        """Calibrate on `weight`; call `calibrate` again when a transform or branch is attached."""
        super().__init__()
        self.spec = spec
        self.scale: nn.Parameter | None = None
        self.clip: clip.LearnedClip | None = None
        self.rounding: Rounding | None = None
        self.register_buffer("held", None, persistent=False)
        self.calibrate(weight)

    @property
    def grid(self) -> Grid:
        return self.spec.grid

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        """Start anew from `weight` (out, in): clip, steps, rounding; forget fixed codes."""
        self.release()
        spec, grid = self.spec, self.grid
        low, high = grids.extent(weight, grid)
        ratio = torch.ones_like(low)
        if spec.clip == "searched":
            assert spec.norm is not None
            ratio = clip.search(weight, grid, spec.norm)
        elif spec.clip == "learned":
            self.clip = clip.LearnedClip(tuple(low.shape)).to(low.device)
        self.register_buffer("ratio", ratio)
        if grid.dynamic:
            return
        scale, zero = grids.steps(low * ratio, high * ratio, grid)
        self.scale = nn.Parameter(scale)
        self.register_buffer("zero", zero)
        if spec.rounding == "learned":
            self.rounding = Rounding(weight, scale)

    def steps(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero (out, G) for `weight`, differentiable."""
        if self.scale is not None:
            return self.scale.clamp(min=SMALLEST), self.zero
        return grids.steps(*grids.extent(weight, self.grid, self._shrink()), self.grid)

    def step_type(self, weight: Tensor) -> torch.dtype:
        """The type of the scale in `codes`, without finding them."""
        if self.held is not None:
            return self.get_buffer("fixed_scale").dtype
        if self.scale is not None:
            return self.scale.dtype
        return torch.promote_types(weight.dtype, torch.float32)

    def _shrink(self) -> Shrink:
        return self.ratio if self.clip is None else self.clip()

    def forward(self, weight: Tensor) -> Tensor:
        if self.held is not None:
            return self.held.to(weight.dtype)
        if self.scale is None and self.grid.granularity != "tensor":
            return dynamic.fake(weight, self.grid, self._shrink())
        scale, zero = self.steps(weight)
        if self.rounding is not None:
            return self.rounding(weight, scale, zero, self.grid).to(weight.dtype)
        return grids.fake(weight, scale, zero, self.grid)

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Codes:
        """What `weight` is stored as; a learned rounding is taken up or down."""
        if self.held is not None:
            return Codes(*(self.get_buffer(f"fixed_{name}") for name in Codes._fields))
        scale, zero = (values.detach().clone() for values in self.steps(weight))
        find = grids.encode if self.rounding is None else self.rounding.codes
        return Codes(find(weight, scale, zero, self.grid), scale, zero)

    @torch.no_grad()
    def fix(self, codes: Codes) -> None:
        """Stay at these codes, GPTQ's say, whatever the weight; nothing is trained any more.

        Raises:
            ValueError: a code is not on the grid.
        """
        low, high = torch.aminmax(codes.values)
        if not self.grid.lowest <= int(low) <= int(high) <= self.grid.highest:
            raise ValueError(f"codes from {int(low)} to {int(high)} on a grid of {self.grid}")
        for name, values in codes._asdict().items():
            self.register_buffer(f"fixed_{name}", values.detach().clone(), persistent=False)
        self.held = codes.decode()

    def release(self) -> None:
        """Follow the weight again."""
        self.held = None
        for name in Codes._fields:
            self.register_buffer(f"fixed_{name}", None, persistent=False)


class InputQuantizer(nn.Module):
    """(..., tokens, in) -> fake-quantized, of the same type.

    Attributes:
        scale: the step (1,) of a static grid, to be trained; NaN until something was observed.
        clip: learned shares of every token's extent, of clip `learned`.
    """

    zero: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        self.scale: nn.Parameter | None = None
        self.clip = clip.LearnedClip((1,)) if spec.clip == "learned" else None
        if not spec.grid.dynamic:
            self.scale = nn.Parameter(torch.full((1,), torch.nan))
            for name in ("zero", "low", "high"):
                self.register_buffer(name, torch.zeros(1))

    @property
    def grid(self) -> Grid:
        return self.spec.grid

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Widen a static range so that it holds `x`; a dynamic one needs no such thing."""
        if self.scale is None:
            return
        low, high = grids.extent(x.flatten(), self.grid)
        self.low.copy_(torch.minimum(self.low, low))
        self.high.copy_(torch.maximum(self.high, high))
        scale, zero = grids.steps(self.low, self.high, self.grid)
        self.scale.copy_(scale)
        self.zero.copy_(zero)

    def steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero (..., tokens, G) for `x`, or (1,), differentiable."""
        if self.scale is None:
            return grids.steps(*grids.extent(x, self.grid, self._shrink()), self.grid)
        if bool(self.scale.isnan()):
            raise RuntimeError("static inputs have no step yet: run `observe` on calibration data")
        return self.scale.clamp(min=SMALLEST), self.zero

    def _shrink(self) -> Shrink:
        return 1.0 if self.clip is None else self.clip()

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None and self.grid.granularity != "tensor":
            return dynamic.fake(x, self.grid, self._shrink())
        return grids.fake(x, *self.steps(x), self.grid)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        scale, zero = self.steps(x)
        return Codes(grids.encode(x, scale, zero, self.grid), scale, zero)

"""Layers shared by the three separators, on features of shape (batch, channels, frames).

The arithmetic is that of the published networks; how it is run is chosen for one CPU thread.
PyTorch's own backward pass of a depth-wise convolution and of PReLU costs several times their
forward pass there, because the gradient of the weight is reduced slowly. Both are written out
below, with the same forward values.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-8


def _trains_on_cpu(x: Tensor) -> bool:
    """Says whether a layer takes its quick path; without gradients it runs as PyTorch has it."""
    return torch.is_grad_enabled() and x.device.type == "cpu"


class GlobLN(nn.Module):
    """Global layer norm: mean and variance over channels and frames together, gain per channel.

    `mask`, a tensor of one value per channel or None, asks for what the norm would give if the
    channels with value 0 did not exist. (A norm that still counts dead channels is not what the
    cut network computes: trap 4 of the notes on the paper.) It is

        mean = sum_c m_c sum_t x / (T sum_c m_c),   the variance likewise around that mean,
        y = gamma * (x - mean) / sqrt(variance + eps) + beta,

    computed as the plain norm and a correction that vanishes when nothing is masked, so that an
    all-ones mask gives the same bits as None, and differentiable in the mask. Masked channels go
    through like the others; they are zeroed by `gated`, once, where channels are next mixed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalises x of shape (B, C, T); returns the same shape."""
        plain = F.group_norm(x, 1, self.gamma, self.beta, EPSILON)
        if self.mask is None:
            return plain
        return _over_kept(plain, x, self.mask, self.gamma, self.beta)


def _over_kept(plain: Tensor, x: Tensor, mask: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Turns the norm over all channels into the norm over those that the mask keeps."""
    # Variances do not change when a constant is taken off, and are more exact near zero.
    centred = x - x.detach().mean((1, 2), keepdim=True)
    first = centred.sum(2)
    second = torch.linalg.vecdot(centred, centred)
    frames = x.shape[2]
    everything = x.shape[1] * frames
    # What a mask of zeros leaves is gated away; its statistics need only be finite.
    weight = mask + (mask.sum() == 0).to(mask)
    kept = weight.sum() * frames
    mean_all, power_all = first.sum(1) / everything, second.sum(1) / everything
    mean, power = (first * weight).sum(1) / kept, (second * weight).sum(1) / kept
    variance_all = (power_all - mean_all.square()).clamp(min=0.0) + EPSILON
    variance = (power - mean.square()).clamp(min=0.0) + EPSILON
    ratio = (variance_all / variance).sqrt()[:, None]
    shift = ((mean_all - mean) / variance.sqrt())[:, None]
    # plain = gamma z + beta, and what is wanted is gamma (ratio z + shift) + beta.
    offset = gamma * shift + beta * (1.0 - ratio)
    return torch.addcmul(offset[..., None], plain, ratio[..., None])


def gated(x: Tensor, mask: Tensor | None) -> Tensor:
    """Multiplies the channels of x (B, C, T) by a mask (C,), or None: equation 6 of SepPrune.

    Between the masked norms of a group there are only operations on single channels. So this one
    product, just before channels are mixed, zeroes what the cut network lacks, and its gradient for
    a masked channel is what that channel would contribute. A product at each norm would give the
    same output, but the gradient of a masked channel would be lost behind the other zeros.
    """
    return x if mask is None else x * mask[:, None]


class Conv1x1(nn.Conv1d):
    """A dense map of the channels, the same for every frame."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T)."""
        if _trains_on_cpu(x):
            # The dilation of a kernel of one means nothing, but it makes PyTorch choose oneDNN,
            # which is twice as quick here as its choice for small batches on one thread.
            return F.conv1d(x, self.weight, self.bias, dilation=2)
        return super().forward(x)


class PReLU(nn.PReLU):
    """PReLU with one slope for all channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns max(x, 0) + slope * min(x, 0), same shape."""
        if _trains_on_cpu(x):
            return _Slope.apply(x, self.weight)
        return F.prelu(x, self.weight)


class _Slope(torch.autograd.Function):
    """PReLU as a leaky ReLU whose slope has a gradient: quicker to run backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope.item()
        return F.leaky_relu(x, ctx.slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        to_slope = None
        if ctx.needs_input_grad[1]:
            to_slope = torch.dot(x.clamp(max=0.0).flatten(), grad.flatten()).reshape(1)
        return torch.ops.aten.leaky_relu_backward(grad, x, ctx.slope, False), to_slope


class DepthwiseConv(nn.Conv1d):
    """A filter per channel, of odd length, centred: ceil(T / stride) frames out of T."""

    def __init__(self, channels: int, kernel: int = 5, stride: int = 1, *, bias: bool = True):
        super().__init__(
            channels, channels, kernel, stride, kernel // 2, groups=channels, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        """Filters x of shape (B, C, T)."""
        if _trains_on_cpu(x):
            if self.kernel_size[0] == 1 and self.stride[0] == 1:
                # PyTorch would run one convolution per channel.
                scaled = x * self.weight[:, 0]
                return scaled if self.bias is None else scaled + self.bias[:, None]
            return _Depthwise.apply(x, self.weight, self.bias, self.stride[0])
        return super().forward(x)


class _Depthwise(torch.autograd.Function):
    """Depth-wise convolution whose weight gradient is again one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.biased = stride, bias is not None
        pad, channels = weight.shape[2] // 2, weight.shape[0]
        return F.conv1d(x, weight, bias, stride, pad, groups=channels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, taps, grad = ctx.stride, weight.shape[2], grad.contiguous()
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [stride], [taps // 2], [1], False, [0], weight.shape[0],
                [True, False, False],
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            # Itself a depth-wise convolution: each channel of x of each mixture with its gradient.
            rows, frames = x.shape[0] * x.shape[1], grad.shape[2]
            lone = F.conv1d(
                x.reshape(1, rows, -1), grad.view(rows, 1, frames), None, 1, taps // 2, stride, rows
            )
            to_weight = lone[:, :, :taps].view(x.shape[0], -1, taps).sum(0)[:, None]
        if ctx.biased and ctx.needs_input_grad[2]:
            to_bias = grad.sum((0, 2))
        return to_x, to_weight, to_bias, None


class ConvNorm(nn.Module):
    """Dense 1x1 convolution and norm."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = Conv1x1(inputs, outputs, bias=bias)
        self.norm = GlobLN(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T)."""
        return self.norm(self.conv(x))


class DepthwiseNorm(nn.Module):
    """Depth-wise convolution and norm."""

    def __init__(self, channels: int, kernel: int = 5, stride: int = 1, *, bias: bool = True):
        super().__init__()
        self.conv = DepthwiseConv(channels, kernel, stride, bias=bias)
        self.norm = GlobLN(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, ceil(T / stride))."""
        return self.norm(self.conv(x))


class ConvNormAct(ConvNorm):
    """Dense 1x1 convolution, norm and PReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.act = PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T)."""
        return self.act(super().forward(x))


class NormAct(nn.Module):
    """Norm and PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GlobLN(channels)
        self.act = PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        return self.act(self.norm(x))

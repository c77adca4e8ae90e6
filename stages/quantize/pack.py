"""Codes of 2 to 8 bits as a dense stream of bytes, the first code in the lowest bits.

Eight codes of b bits fill b bytes. A kernel that has no b-bit loads needs a wider container:
3-bit codes then lie in 4 bits, 5- to 7-bit codes in 8 (`container`); what that costs on disk is
counted as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def container(bits: int) -> int:
    """The width in which kernels read codes of `bits`: 2, 4 or 8 bits."""
    return 2 if bits <= 2 else 4 if bits <= 4 else 8


def size(count: int, width: int) -> int:
    """Bytes of `count` codes of `width` bits."""
    return -(-count * width // 8)


def pack(codes: Tensor, width: int) -> Tensor:
    """Pack codes of any shape, row by row.

    Args:
        codes: whole numbers in 0 … 2^width - 1.
        width: bits a code, 1 to 8.

    Returns:
        uint8 (size(count, width),).

    Raises:
        ValueError: a code is no whole number, or does not fit.
    """
    flat = codes.flatten()
    if flat.is_floating_point() and not bool((flat == flat.round()).all()):
        raise ValueError("codes are not whole numbers")
    if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < 2**width:
        raise ValueError(f"codes from {int(flat.min())} to {int(flat.max())} in {width} bits")
    eights = torch.nn.functional.pad(flat.to(torch.uint8), (0, -len(flat) % 8)).view(-1, 8)
    word = torch.zeros(len(eights), dtype=torch.int64, device=codes.device)
    for place in range(8):
        word |= eights[:, place].to(torch.int64) << (width * place)
    packed = torch.empty(len(eights), width, dtype=torch.uint8, device=codes.device)
    for byte in range(width):
        packed[:, byte] = (word >> (8 * byte)) & 255
    return packed.flatten()[: size(len(flat), width)].clone()


def unpack(packed: Tensor, width: int, count: int) -> Tensor:
    """The first `count` codes of a stream: uint8 (count,).

    Raises:
        ValueError: the stream has another length than `count` codes.
    """
    if len(packed) != size(count, width):
        raise ValueError(
            f"{count} codes of {width} bits take {size(count, width)} bytes, not {len(packed)}"
        )
    rows = torch.nn.functional.pad(packed, (0, -len(packed) % width)).view(-1, width)
    word = torch.zeros(len(rows), dtype=torch.int64, device=packed.device)
    for byte in range(width):
        word |= rows[:, byte].to(torch.int64) << (8 * byte)
    codes = torch.empty(len(rows), 8, dtype=torch.uint8, device=packed.device)
    for place in range(8):
        codes[:, place] = (word >> (width * place)) & (2**width - 1)
    return codes.flatten()[:count].clone()

"""Packed codes against a string of bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.quantize.pack import container, pack, size, unpack


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 101])
def test_the_stream_is_the_codes_bit_by_bit(width: int, count: int) -> None:
    generator = torch.Generator().manual_seed(width)
    codes = torch.randint(0, 2**width, (count,), generator=generator)
    bits = "".join(f"{int(code):0{width}b}"[::-1] for code in codes)
    bits += "0" * (-len(bits) % 8)
    expected = [int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8)]
    packed = pack(codes, width)
    assert packed.dtype is torch.uint8 and packed.tolist() == expected
    assert len(packed) == size(count, width) == -(-count * width // 8)
    assert torch.equal(unpack(packed, width, count).long(), codes)


@given(st.integers(2, 8), st.lists(st.integers(0, 255), max_size=50))
def test_unpacking_gives_the_codes_back(width: int, values: list[int]) -> None:
    codes = torch.tensor([value % 2**width for value in values], dtype=torch.uint8)
    assert torch.equal(unpack(pack(codes, width), width, len(codes)), codes)
    wide = container(width)
    assert torch.equal(unpack(pack(codes, wide), wide, len(codes)), codes)


def test_containers_are_what_kernels_load() -> None:
    assert [container(bits) for bits in range(2, 9)] == [2, 4, 4, 8, 8, 8, 8]
    six = torch.tensor([1, 62, 63], dtype=torch.uint8)
    assert pack(six, container(6)).tolist() == [1, 62, 63]  # 6 bits in 8 are the codes themselves


def test_what_does_not_fit_is_refused() -> None:
    for codes in ([0, 8], [-1, 0]):
        with pytest.raises(ValueError, match="in 3 bits"):
            pack(torch.tensor(codes), 3)
    for value in (1.5, torch.nan):
        with pytest.raises(ValueError, match="not whole numbers"):
            pack(torch.tensor([1.0, value]), 3)
    assert pack(torch.tensor([1.0, 2.0]), 3).tolist() == [0b10001]
    with pytest.raises(ValueError, match="take 3 bytes, not 4"):
        unpack(torch.zeros(4, dtype=torch.uint8), 3, 8)

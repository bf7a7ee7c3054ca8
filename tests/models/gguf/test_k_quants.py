"""K-quants as ggml's source describes their blocks, written down here once more in NumPy.

A block has 256 weights. `d` and `dmin` are float16; the scales of its groups have few bits.
"""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from models.gguf.reader import GgufTensor

BLOCKS = 5


def half(block, at):
    return np.frombuffer(block[at : at + 2].tobytes(), np.float16)[0].astype(np.float32)


def scales_and_minima(packed):
    """Eight scales and eight minima of 6 bits in 12 bytes (ggml's get_scale_min_k4)."""
    found = []
    for j in range(8):
        if j < 4:
            found.append((packed[j] & 63, packed[j + 4] & 63))
        else:
            low, high = packed[j + 4] & 15, packed[j + 4] >> 4
            found.append((low | (packed[j - 4] >> 6) << 4, high | (packed[j] >> 6) << 4))
    return found


def q2_k(block):
    """Groups of 16: 4 bits of scale and 4 of minimum; d and dmin are last."""
    d, dmin, quants = half(block, 80), half(block, 82), block[16:80]
    out = []
    for i in range(256):
        scale = block[i // 16]
        value = quants[(i // 128) * 32 + i % 32] >> (2 * (i % 128 // 32)) & 3
        out.append(d * (scale & 15) * value - dmin * (scale >> 4))
    return out


def q3_k(block):
    """A third bit in a mask of 32 bytes; where it is missing, four is taken off."""
    mask, quants, packed, d = block[:32], block[32:96], block[96:108], half(block, 108)
    out = []
    for i in range(256):
        j = i // 16
        low = packed[j % 8] >> (4 * (j // 8)) & 15
        high = packed[8 + j % 4] >> (2 * (j // 4)) & 3
        value = int(quants[(i // 128) * 32 + i % 32] >> (2 * (i % 128 // 32)) & 3)
        value -= 0 if mask[i % 32] >> (i // 32) & 1 else 4
        out.append(d * (int(low | high << 4) - 32) * value)
    return out


def q4_k(block, high=None):
    """Groups of 32 with scale and minimum; `high` has a fifth bit for each weight."""
    d, dmin = half(block, 0), half(block, 2)
    scales, quants = scales_and_minima(block[4:16].astype(int)), block[-128:]
    out = []
    for i in range(256):
        scale, minimum = scales[i // 32]
        value = int(quants[(i // 64) * 32 + i % 32] >> (4 * (i % 64 // 32)) & 15)
        value += 0 if high is None else 16 * int(high[i % 32] >> (i // 32) & 1)
        out.append(d * scale * value - dmin * minimum)
    return out


def q5_k(block):
    return q4_k(block, high=block[16:48])


def q6_k(block):
    """Groups of 16 with signed scales; four bits, and two more in other bytes."""
    low, high, scales, d = block[:128], block[128:192], block[192:208], half(block, 208)
    out = []
    for i in range(256):
        part, at = i // 128, i % 128
        value = int(low[part * 64 + at % 64] >> (4 * (at // 64)) & 15)
        value |= int(high[part * 32 + at % 32] >> (2 * (at // 32)) & 3) << 4
        out.append(d * np.int8(scales[i // 16]) * (value - 32))
    return out


@pytest.mark.parametrize("oracle", [q2_k, q3_k, q4_k, q5_k, q6_k], ids=lambda f: f.__name__)
def test_a_block_means_what_ggml_says(oracle):
    kind = Kind[oracle.__name__.upper()]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(7).integers(0, 256, (BLOCKS, size), np.uint8)
    # Random bytes may be no finite number: the halves become small ones.
    at = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(kind.name, (0, 2))
    for start in at:
        blocks[:, start : start + 2] = np.array([0.01], np.float16).view(np.uint8)
    found = GgufTensor("x", (BLOCKS, 256), kind.name, blocks).rows(slice(None))
    expected = np.array([oracle(block) for block in blocks])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

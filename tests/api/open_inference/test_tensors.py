import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.open_inference.tensors import MAX_TEXTS, Tensor, checked, from_raw, raw
from server.errors import ApiError

DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1",
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


@pytest.mark.parametrize("datatype", DTYPES)
def test_raw_bytes_of_numbers_are_numpys_in_row_major_order(datatype):
    array = np.array([[0, 1, 0], [1, 1, 0]], DTYPES[datatype])
    tensor = from_raw("x", datatype, [2, 3], array.tobytes())
    assert tensor == Tensor("x", datatype, (2, 3), array.ravel().tolist())
    assert raw(tensor) == array.tobytes()


def test_bf16_is_the_upper_half_of_a_float32():
    data = np.array([1.5, -2.0], "<f4").view("<u4") >> 16
    assert from_raw("x", "BF16", [2], data.astype("<u2").tobytes()).values == [1.5, -2.0]


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_texts_come_back_from_their_raw_bytes(texts):
    tensor = checked("x", "BYTES", [len(texts)], texts)
    assert from_raw("x", "BYTES", [len(texts)], raw(tensor)) == tensor


def test_a_text_is_its_length_and_then_its_bytes():
    assert raw(Tensor("x", "BYTES", (1,), [b"hello"])) == b"\x05\0\0\0hello"


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "sentence"),
    [
        ("INT32", [2], b"\0" * 7, "has 7 raw bytes; INT32 of shape [2] has 8"),
        ("INT33", [2], b"", "datatype 'INT33'; it must be one of BOOL"),
        ("INT32", [-1], b"", "no size may be negative"),
        ("INT32", [1 << 11, 1 << 11], b"", "has at most 1048576"),
        ("BYTES", [MAX_TEXTS + 1], b"", "has at most 1024"),
        ("BYTES", [2], b"\x01\0\0\0a", "has 1 elements, but its shape [2] has 2"),
        ("BYTES", [1], b"\x05\0\0\0a", "are not of this form"),
        ("BYTES", [1], b"\x01\0\0", "are not of this form"),
        ("BYTES", [1], struct.pack("<I", 0) * (MAX_TEXTS + 1), "are not of this form"),
    ],
)
def test_what_is_no_tensor_is_refused_in_a_sentence(datatype, shape, data, sentence):
    with pytest.raises(ApiError) as error:
        from_raw("x", datatype, shape, data)
    assert sentence in error.value.message

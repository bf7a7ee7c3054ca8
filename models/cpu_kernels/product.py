"""The product of a few rows by a matrix whose weights are read once, in their own type.

A row's result does not depend on the rows beside it. Needs the library (`are_available`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# With more rows, arithmetic takes longer than reading, and XLA's product is as fast.
_MOST_ROWS = 32
_TYPES = (jnp.bfloat16, jnp.float32)


def suits(x: jax.Array, w: jax.Array) -> bool:
    """Whether `product` takes these shapes and types."""
    is_small = x.ndim == w.ndim == 2 and x.shape[0] <= _MOST_ROWS
    return is_small and x.dtype in _TYPES and w.dtype in (x.dtype, jnp.int8)


def product(x: jax.Array, w: jax.Array, *, is_transposed: bool = False) -> jax.Array:
    """x [T, in] by w [in, out], or w [out, in] if transposed, summed in float32: [T, out]."""
    outputs = w.shape[0] if is_transposed else w.shape[1]
    call = jax.ffi.ffi_call(
        "antipode_product", jax.ShapeDtypeStruct((x.shape[0], outputs), jnp.float32)
    )
    y: jax.Array = call(x, w, is_transposed=is_transposed)
    return y

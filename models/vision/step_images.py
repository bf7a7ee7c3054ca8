"""The images in a step: which tokens are theirs, and how far these see.

An image's tokens lie next to each other in a row of the step, all of them. Knows neither how rows
are made of pixels nor attention.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class StepImages(NamedTuple):
    """The images of a step. `rows_MND` has the rows of each one's tokens, at most N.

    `start_M` is the place in the step of each one's first token; the number of the step's tokens
    where there is no image. `size_M` is how many tokens each has; None: N each.
    """

    rows_MND: jax.Array
    start_M: jax.Array
    size_M: jax.Array | None = None

    def put(self, x_TD: jax.Array) -> jax.Array:
        """`x_TD` with the rows of images in the places of their tokens."""
        image_T, offset_T, is_image_T = _image_of(self.start_M, self._sizes, len(x_TD))
        return jnp.where(is_image_T[:, None], self.rows_MND[image_T, offset_T], x_TD)

    def last_seen(self, positions_T: jax.Array) -> jax.Array:
        """The last position that each token sees: its own, or that of its image's last token."""
        num_tokens = positions_T.shape[0]
        image_T, _, is_image_T = _image_of(self.start_M, self._sizes, num_tokens)
        end_T = (self.start_M + self._sizes)[image_T] - 1
        return jnp.where(is_image_T, positions_T[jnp.clip(end_T, 0, num_tokens - 1)], positions_T)

    @property
    def _sizes(self) -> jax.Array | int:
        return self.rows_MND.shape[1] if self.size_M is None else self.size_M


def _image_of(
    start_M: jax.Array, size_M: jax.Array | int, num_tokens: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The image of each token and the token's place in it, and whether it is an image's at all."""
    offset_TM = jnp.arange(num_tokens)[:, None] - start_M
    is_inside_TM = (offset_TM >= 0) & (offset_TM < size_M)
    image_T = jnp.argmax(is_inside_TM, axis=1)
    offset_T = jnp.take_along_axis(offset_TM, image_T[:, None], axis=1)[:, 0]
    is_image_T = jnp.any(is_inside_TM, axis=1)
    return image_T, jnp.where(is_image_T, offset_T, 0), is_image_T

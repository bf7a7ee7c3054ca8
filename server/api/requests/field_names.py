"""Lets the service's errors name fields as a protocol spells them.

The service has one name for each option. Knows no protocol: each brings its own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from server.errors import ApiError


@contextmanager
def fields_named(names: Mapping[str, str]) -> Iterator[None]:
    """Reword every ApiError of the block: `names` has the protocol's name by the service's."""
    try:
        yield
    except ApiError as error:
        raise _renamed(error, names) from error


def _renamed(error: ApiError, names: Mapping[str, str]) -> ApiError:
    message, param = error.message, error.param
    for ours, theirs in names.items():
        # A name that is a plain word names the field only where the sentence begins.
        place = rf"\b{ours}\b" if "_" in ours else rf"^{ours}\b"
        message = re.sub(place, theirs, message)
        param = param and re.sub(rf"^{ours}\b", theirs, param)
    renamed = ApiError(error.kind, message, param=param, code=error.code)
    return renamed if (message, param) != (error.message, error.param) else error

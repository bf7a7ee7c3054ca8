"""What the tests ask a model for: forms so narrow that any model fills them in, in few tokens."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Fruit(BaseModel):
    """A fruit of a colour. Further properties, which a schema allows by itself, have no end."""

    model_config = ConfigDict(extra="forbid")

    colour: Colour
    count: int = Field(ge=1, le=9)


QUESTION = "Name a fruit."
PAINT = {
    "type": "function",
    "function": {
        "name": "paint",
        "description": "Paint the wall.",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"type": "string", "enum": ["red", "green"]}},
            "required": ["colour"],
            "additionalProperties": False,
        },
    },
}

"""Import of GGUF files of the Llama family into checkpoint folders in the Hugging Face layout.

`convert` is the way in; the rest of this room is about what a GGUF file calls things.
"""

from models.gguf.conversion import Progress, convert
from models.gguf.reader import GgufError

__all__ = ["GgufError", "Progress", "convert"]

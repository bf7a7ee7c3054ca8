"""Import of GGUF files into checkpoint folders in the Hugging Face layout.

`convert` is the entry point; the other modules map names, shapes and settings of a GGUF file.
"""

from models.gguf.checkpoint_folder import Progress, convert
from models.gguf.reader import GgufError

__all__ = ["GgufError", "Progress", "convert"]

"""`python -m models.cpu_kernels` compiles the kernels where they are found.

Without a compiler it says so and ends well: XLA does the work then.
"""

from __future__ import annotations

import sys

from models.cpu_kernels.library import LIBRARY, KernelsError, check, compile_library


def main() -> int:
    try:
        check(LIBRARY)
        LIBRARY.touch()  # `make` goes by its time.
    except KernelsError:
        try:
            compile_library()
        except KernelsError as error:
            print(f"the CPU kernels are not compiled, XLA does their work: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

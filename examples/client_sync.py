"""Stream from whichever of two addresses answers; if one fails, the other continues the stream.

Each token comes once, also after a server was lost in the middle.
"""

from __future__ import annotations

import os

from antipode import Client

ADDRESSES = os.environ.get("ANTIPODE_SERVERS", "grpc://localhost:9000,http://localhost:8000")


def main() -> None:
    with Client(*ADDRESSES.split(",")) as client:
        with client.generate("Once upon a time", max_tokens=32, timeout=60) as stream:
            for delta in stream:
                print(delta.text, end="", flush=True)
        print(f"\nseed {stream.start.seed}, model version {stream.start.model_version}")
        print(f"retries {stream.num_retries}, resumptions {stream.num_resumed}")


if __name__ == "__main__":
    main()

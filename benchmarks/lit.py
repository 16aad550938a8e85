"""LitServe and transformers, in batches of 8. `python -m benchmarks.lit PORT`."""

import sys
from collections.abc import Sequence
from typing import Any

import litserve
from fastapi import Request
from torch import Tensor

from benchmarks.original import Original

BATCH = 8
WAIT_S = 0.005
"""The longest time that a batch waits to be filled."""


class Classifier(litserve.LitAPI):  # type: ignore[misc]  # litserve has no types
    """One worker process: decode a batch, run it, return the answers."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - always the CPU
        """Load the model."""
        self.original = Original()

    def decode_request(self, request: Request) -> Tensor:
        """Decode the file of a form: (3, height, width)."""
        return self.original.decode(request["image"].file.read())

    def batch(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the images as they are; `classify` stacks them."""
        return inputs

    def predict(self, pictures: Sequence[Tensor]) -> list[Any]:
        """Return the top five classes of each image."""
        return self.original.classify(pictures)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Return the answers as they are; they already are a list."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return the body of the answer."""
        return {"predictions": output}


if __name__ == "__main__":
    api = Classifier(max_batch_size=BATCH, batch_timeout=WAIT_S, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", num_api_servers=1, log_level="error", generate_client_file=False
    )

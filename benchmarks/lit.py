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
"""How long a batch waits to fill up."""


class Classifier(litserve.LitAPI):  # type: ignore[misc]  # litserve says nothing of its types
    """One worker process: decodes a batch, runs it, answers."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - there is one, the CPU
        """Load the model."""
        self.original = Original()

    def decode_request(self, request: Request) -> Tensor:
        """A form with a file -> (3, height, width)."""
        return self.original.decode(request["image"].file.read())

    def batch(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """They are stacked where they are classified."""
        return inputs

    def predict(self, pictures: Sequence[Tensor]) -> list[Any]:
        """The five best classes of each."""
        return self.original.classify(pictures)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """They are a list already."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The answer."""
        return {"predictions": output}


if __name__ == "__main__":
    api = Classifier(max_batch_size=BATCH, batch_timeout=WAIT_S, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", num_api_servers=1, log_level="error", generate_client_file=False
    )

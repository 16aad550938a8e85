"""`vitrine serve` with an engine that breaks on request: the first pixel of an image says how.

The engine is passed to `create_app(load=...)`, the service's extension point for another way of running a model. Every
image that reaches the forward pass is recorded in the file named by FORWARDED.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app import server
from app.inference.engine import Engine
from app.inference.jobs import Answer, Job
from app.inference.warm_up import warm_up
from app.main import create_app
from app.settings import Settings, load_settings
from models.checkpoints.checkpoint import open_checkpoint

RAISES, NO_MEMORY, NO_MEMORY_FOR_TWO, NOT_A_NUMBER, LOST, HANGS, SLOW = (
    *((255, 0, 0), (0, 255, 0), (0, 128, 0), (0, 0, 255)),
    *((255, 255, 0), (0, 255, 255), (255, 0, 255)),
)
"""The colours that break something."""


class FaultyEngine(Engine):
    """An engine that breaks on those colours."""

    stuck_after_s = float(os.environ.get("STUCK_AFTER_S", "120"))

    def forward(self, jobs: Sequence[Job]) -> list[Answer | Exception]:
        colours = [tuple(job.pixels[:, 0, 0].tolist()) for job in jobs]
        with Path(os.environ["FORWARDED"]).open("a") as file:
            file.writelines(f"{colour}\n" for colour in colours)
        if RAISES in colours or Path(os.environ["FORWARDED"] + ".broken").exists():
            raise RuntimeError("/secret/path: raised by the test")
        if NO_MEMORY in colours or (NO_MEMORY_FOR_TWO in colours and len(jobs) > 1):
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        if LOST in colours:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        if HANGS in colours:
            time.sleep(600)
        time.sleep(float(os.environ.get("FORWARD_S", "0")))
        return super().forward(jobs)

    def _upload(self, jobs: Sequence[Job]) -> Callable[[], list[Tensor]]:
        arrive = super()._upload(jobs)
        return lambda: [
            torch.full_like(image, np.nan) if tuple(job.pixels[:, 0, 0].tolist()) == NOT_A_NUMBER else image
            for job, image in zip(jobs, arrive(), strict=True)
        ]


def load(settings: Settings) -> Engine:
    time.sleep(float(os.environ.get("LOAD_S", "0")))
    torch.set_num_threads(1)
    engine = FaultyEngine(
        open_checkpoint(settings.model, **settings.choices), settings.device, "float32", settings.max_batch_tokens
    )
    warm_up(engine)
    return engine


def main() -> None:
    logging.basicConfig(level="INFO")
    settings, _ = load_settings()
    listener = server.bind(settings)
    logging.info("listening on http://%s:%d", *listener.getsockname()[:2])
    server.run(create_app(settings, load), settings, listener)


if __name__ == "__main__":
    main()

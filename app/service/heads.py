"""The fitted heads of a service: the one that it was started with, and which of them classifies a request's images."""

from pathlib import Path

from app.heads.file import is_fitted_head, read_head
from app.heads.head import Head
from app.inference.engine import Engine
from app.inference.runtime import Load
from app.pictures.prepared import Resolution
from app.service.classes import Classes, fits, fitted_classes, misfit, own_classes
from app.settings import Settings
from models.errors import CheckpointUnsupported
from models.network.vit import Readout


class Heads:
    """The fitted heads of a service.

    Args:
        settings: with the file of a head, which may be a fitted one.

    Raises CheckpointBroken for a fitted head that is damaged.
    """

    def __init__(self, settings: Settings) -> None:
        self.served: Head | None = None
        """The fitted head that the service was started with; a head of another kind is one of the checkpoint's own."""
        if settings.head and is_fitted_head(path := Path(settings.head).expanduser()):
            self.served = read_head(path)

    def checked(self, load: Load) -> Load:
        """Return what loads the engine without a fitted head, which is no part of the network, and checks the head.

        The engine is loaded with what `load` raises, and CheckpointUnsupported for a head of other vectors.
        """
        head = self.served
        if head is None:
            return load

        def load_and_check(settings: Settings) -> Engine:
            engine = load(settings.model_copy(update={"head": None}))
            if not fits(engine, head.space):
                raise CheckpointUnsupported(f"{settings.head}: the head {misfit(engine, head.space)}")
            return engine

        return load_and_check

    def has_classes(self, engine: Engine) -> bool:
        """Return whether there are classes without a head's name: the checkpoint's own, or those of a fitted head."""
        return self.served is not None or Readout.LOGITS in engine.readouts

    def classes(self, engine: Engine, resolution: Resolution, top_k: int | None) -> Classes:
        """Return how images are classified: by the fitted head that the service has, or by the checkpoint's own.

        Args:
            engine: what `Service.admit` returned.
            resolution: that the request asks for.
            top_k: the number of best classes, 0 for all; None is the probabilities of all in their order.

        Raises Problem.
        """
        if self.served is not None:
            return fitted_classes(engine, self.served, "", resolution, top_k)
        return own_classes(engine, resolution, top_k)

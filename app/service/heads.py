"""The heads of a service: the one that it was started with, and those that are kept by name."""

import asyncio
import logging
import time
from pathlib import Path

from app.errors import Problem
from app.heads.file import is_fitted_head, read_head
from app.heads.head import Head
from app.heads.store import Kept, Store
from app.inference.engine import Engine
from app.inference.runtime import Load
from app.pictures.prepared import Resolution
from app.service.classes import Classes, fits, fitted_classes, misfit, own_classes
from app.settings import Settings
from models.errors import CheckpointUnsupported
from models.network.vit import Readout

logger = logging.getLogger("vitrine")

LOOK_AFTER_S = 1.0
"""A request looks for heads of other processes if nobody has looked for so long."""


class Heads:
    """The heads of a service.

    Args:
        settings: with the file of a head, which may be a fitted one, and where heads are kept by name.

    Raises CheckpointBroken for a fitted head that is damaged, OSError for a directory that cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.served: Head | None = None
        """The fitted head that the service was started with; a head of another kind is one of the checkpoint's own."""
        if settings.head and is_fitted_head(path := Path(settings.head).expanduser()):
            self.served = read_head(path)
        self.store = Store(settings.heads, settings.max_heads, settings.max_heads_bytes)
        self._looked = time.monotonic()
        self._looking: asyncio.Task[None] | None = None

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

    def unnamed(self, engine: Engine, resolution: Resolution, top_k: int | None) -> Classes:
        """Return how images are classified without the name of a head: by the fitted one, or the checkpoint's own.

        Args:
            engine: what `Service.admit` returned.
            resolution: that the request asks for.
            top_k: the number of best classes, 0 for all; None is the probabilities of all in their order.

        Raises Problem.
        """
        if self.served is not None:
            return fitted_classes(engine, self.served, "", resolution, top_k)
        return own_classes(engine, resolution, top_k)

    async def classes(self, engine: Engine, name: str | None, resolution: Resolution, top_k: int | None) -> Classes:
        """Return how images are classified: by the head of this name or, without a name, as `unnamed` says."""
        if name is None:
            return self.unnamed(engine, resolution, top_k)
        return fitted_classes(engine, await self.named(name), name, resolution, top_k)

    async def named(self, name: str) -> Head:
        """Return the head of this name. Raises Problem."""
        kept = await self.entry(name)
        if kept.head is None:
            raise Problem("head_broken", f"the file of the head {name!r} cannot be used: {kept.problem}")
        return kept.head

    async def entry(self, name: str) -> Kept:
        """Return what is under this name: a head, or why its file is none. Raises Problem if there is nothing."""
        kept = (await self.kept()).get(name)
        if kept is None:
            raise missing(name)
        return kept

    async def kept(self) -> dict[str, Kept]:
        """Return what there is under each name, as it was a second ago or later."""
        if self._looking is None and self.store.folder and time.monotonic() - self._looked > LOOK_AFTER_S:
            self._looking = asyncio.create_task(self._look())
        if self._looking is not None:
            await asyncio.shield(self._looking)
        return dict(self.store.kept)

    async def refresh(self) -> None:
        """Read what other processes have written; while the directory cannot be read, what was last seen stays."""
        try:
            await asyncio.to_thread(self.store.refresh)
        except OSError as error:  # a share that is away for a while: what was read from it still answers
            logger.warning("the directory of heads cannot be read: %s; what was last seen is used", error.strerror)

    async def _look(self) -> None:
        try:
            await self.refresh()
        finally:
            self._looked, self._looking = time.monotonic(), None


def missing(name: str) -> Problem:
    """Return the problem of a name that no head has."""
    return Problem("head_not_found", f"there is no head {name!r}; GET /heads lists those that there are")

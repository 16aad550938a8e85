"""The fingerprint of a request's answers: equal ones mean that two answers can be compared with each other."""

import hashlib
from functools import lru_cache

from app.inference.engine import Engine
from app.inference.task import Task
from app.pictures.prepared import Resolution
from models.network.intermediate import TokenSpec
from models.network.vit import Readout


def answer_fingerprint(engine: Engine, resolution: Resolution, task: Task) -> str:
    """Return a digest of everything that determines the numbers of an answer except the image.

    These are the weights, the device's arithmetic, the resolution and the task.
    """
    size = engine.network_size(*resolution)
    # The digest is of this exact text, not of an object's repr: clients store it, so renaming a class or a field in the
    # code must not change it. `own` and `Look` are former names.
    own = "own" if engine.checkpoint.content.preprocess.budget(*resolution) is None else "budget"
    resize = resolution.resize or own
    tokens = task.token_spec
    # The final patch tokens are those of /embed?pool=patches, whatever computes them.
    plain = tokens == TokenSpec((engine.config.depth - 1,))
    readout = Readout.PATCHES if plain else task.readout
    parts = f"{engine.fingerprint!r}, {size}, {resize!r}, {readout.name!r}, {task.normalize}"
    if (spec := task.attention_spec) is not None:
        parts += f", Look(layer={spec.layer}, head={spec.head}, rollout={spec.rollout})"
    if tokens is not None and not plain:
        parts += f", Tokens(layers={tokens.layers}, norm={tokens.norm}, prefix={tokens.prefix})"
    return _digest(f"({parts})")


@lru_cache(256)
def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

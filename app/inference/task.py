"""What a request asks of each of its images, checked against what the model has."""

from dataclasses import dataclass
from typing import Literal

from app.errors import Problem
from app.inference.engine import Engine
from app.inference.jobs import Job
from models.network.attention import AttentionSpec
from models.network.intermediate import TokenSpec
from models.network.vit import Readout
from models.preprocess import Pixels

TASKS = {Readout.LOGITS: "classify", Readout.ATTENTION: "attention", Readout.TOKENS: "features"}
"""Names of tasks in the metrics; every other readout is `embed`."""

CLASSES_AND_VECTOR = "both"
"""Name of the task in the metrics that answers a vector and classes of the same image."""

POOLS = {"cls": Readout.CLS, "mean": Readout.MEAN, "native": Readout.NATIVE, "patches": Readout.PATCHES}


@dataclass(frozen=True)
class Task:
    """What a request asks of each image; the fields are those of `Job`."""

    readout: Readout
    normalize: bool = False
    top_k: int | None = None
    attention_spec: AttentionSpec | None = None
    token_spec: TokenSpec | None = None
    second: "Task | None" = None
    """A second task for the same image."""
    classifies: bool = False
    """Whether the vector becomes classes: the metrics count the image as classified."""

    @property
    def name(self) -> str:
        """Name in the metrics; an image has one task, however many answers."""
        if self.second:
            return CLASSES_AND_VECTOR
        return "classify" if self.classifies else TASKS.get(self.readout, "embed")

    def jobs_for(self, pixels: Pixels) -> list[Job]:
        """Return the jobs of one image: one for each answer."""
        job = Job(pixels, self.readout, self.normalize, self.top_k, self.attention_spec, self.token_spec)
        return [job, *(self.second.jobs_for(pixels) if self.second else ())]

    @classmethod
    def classes(cls, engine: Engine, top_k: int | None) -> "Task":
        """Return the task of the best `top_k` classes (0: all), or of all probabilities in their order (None).

        Raises Problem for a model without a classifier.
        """
        if Readout.LOGITS not in engine.readouts:
            raise Problem("no_classifier", f"{engine.checkpoint.name} has no classifier; /embed answers its vectors")
        return cls(Readout.LOGITS, top_k=engine.config.num_classes if top_k == 0 else top_k)

    @classmethod
    def vector(cls, engine: Engine, pool: str | None, normalize: bool) -> "Task":
        """Return the task of the vector of a pool. Raises Problem for a pool that the model does not have."""
        readout = POOLS[pool] if pool else engine.default_readout
        if readout not in engine.readouts:
            available = ", ".join(name for name, readout in POOLS.items() if readout in engine.readouts)
            raise Problem("no_such_pool", f"{engine.checkpoint.name} cannot pool by {pool!r}; it can by {available}")
        return cls(readout, normalize)

    @classmethod
    def attention(cls, engine: Engine, layer: int | None, head: int | Literal["all"] | None, rollout: bool) -> "Task":
        """Return the task of the attention of [CLS].

        Args:
            engine: the model.
            layer: counted from 0; None is the last one.
            head: counted from 0; None is the mean over the heads, `all` each head by itself.
            rollout: through all layers up to that one, instead of that one alone.

        Raises Problem for a model without a [CLS] token, and for a layer or head that it does not have.
        """
        config = engine.config
        if Readout.ATTENTION not in engine.readouts:
            raise Problem(
                "no_cls_token", f"{engine.checkpoint.name} has no [CLS] token, so it has no attention of [CLS]"
            )
        for name, value, count in (("layer", layer, config.depth), ("head", head, config.num_heads)):
            if isinstance(value, int) and value >= count:
                raise Problem("invalid_parameter", f"{name}={value}: this model has {name}s 0 to {count - 1}")
        if rollout and head is not None:
            raise Problem("invalid_parameter", f"head={head}: a rollout takes the mean over the heads of each layer")
        return cls(
            Readout.ATTENTION, attention_spec=AttentionSpec(config.depth - 1 if layer is None else layer, head, rollout)
        )

    @classmethod
    def tokens(cls, engine: Engine, layers: tuple[int, ...] | None, norm: bool, prefix: bool) -> "Task":
        """Return the task of the tokens after chosen blocks.

        Args:
            engine: the model.
            layers: blocks, counted from 0; None is the last one.
            norm: apply the final norm.
            prefix: with the prefix tokens.

        Raises Problem for a block that the model does not have.
        """
        depth = engine.config.depth
        for layer in layers or ():
            if layer >= depth:
                raise Problem("invalid_parameter", f"layers={layer}: this model has layers 0 to {depth - 1}")
        return cls(Readout.TOKENS, token_spec=TokenSpec(layers or (depth - 1,), norm, prefix))

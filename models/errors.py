"""Why a checkpoint cannot be served.

    CheckpointError
    ├── CheckpointNotFound       there is nothing at that place
    ├── CheckpointUnsupported    it is sound, but of a kind that the network cannot run: refused by name
    └── CheckpointBroken         it is damaged, incomplete or contradicts itself

Each message is one line that names the file or the tensor and, where there is one, the way out.
"""


class CheckpointError(Exception):
    """A checkpoint that is not served, and why."""


class CheckpointNotFound(CheckpointError):
    """There is no checkpoint at the place that was named."""


class CheckpointUnsupported(CheckpointError):
    """The checkpoint is of a kind that the network cannot run."""


class CheckpointBroken(CheckpointError):
    """The checkpoint is damaged, incomplete or contradicts itself."""

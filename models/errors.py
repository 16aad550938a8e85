"""The errors of loading a checkpoint.

    CheckpointError
    ├── CheckpointNotFound       the path or repository does not exist or cannot be read
    ├── CheckpointUnsupported    the checkpoint is valid, but the network cannot run it
    └── CheckpointBroken         the checkpoint is damaged, incomplete or inconsistent

Each message is one line: it names the file or the tensor, says what is wrong and, where possible, what to do.
"""


class CheckpointError(Exception):
    """The checkpoint cannot be loaded; the message says why."""


class CheckpointNotFound(CheckpointError):
    """The path or repository does not exist or cannot be read."""


class CheckpointUnsupported(CheckpointError):
    """The checkpoint is valid, but of a format or an architecture that is not supported."""


class CheckpointBroken(CheckpointError):
    """The checkpoint is damaged, incomplete or inconsistent."""

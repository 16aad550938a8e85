"""Read files of `torch.save` without running code from them.

`torch.load(weights_only=True)` reads tensors and plain containers. Training scripts also save their arguments and numpy
scalars; these few harmless types are allowed. Any other type is refused, and the error names it.
"""

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.errors import CheckpointBroken, CheckpointUnsupported

SCALAR: Any = np.float64(0).__reduce__()[0]
"""Rebuilds a numpy scalar: `numpy._core.multiarray.scalar`; before numpy 2 the name had no underscore."""

HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    SCALAR,
    (SCALAR, "numpy.core.multiarray.scalar"),
    *{type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64", "bool", "uint8")},
]


def load_pickle(path: Path) -> Any:
    """Return the content of a file of `torch.save`, with tensors on the CPU.

    Raises CheckpointUnsupported for a file that needs to run code, CheckpointBroken for a damaged file.
    """
    if _is_torchscript(path):
        raise CheckpointUnsupported(
            f"{path}: a TorchScript archive, which contains code; if you trust it, convert it to safetensors with "
            "save_file(torch.jit.load(...).state_dict(), ...)"
        )
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointUnsupported(
                f"{path}: loading it would run code ({code[1]}); save only its state_dict, preferably as safetensors"
            ) from error
        raise CheckpointBroken(
            f"{path}: not readable by torch.load; it is damaged, or not a file of torch.save"
        ) from error
    except Exception as error:
        raise CheckpointBroken(
            f"{path}: not readable by torch.load; it is damaged, or not a file of torch.save; download it again"
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except zipfile.BadZipFile:  # torch.load says that it is damaged
        return False

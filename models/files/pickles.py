"""Reading what `torch.save` wrote, without running any code that it brings.

`torch.load(weights_only=True)` reads tensors and plain containers. Training scripts add their arguments and numbers of
numpy: those few harmless types are let through; everything else is refused by its name.
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
"""What rebuilds a number of numpy: `numpy._core.multiarray.scalar`, named without the underscore before numpy 2."""

HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    SCALAR,
    (SCALAR, "numpy.core.multiarray.scalar"),
    *{type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64", "bool", "uint8")},
]


def load_pickle(path: Path) -> Any:
    """What `torch.save` put into the file, on the CPU.

    Raises CheckpointUnsupported for a file that needs code to be run, CheckpointBroken for a damaged one.
    """
    if _is_torchscript(path):
        raise CheckpointUnsupported(
            f"{path}: a TorchScript archive, which holds code; convert it to safetensors first, "
            "with save_file(torch.jit.load(...).state_dict()) where you trust it"
        )
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wants := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointUnsupported(
                f"{path}: wants to run code ({wants[1]}); save its state_dict alone, best as safetensors"
            ) from error
        raise CheckpointBroken(f"{path}: not readable as weights; it is damaged, or no file of torch.save") from error
    except Exception as error:
        raise CheckpointBroken(f"{path}: not a readable file of torch.save ({_first_line(error)})") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""timm, the original that the answers are compared with, and the torchvision that it needs.

torchvision's wheel registers shapes for compiled operators that it brings for another build of torch only. Neither the
models nor the transforms need them, so while it is imported these registrations are passed over.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def _without_compiled_operators() -> Iterator[None]:
    register = torch.library.register_fake

    def pass_over(operator: Any, *args: Any, **kwargs: Any) -> Any:
        if str(operator).startswith("torchvision::"):
            return lambda function: function
        return register(operator, *args, **kwargs)

    replaced: Callable[..., Any] = pass_over
    torch.library.register_fake = replaced
    try:
        yield
    finally:
        torch.library.register_fake = register


with _without_compiled_operators():
    import timm
    import timm.data
    import torchvision

__all__ = ["timm", "torchvision"]

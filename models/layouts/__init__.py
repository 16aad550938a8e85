"""The public layouts of Vision Transformer checkpoints: one file for each, which recognises it and maps its keys.

To add one, write a module with `recognises(source) -> bool` and `convert(source) -> Converted`, and list it here,
the more particular before the more general.
"""

from types import ModuleType

from models.layouts import timm

LAYOUTS: tuple[ModuleType, ...] = (timm,)

"""Vitrine: a trained Vision Transformer behind HTTP."""

from importlib.metadata import version

__version__ = version("vitrine")

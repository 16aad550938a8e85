"""Vitrine: a trained Vision Transformer behind HTTP."""

from importlib.metadata import version

from app.threads.openmp import limit_spinning

limit_spinning()  # before anything imports torch

__version__ = version("vitrine")

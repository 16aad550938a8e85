"""Vitrine: a trained Vision Transformer behind HTTP."""

# Nothing that takes milliseconds to import: until `app/__main__.py` runs, Ctrl-C ends in a traceback.
from app.threads.openmp import limit_spinning

limit_spinning()  # before anything imports torch

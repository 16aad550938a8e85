"""Kernels: several ways to compute attention, linear layers and norms, and the choice among them by trying.

The plain way of each runs on every device and is what the others have to agree with. Private operators of torch stand
in `linear.py` alone; our own, in C, in `native/`, behind `operators.py` and `tiles.py`.
"""

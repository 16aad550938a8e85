"""Checkpoints of timm, and the configurations that its tensors' shapes and names give."""

"""Checkpoints of transformers: ViT and its relatives, CLIP's vision tower, DINOv2."""

"""The Vision Transformer and the code that loads its checkpoints.

Does: turn the name of a checkpoint into a `VisionTransformer`, its preprocessing and its labels.
Knows: torch, and the checkpoint formats of timm, transformers, torchvision, open_clip, facebookresearch and JAX.
Does not know: HTTP, queues, image files. It never imports `app`.
"""

"""The Vision Transformer itself, for inference over images of any mix of sizes.

Knows tensors and its configuration. Knows nothing of files, checkpoints or the service.
"""

"""The Vision Transformer, for inference on images of any mix of sizes.

Does: run normalised images through the network and return embeddings, logits, patch tokens and attention maps.
Knows: tensors and `ViTConfig`.
Does not know: files, checkpoints, image decoding, the service.
"""

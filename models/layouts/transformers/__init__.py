"""Checkpoints of transformers: ViT and its variants, DINOv2, DINOv3, BEiT; the vision towers of CLIP, SigLIP, AIMv2.

Does: read `config.json`, `preprocessor_config.json`, and the tensors.
Knows: transformers' names, config classes, image processors and their defaults.
Does not know: files, the network.
"""

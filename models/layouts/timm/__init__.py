"""Checkpoints of timm.

Does: read timm's `config.json`, and its tensors.
Knows: timm's names, arguments and defaults. Other layouts use its config.json format too.
Does not know: files, the network.
"""

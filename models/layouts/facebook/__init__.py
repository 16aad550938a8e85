"""facebookresearch's own files, which have no config.

Does: recognise the original of a file by its tensors or its name, and read it.
Knows: the names of DINO, DINOv2, DINOv3, EUPE, DeiT and MAE, which are mostly timm's.
Does not know: how files are opened, the network.
"""

"""From the name of a checkpoint to its tensors: a path or a repository on the hub, and each file format.

Knows files. Knows nothing of what the tensors mean.
"""

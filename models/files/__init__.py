"""From the name of a checkpoint to its tensors.

Does: resolve a local path or a repository on the Hugging Face hub, and read each file format without running its code.
Knows: files, folders, the hub.
Does not know: what the tensors mean.
"""

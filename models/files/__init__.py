"""From the name of a checkpoint to its tensors, and from tensors to a file.

Does: resolve a local path or a repository on the Hugging Face hub, read each file format without running its code, and
write tensors.
Knows: files, folders, the hub.
Does not know: what the tensors mean.
"""

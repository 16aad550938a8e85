"""The network and the checkpoints it is built from.

In: the path of a checkpoint. Out: a `VisionTransformer` ready to run, and what the
checkpoint says of pixels and labels.
Knows torch; knows nothing of HTTP, of queues or of image files, and never imports `app`.
"""

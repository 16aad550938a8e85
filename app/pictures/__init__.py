"""Decode image files to the network's pixels, and encode pixels as PNG files.

Knows file formats, Pillow and the checkpoint's preprocessing. Knows nothing of HTTP, queues or the network. Finds every
problem with an image before it is queued. Start reading at `decode.py`.
"""

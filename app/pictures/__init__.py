"""Turn the bytes of an image file into the network's pixels, and pixels into PNG files.

Knows file formats, Pillow and the checkpoint's preprocessing. Knows nothing of HTTP, queues or the network. Every fault
of an image is found here, before the queue.
"""

"""Decide how many threads the process uses and which run first, and let them call the event loop.

Knows the operating system. Knows nothing of images, models or HTTP.
"""

"""Decide how many threads the process uses and how they wait, and let them call the event loop.

Knows the operating system. Knows nothing of images, models or HTTP.
"""

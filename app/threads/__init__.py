"""How many threads the process may use, which of them go first, and how they call the event loop.

Knows the operating system. Knows nothing of images, models or HTTP.
"""

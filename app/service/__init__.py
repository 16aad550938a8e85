"""The path that every request takes: uploads, decode, queue, one forward pass, answers; and the cache.

Knows pictures and inference, and joins them. Knows nothing of HTTP, bodies or response formats.
"""

"""Read what image files declare about themselves: one module per container format, and one table of all of them.

Knows the bytes of container formats. Knows nothing of Pillow, pixels or limits that an operator sets.
"""

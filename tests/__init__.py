"""Tests of the real thing: the real model, a real server process on a real port, real clients.

What they compute themselves waits like the service does: the package is imported before torch.
"""

import app  # noqa: F401

"""What surrounds every route: connections and their limits, middleware, API keys, errors as responses.

Knows ASGI and HTTP. Knows nothing of images or models.
"""

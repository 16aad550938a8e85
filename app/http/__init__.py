"""Handle what surrounds every route: connections and their limits, middleware, API keys, errors as responses.

Knows ASGI, HTTP and uvicorn. Knows nothing of images or models.
"""

"""Connections as uvicorn serves them, with the limits that it lacks.

connection: one connection and its requests. deadlines, disconnect, linger: how it waits and ends. head: what is wrong
with the head of a request. refusals: those that are repeated without a handler. transport: what uvicorn reads and
writes. Knows uvicorn and HTTP. Knows nothing of images, models or routes.
"""

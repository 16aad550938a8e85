"""The Vitrine-Fingerprint header: equal fingerprints mean that two answers can be compared with each other."""

from fastapi import Response

from app.service import Classes, Engine, Resolution, Task, answer_fingerprint


def with_fingerprint(response: Response, engine: Engine, resolution: Resolution, task: Task) -> Response:
    """Add the fingerprint to a response."""
    response.headers["Vitrine-Fingerprint"] = answer_fingerprint(engine, resolution, task)
    return response


def with_classes(response: Response, engine: Engine, classes: Classes) -> Response:
    """Add the fingerprint to a response with classes and, for those of a fitted head, the head's name and version."""
    response.headers["Vitrine-Fingerprint"] = classes.fingerprint(engine)
    if classes.head is not None:
        name = f"name={classes.name}, " if classes.name else ""
        response.headers["Vitrine-Head"] = f"{name}version={classes.head.version}"
    return response

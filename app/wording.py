"""Translate pydantic's validation errors into one sentence that says what the value must be.

pydantic's messages speak of parsing and of Python types. A person who types a flag, sets a variable or sends a request
needs to know what to write instead. Error types: docs.pydantic.dev/latest/errors/validation_errors.
"""

from typing import Any

SENTENCES = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number with fewer digits",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "path_type": "must be a path",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have a length of at least {min_length}",
    "too_long": "must have a length of at most {max_length}",
    "string_pattern_mismatch": "must match the pattern {pattern}",
}
"""A sentence for each pydantic error type. The names in braces come from the error's context."""

PATTERNS: dict[str, str] = {}
"""A sentence for each regular expression that was registered with `allow`."""


def allow(pattern: str, sentence: str) -> str:
    """Register the sentence that explains a pattern ("must be N or HxW"), and return the pattern."""
    PATTERNS[pattern] = sentence
    return pattern


SHOWN = 100
"""The most characters of a value that a message repeats. A longer one may be an image, which no message shows."""


def shown(value: Any) -> str:
    """Return how a message names a client's value: as it is, or only its kind and length."""
    if isinstance(value, str) and len(value) > SHOWN:
        return f"(a string of {len(value)} characters)"
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if isinstance(value, list):
        return f"(a list of {len(value)})"
    if isinstance(value, dict):
        return "(an object)"
    text = repr(value)
    return text if len(text) <= 2 * SHOWN else "(a long value)"


def requirement(fault: Any) -> str:
    """Return a sentence that says what the value must be.

    Args:
        fault: one item of `ValidationError.errors()`.
    """
    context = fault.get("ctx") or {}
    if context.get("pattern") in PATTERNS:
        return PATTERNS[context["pattern"]]
    if fault["type"] in SENTENCES:
        return SENTENCES[fault["type"]].format(**context)
    message: str = fault["msg"]  # raised by a validator of this project, whose message is already such a sentence
    return message.removeprefix("Value error, ")

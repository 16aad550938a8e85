"""What pydantic found wrong with a value -> what the value must be, in this project's own words.

pydantic's messages speak of parsing and of Python's types; a person who types a flag, sets a variable or sends a
request is told what to write. Errors: docs.pydantic.dev/latest/errors/validation_errors.
"""

from typing import Any

SENTENCES = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
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
    "too_short": "must have at least {min_length} in it",
    "too_long": "must have at most {max_length} in it",
    "string_pattern_mismatch": "must match the pattern {pattern}",
}
"""By pydantic's type of error; the names in braces are its context."""

PATTERNS: dict[str, str] = {}
"""What a regular expression of ours allows, by the expression: `allow` puts it there."""


def allow(pattern: str, sentence: str) -> str:
    """Register what a pattern allows ("must be N or HxW"), and return the pattern."""
    PATTERNS[pattern] = sentence
    return pattern


def requirement(fault: Any) -> str:
    """What the value must be.

    Args:
        fault: one of `ValidationError.errors()`.
    """
    context = fault.get("ctx") or {}
    if context.get("pattern") in PATTERNS:
        return PATTERNS[context["pattern"]]
    if fault["type"] in SENTENCES:
        return SENTENCES[fault["type"]].format(**context)
    message: str = fault["msg"]  # of a validator of ours, which says it itself
    return message.removeprefix("Value error, ")

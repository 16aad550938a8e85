"""Read headers whose values have weights: Accept and Accept-Encoding (RFC 9110, 12.4.2 and 12.5)."""

from collections.abc import Sequence


def qualities(header: str) -> dict[str, float]:
    """Return the weight of each value from 0 to 1, in the order of the header; other parameters are left out.

    Clients write weights that the grammar lacks, such as `*; q=.2` of old Java; what is no number counts as 1.
    """
    found: dict[str, float] = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if name:
            weights = [value for key, _, value in (text.partition("=") for text in parameters) if key.strip() == "q"]
            found.setdefault(name, _number(weights[0].strip()) if weights else 1.0)
    return found


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 1.0
    return min(max(value, 0.0), 1.0) if value == value else 1.0  # noqa: PLR0124 - not a number


def preferred(accept: str | None, offers: Sequence[str]) -> str | None:
    """Return the media type that a client prefers of those that it can get; None if it takes none of them.

    A type is weighed by the most specific range that covers it. Of equal weights, a named type comes before one that a
    wildcard covers, then the one that the header names first, then the first of `offers`.

    Args:
        accept: the header Accept; without it, everything is welcome.
        offers: the media types, the default first.
    """
    ranges = qualities(accept or "")
    if not ranges:
        return offers[0]
    places = {name: -place for place, name in enumerate(ranges)}
    best: tuple[float, int, int] = (0.0, 0, 0)
    chosen = None
    for offer in offers:
        covering = (offer, f"{offer.partition('/')[0]}/*", "*/*", "*")
        specific = next(((3 - rank, name) for rank, name in enumerate(covering) if name in ranges), None)
        if specific is None:
            continue
        rank, name = specific
        weight = (ranges[name], rank, places[name])
        if weight[0] > 0 and (chosen is None or weight > best):
            best, chosen = weight, offer
    return chosen

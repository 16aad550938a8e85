"""Keys and sizes for the cache of answers."""

import asyncio
import hashlib
from collections.abc import Hashable, Sequence

from app.errors import ImageProblem
from app.inference.jobs import Ranking
from app.pictures.prepared import PreparedImage, Upload
from app.service.outcome import ImageAnswer

HASHED_ON_THE_LOOP_BYTES = 2**18
"""Hashing this many bytes takes a quarter of a millisecond; more is hashed on a thread."""

OVERHEAD_BYTES = 2**11
"""Size of an answer beside its numbers."""


async def cache_keys(uploads: Sequence[Upload | PreparedImage], decisive: tuple[object, ...]) -> list[Hashable]:
    """Return a key for each image: its bytes and everything else that decides the answer.

    An upload that is an error gets a key that equals no other.
    """
    length = sum(
        len(upload) if isinstance(upload, bytes) else upload.pixels.nbytes
        for upload in uploads
        if not isinstance(upload, ImageProblem)
    )

    def keys() -> list[Hashable]:
        return [object() if isinstance(upload, ImageProblem) else (_digest(upload), decisive) for upload in uploads]

    return keys() if length <= HASHED_ON_THE_LOOP_BYTES else await asyncio.to_thread(keys)


def _digest(upload: bytes | PreparedImage) -> bytes:
    if isinstance(upload, bytes):
        return hashlib.blake2b(upload, digest_size=16).digest()
    facts = (upload.pixels.shape, upload.pixels.dtype.str, upload.plan, upload.width, upload.height, upload.format)
    return hashlib.blake2b(repr(facts).encode() + upload.pixels.tobytes(), digest_size=16).digest()


def cached_bytes(outcome: ImageAnswer | ImageProblem) -> int | None:
    """Return the size of an answer in the cache; None for a problem: problems are not cached."""
    if isinstance(outcome, ImageProblem):
        return None
    answers = [outcome.answer] if outcome.second is None else [outcome.answer, outcome.second]
    numbers = sum(
        answer.indices.nbytes + answer.scores.nbytes if isinstance(answer, Ranking) else answer.nbytes
        for answer in answers
    )
    return numbers + outcome.image.pixels.nbytes + OVERHEAD_BYTES

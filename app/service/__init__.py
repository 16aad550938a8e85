"""The path that every request takes: uploads, decode, queue, one forward pass, answers; and the cache.

Knows pictures and inference, and joins them. Knows nothing of HTTP, bodies or response formats. The rooms above it
import the public names from here.
"""

from app.inference.engine import Engine
from app.inference.jobs import Ranking
from app.inference.task import Task
from app.pictures.prepared import PreparedImage, Resolution, Upload
from app.service.classes import Classes, check_fits, fits, misfit, space_of
from app.service.fingerprint import answer_fingerprint
from app.service.outcome import ImageAnswer
from app.service.service import Service
from models.network.intermediate import TokenSpec
from models.network.vit import Readout

__all__ = [
    "Classes",
    "Engine",
    "ImageAnswer",
    "PreparedImage",
    "Ranking",
    "Readout",
    "Resolution",
    "Service",
    "Task",
    "TokenSpec",
    "Upload",
    "answer_fingerprint",
    "check_fits",
    "fits",
    "misfit",
    "space_of",
]

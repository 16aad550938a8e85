"""FastAPI and OpenVINO, what an hour of work makes of a processor. `uvicorn benchmarks.vino:app`.

Each request is one picture, decoded at a reduced scale if it is a large JPEG. The network has a static shape with a
batch of one, and runs in as many streams as OpenVINO's hint chooses. The variables MODEL (a directory of
`benchmarks.vino_model`), HINT and PRECISION say what runs.
"""

import io
import json
import os
import queue
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from fastapi import FastAPI, UploadFile
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(os.environ["MODEL"])
FACTS = json.loads((FOLDER / "facts.json").read_text())
TOP_K = 5

app = FastAPI()


def _compile() -> "queue.SimpleQueue[openvino.InferRequest]":
    """Return as many requests as OpenVINO wants to run at the same time."""
    settings = {"PERFORMANCE_HINT": os.environ["HINT"], "INFERENCE_PRECISION_HINT": os.environ["PRECISION"]}
    compiled = openvino.Core().compile_model(FOLDER / "model.xml", "CPU", settings)
    requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
    for _ in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")):
        requests.put(compiled.create_infer_request())
    return requests


requests = _compile()


def decode(data: bytes) -> NDArray[np.float32]:
    """Decode and preprocess a file: bytes -> (1, 3, height, width)."""
    side = FACTS["side"]
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("RGB", (2 * side, 2 * side))
        pixels = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    normalised = (np.asarray(pixels, np.float32) / 255 - FACTS["mean"]) / FACTS["std"]
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None], np.float32)


@app.get("/health")
def health() -> dict[str, str]:
    """Answer once the model is loaded."""
    return {"status": "ok"}


@app.post("/classify")
def classify(image: UploadFile) -> dict[str, Any]:
    """Return the top five classes of one picture."""
    pixels = decode(image.file.read())
    request = requests.get()
    try:
        logits = next(iter(request.infer({0: pixels}).values()))[0]
        scores = np.exp(logits - logits.max())
    finally:
        requests.put(request)
    scores /= scores.sum()
    best = np.argsort(-scores)[:TOP_K]
    return {"predictions": [{"index": int(index), "score": float(scores[index])} for index in best]}

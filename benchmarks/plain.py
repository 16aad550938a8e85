"""The simplest service: FastAPI and transformers, one picture at a time. `uvicorn benchmarks.plain:app`."""

from typing import Any

from fastapi import FastAPI, UploadFile

from benchmarks.original import Original

app = FastAPI()
original = Original()


@app.get("/health")
def health() -> dict[str, str]:
    """Answer once the model is loaded."""
    return {"status": "ok"}


@app.post("/classify")
def classify(image: UploadFile) -> dict[str, Any]:
    """Return the top five classes of one picture."""
    return {"predictions": original.classify([original.decode(image.file.read())])[0]}

"""What one would write first: FastAPI, timm and Pillow, one image at a time. The other side of `make bench`."""

import io

import torch
from fastapi import FastAPI, UploadFile
from PIL import Image

from app.settings import SHIPPED_MODEL
from tests.originals import timm

app = FastAPI()
model = timm.create_model(f"local-dir:{SHIPPED_MODEL}", pretrained=True, dynamic_img_size=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))


@app.get("/readyz")
def ready() -> dict[str, str]:
    """Answer as soon as the model is there."""
    return {"status": "ok"}


@app.post("/classify")
def classify(image: UploadFile) -> dict[str, list[float]]:
    """The five best classes of one image."""
    picture = Image.open(io.BytesIO(image.file.read())).convert("RGB")
    with torch.inference_mode():
        probabilities = model(transform(picture)[None])[0].softmax(0)
    top = probabilities.topk(5)
    return {"scores": top.values.tolist(), "indices": top.indices.tolist()}

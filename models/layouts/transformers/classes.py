"""The model classes of transformers that are served, by model_type.

A class is served because it is in this table: the same tensors under another class may answer otherwise. A config.json
without `architectures` names no class, and is read by its tensors.

Source: huggingface/transformers 5, `modeling_*.py` of each model. Each class was compared with transformers:
docs/coverage.md has the result.
"""

from collections.abc import Mapping
from typing import Any

from models.errors import CheckpointUnsupported

CLASSES: dict[str, str] = {
    "vit": "ViTModel ViTForImageClassification ViTForMaskedImageModeling",
    "deit": "DeiTModel DeiTForImageClassification DeiTForImageClassificationWithTeacher DeiTForMaskedImageModeling",
    "vit_mae": "ViTMAEModel ViTMAEForPreTraining",
    "ijepa": "IJepaModel IJepaForImageClassification",
    "vit_msn": "ViTMSNModel ViTMSNForImageClassification",
    "dinov2": "Dinov2Model Dinov2ForImageClassification Dinov2Backbone",
    "dinov2_with_registers": (
        "Dinov2WithRegistersModel Dinov2WithRegistersForImageClassification Dinov2WithRegistersBackbone"
    ),
    "dinov3_vit": "DINOv3ViTModel DINOv3ViTBackbone",
    "beit": "BeitModel BeitForImageClassification BeitForMaskedImageModeling",
    "data2vec-vision": "Data2VecVisionModel Data2VecVisionForImageClassification",
    "clip": "CLIPModel CLIPForImageClassification CLIPVisionModel CLIPVisionModelWithProjection",
    "clip_vision_model": "CLIPVisionModel CLIPVisionModelWithProjection",
    "siglip": "SiglipModel SiglipForImageClassification SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2": "Siglip2Model Siglip2ForImageClassification Siglip2VisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
    "aimv2": "Aimv2Model AIMv2Model",
    "aimv2_vision_model": "Aimv2VisionModel",
}
"""Classes by model_type. Older releases wrote CLIP's towers alone with the model_type of both. `AIMv2Model` is apple's
own class, whose files have the model_type of both towers too."""


def check(config: Mapping[str, Any]) -> None:
    """Raise CheckpointUnsupported for a model_type or a class that is not served."""
    model_type = str(config["model_type"])
    if model_type not in CLASSES:
        raise CheckpointUnsupported(
            f"config.json: model_type {model_type!r} is not supported, only {', '.join(CLASSES)}"
        )
    known = CLASSES[model_type].split()
    unknown = [str(name) for name in config.get("architectures") or () if name not in known]
    if unknown:
        raise CheckpointUnsupported(
            f"config.json: the class {unknown[0]!r} of transformers is not supported; "
            f"of model_type {model_type!r}: {', '.join(known)}"
        )

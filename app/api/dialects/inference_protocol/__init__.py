"""The Open Inference Protocol, version 2: /v2, for clients of KServe, Triton and Seldon.

A request has one input: `image`, files as BYTES (base64 in JSON); `pixels`, UINT8 (n, 3, H, W) from 0 to 255, not
normalised; or `pixel_values`, FP32 (n, 3, H, W), normalised by the checkpoint's mean and std.
Outputs: `embedding`, the vectors of /embed; `scores` and `labels`, the best classes of /classify.
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

repository: the endpoints for the server, its models and versions. routes: the others. schemas: their JSON.
tensors: tensors in JSON or as binary data. pixels: preprocessed images.
"""

from app.api.dialects.inference_protocol.repository import router
from app.api.dialects.inference_protocol.routes import ERROR_FORMAT

__all__ = ["ERROR_FORMAT", "router"]

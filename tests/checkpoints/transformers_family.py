"""The families of transformers, saved by transformers: with the names of files, and with those in memory."""

import json
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoints.original import NATIVE_ONLY, SIZES, Family, Original, randomise

TOY: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 8,
    "num_labels": 7,
}
MLP: dict[str, Any] = {"intermediate_size": 96}
Read = Callable[..., dict[str, Tensor]]


def build(kind: str, **config: Any) -> Any:
    model_class = getattr(transformers, kind)
    return randomise(model_class(model_class.config_class(**config)))


def hidden(model: Any, pictures: Tensor, **options: Any) -> dict[str, Tensor]:
    """The outputs of a network without a head: normed tokens and, if it has one, the pooler's output."""
    output = model(pictures, **options)
    tokens = output.last_hidden_state
    prefix = tokens.shape[1] - (pictures.shape[2] // 8) * (pictures.shape[3] // 8)
    read = {"mean": tokens[:, prefix:].mean(1)} | ({"cls": tokens[:, 0]} if prefix else {})
    return read | ({"native": output.pooler_output} if output.get("pooler_output") is not None else {})


def classify(model: Any, pictures: Tensor, **options: Any) -> dict[str, Tensor]:
    output = model(pictures, output_hidden_states=True, **options)
    norm = getattr(model.base_model, "layernorm", None) or model.base_model.post_layernorm
    tokens = norm(output.hidden_states[-1])
    return {"cls": tokens[:, 0], "logits": output.logits}


def logits(model: Any, pictures: Tensor, **options: Any) -> dict[str, Tensor]:
    return {"logits": model(pictures, **options).logits}


def encode(model: Any, pictures: Tensor, **options: Any) -> dict[str, Tensor]:
    """MAE's encoder over all patches, in their order."""
    count = (pictures.shape[2] // 8) * (pictures.shape[3] // 8)
    noise = torch.arange(count).float().expand(len(pictures), count)
    return hidden(model, pictures, noise=noise, **options)


def embed(model: Any, pictures: Tensor, **options: Any) -> dict[str, Tensor]:
    """CLIP's tower with its projection."""
    output = model(pictures, **options)
    tower = getattr(model, "vision_model", model)
    return {"cls": tower.post_layernorm(output.last_hidden_state[:, 0]), "native": output.image_embeds}


def tower(model: Any, pictures: Tensor, **options: Any) -> dict[str, Tensor]:
    return {"cls": model(pictures, **options).pooler_output}


def both_towers(model: Any, pictures: Tensor, **options: Any) -> dict[str, Tensor]:
    output = model.get_image_features(pictures, **options)
    return {"native": output if isinstance(output, Tensor) else output.pooler_output}


def naflex(read: Read) -> Read:
    """SigLIP 2 NaFlex reads flat patches, their number in each direction, and which of them are padding."""

    def forward(model: Any, pictures: Tensor, **options: Any) -> dict[str, Tensor]:
        h, w = pictures.shape[2] // 8, pictures.shape[3] // 8
        tiles = pictures.unflatten(3, (w, 8)).unflatten(2, (h, 8))  # (B, 3, h, 8, w, 8)
        patches = tiles.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        mask = torch.ones(len(pictures), h * w + 5, dtype=torch.int32)
        mask[:, h * w :] = 0
        padded = torch.nn.functional.pad(patches, (0, 0, 0, 5))
        shapes = torch.tensor([[h, w]] * len(pictures))
        return read(model, padded, pixel_attention_mask=mask, spatial_shapes=shapes, **options)

    return forward


def pooled(model: Any, pictures: Tensor, **options: Any) -> dict[str, Tensor]:
    return {"native": model(pictures, **options).pooler_output}


def masked(model: Any, pictures: Tensor, **options: Any) -> dict[str, Tensor]:
    """The network below a head that predicts pixels."""
    return {"cls": model.base_model(pictures, **options).last_hidden_state[:, 0]}


def maps(model: Any, pictures: Tensor) -> dict[str, Tensor]:
    """The mean of the feature map that a backbone returns: (B, D, h, w) -> (B, D)."""
    return {"mean": model(pictures).feature_maps[-1].mean((2, 3))}


def masked_beit(model: Any, pictures: Tensor, **options: Any) -> dict[str, Tensor]:
    """The tokens that the head of BEiT's pre-training reads."""
    tokens = model.layernorm(model.beit(pictures, **options).last_hidden_state)
    return {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}


def make(
    kind: str,
    read: Read,
    folder: Path,
    in_memory: bool = False,
    any_size: bool = True,
    interpolate: bool = True,
    **config: Any,
) -> Original:
    model = build(kind, **config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    if in_memory:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    options = {"interpolate_pos_encoding": True} if interpolate else {}
    return Original(folder, partial(read, model, **options), sizes=SIZES if any_size else NATIVE_ONLY)


APPLE = {
    r"^vision_model\.": "",
    r"^embeddings\.patch_embed": "preprocessor.patchifier.proj",
    r"^embeddings\.rms_norm": "preprocessor.patchifier.norm",
    r"^embeddings\.position_embedding\.weight": "preprocessor.pos_embed",
    r"^encoder\.layers": "trunk.blocks",
    r"^rms_norm": "trunk.post_trunk_norm",
    r"attention\.out_proj": "attn.proj",
    r"attention\.": "attn.",
    r"rms_norm([12])": r"norm_\1",
    r"ffn\.gate_proj": "mlp.fc1",
    r"ffn\.up_proj": "mlp.fc3",
    r"ffn\.down_proj": "mlp.fc2",
}
"""Names of AIMv2 in transformers -> those of apple's files on the hub."""


def make_apple(kind: str, folder: Path) -> Original:
    """AIMv2 under apple's own names, with queries, keys and values joined."""
    original = make("Aimv2VisionModel", hidden, folder, any_size=False, interpolate=False, use_head=False, **SIGLIP)
    weights: dict[str, Tensor] = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        name = key
        for old, new in APPLE.items():
            name = re.sub(old, new, name)
        weights[name] = tensor
    for i in range(TOY["num_hidden_layers"]):
        parts = [weights.pop(f"trunk.blocks.{i}.attn.{part}_proj.weight") for part in "qkv"]
        weights[f"trunk.blocks.{i}.attn.qkv.weight"] = torch.cat(parts)
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "aimv2", "architectures": [kind]}))
    return original


VIT = TOY | MLP
DINOV3 = {key: value for key, value in VIT.items() if key != "num_labels"} | {"num_register_tokens": 4}
SWIGLU = TOY | {"use_swiglu_ffn": True}
CLIP = {key: value for key, value in VIT.items() if key != "num_labels"} | {"projection_dim": 48}
SIGLIP = {key: value for key, value in VIT.items() if key != "num_labels"}
NAFLEX = {key: value for key, value in SIGLIP.items() if key != "image_size"} | {"num_patches": 64}
TEXT = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50,
    "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip

TABLES = VIT | {"use_relative_position_bias": True}
SHARED = VIT | {"use_shared_relative_position_bias": True}
CLS_HEAD: dict[str, Any] = {"use_mean_pooling": False}

DECODER: dict[str, Any] = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}

VARIANTS: dict[str, Callable[[Path], Original]] = {
    "ViT": partial(make, "ViTForImageClassification", classify, **VIT),
    "ViT, names in memory": partial(make, "ViTForImageClassification", classify, in_memory=True, **VIT),
    "ViT with pooler": partial(make, "ViTModel", hidden, **VIT),
    "ViT with pooler, names in memory": partial(make, "ViTModel", hidden, in_memory=True, **VIT),
    "ViT, tanh, no qkv bias": partial(
        make, "ViTForImageClassification", classify, **VIT, hidden_act="gelu_pytorch_tanh", qkv_bias=False
    ),
    "ViT, masked pixels": partial(make, "ViTForMaskedImageModeling", masked, **VIT),
    "DeiT, masked pixels": partial(make, "DeiTForMaskedImageModeling", masked, **VIT),
    "DeiT, bare": partial(make, "DeiTModel", hidden, **VIT),
    "IJepa, bare": partial(make, "IJepaModel", hidden, **VIT),
    "DeiT": partial(make, "DeiTForImageClassification", classify, **VIT),
    "DeiT with teacher": partial(make, "DeiTForImageClassificationWithTeacher", logits, **VIT),
    "DeiT, names in memory": partial(make, "DeiTForImageClassification", classify, in_memory=True, **VIT),
    "ViTMSN": partial(make, "ViTMSNForImageClassification", classify, **VIT),
    "ViTMSN, bare": partial(make, "ViTMSNModel", hidden, **VIT),
    "ViTMAE, encoder": partial(make, "ViTMAEModel", encode, **VIT, mask_ratio=0.0),
    "ViTMAE, pre-training": partial(
        make, "ViTMAEForPreTraining", lambda m, x, **o: encode(m.vit, x, **o), **VIT, mask_ratio=0.0, **DECODER
    ),
    "IJepa": partial(make, "IJepaForImageClassification", logits, **VIT),
    "Dinov2": partial(make, "Dinov2ForImageClassification", classify, interpolate=False, **TOY),
    "Dinov2, bare": partial(make, "Dinov2Model", hidden, interpolate=False, **TOY),
    "Dinov2, names in memory": partial(make, "Dinov2Model", hidden, interpolate=False, in_memory=True, **TOY),
    "Dinov2 SwiGLU": partial(make, "Dinov2ForImageClassification", classify, interpolate=False, **SWIGLU),
    "Dinov2 SwiGLU, names in memory": partial(make, "Dinov2Model", hidden, interpolate=False, in_memory=True, **SWIGLU),
    "Dinov2WithRegisters": partial(
        make, "Dinov2WithRegistersForImageClassification", classify, interpolate=False, **TOY, num_register_tokens=4
    ),
    "Dinov2WithRegisters, names in memory": partial(
        make, "Dinov2WithRegistersModel", hidden, interpolate=False, in_memory=True, **TOY, num_register_tokens=4
    ),
    "DINOv3": partial(make, "DINOv3ViTModel", hidden, interpolate=False, **DINOV3),
    "DINOv3, names in memory": partial(make, "DINOv3ViTModel", hidden, interpolate=False, in_memory=True, **DINOV3),
    "DINOv3, gated": partial(
        make, "DINOv3ViTModel", hidden, interpolate=False, **DINOV3, use_gated_mlp=True, hidden_act="silu"
    ),
    "DINOv3, no registers, other biases": partial(
        make, "DINOv3ViTModel", hidden, interpolate=False,
        **DINOV3 | {"num_register_tokens": 0}, query_bias=False, key_bias=True, proj_bias=False, mlp_bias=False,
    ),
    "DINOv3, no biases of queries, keys and values": partial(
        make, "DINOv3ViTModel", hidden, interpolate=False, **DINOV3, query_bias=False, value_bias=False
    ),
    "DINOv3, backbone": partial(make, "DINOv3ViTBackbone", maps, interpolate=False, **DINOV3),
    "Dinov2 backbone": partial(make, "Dinov2Backbone", maps, interpolate=False, **TOY),
    "Dinov2WithRegisters backbone": partial(
        make, "Dinov2WithRegistersBackbone", maps, interpolate=False, **TOY, num_register_tokens=4
    ),
    "Dinov2WithRegisters, bare": partial(
        make, "Dinov2WithRegistersModel", hidden, interpolate=False, **TOY, num_register_tokens=4
    ),
    "CLIP vision": partial(make, "CLIPVisionModel", tower, **CLIP),
    "CLIP vision, names in memory": partial(make, "CLIPVisionModel", tower, in_memory=True, **CLIP),
    "CLIP with projection": partial(make, "CLIPVisionModelWithProjection", embed, **CLIP),
    "CLIP, both towers": partial(
        make, "CLIPModel", both_towers, vision_config=CLIP | {"hidden_act": "gelu"}, text_config=TEXT, projection_dim=48
    ),
    "CLIP with classifier": partial(
        make, "CLIPForImageClassification", logits, vision_config=CLIP,
        text_config=TEXT, num_labels=7,
    ),
    "SigLIP vision": partial(make, "SiglipVisionModel", hidden, **SIGLIP),
    "SigLIP vision, names in memory": partial(make, "SiglipVisionModel", hidden, in_memory=True, **SIGLIP),
    "SigLIP vision, erf GELU, no pooling": partial(
        make, "SiglipVisionModel", hidden, **SIGLIP, hidden_act="gelu", vision_use_head=False
    ),
    "SigLIP, both towers": partial(
        make, "SiglipModel", both_towers, vision_config=SIGLIP, text_config=TEXT | {"projection_size": 48}
    ),
    "SigLIP with classifier": partial(
        make, "SiglipForImageClassification", logits, vision_config=SIGLIP, text_config=TEXT, num_labels=7
    ),
    "SigLIP 2 NaFlex vision": partial(make, "Siglip2VisionModel", naflex(pooled), interpolate=False, **NAFLEX),
    "SigLIP 2 NaFlex, both towers": partial(
        make, "Siglip2Model", naflex(both_towers), interpolate=False, vision_config=NAFLEX,
        text_config=TEXT | {"projection_size": 48},
    ),
    "SigLIP 2 NaFlex with classifier": partial(
        make, "Siglip2ForImageClassification", naflex(logits), interpolate=False, vision_config=NAFLEX,
        text_config=TEXT, num_labels=7,
    ),
    "AIMv2 vision": partial(make, "Aimv2VisionModel", hidden, interpolate=False, any_size=False, **SIGLIP),
    "AIMv2 vision, no pooling, biases": partial(
        make, "Aimv2VisionModel", hidden, interpolate=False, any_size=False, **SIGLIP, use_head=False, qkv_bias=True,
        mlp_bias=True,
    ),
    "AIMv2 vision, native": partial(make, "Aimv2VisionModel", hidden, interpolate=False, **SIGLIP, is_native=True),
    "AIMv2, apple's names": partial(make_apple, "AIMv2Model"),
    "AIMv2, both towers": partial(
        make, "Aimv2Model", both_towers, interpolate=False, any_size=False, vision_config=SIGLIP,
        text_config={key: value for key, value in TEXT.items() if "token" not in key} | {"eos_token_id": 1},
        projection_dim=48,
    ),
    "BEiT": partial(make, "BeitForImageClassification", classify, **TABLES),
    "BEiT, names in memory": partial(make, "BeitForImageClassification", classify, in_memory=True, **TABLES),
    "BEiT, head on [CLS]": partial(make, "BeitForImageClassification", classify, **TABLES, **CLS_HEAD),
    "BEiT, a shared table": partial(make, "BeitModel", hidden, **SHARED, use_mask_token=True),
    "BEiT, a shared table, names in memory": partial(make, "BeitModel", hidden, in_memory=True, **SHARED),
    "BEiT, every table": partial(
        make, "BeitModel", hidden, **SHARED | TABLES, use_absolute_position_embeddings=True, **CLS_HEAD
    ),
    "BEiT, pre-training": partial(make, "BeitForMaskedImageModeling", masked_beit, **SHARED, use_mask_token=True),
    "BEiT, no layer scale": partial(make, "BeitModel", hidden, **TABLES, layer_scale_init_value=0.0),
    "Data2VecVision": partial(make, "Data2VecVisionForImageClassification", classify, **TABLES),
    "Data2VecVision, bare": partial(make, "Data2VecVisionModel", hidden, **SHARED),
}  # fmt: skip
FAMILIES = [Family(f"transformers, {name}", variant, "transformers") for name, variant in VARIANTS.items()]

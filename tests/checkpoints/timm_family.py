"""The variants of timm's vision_transformer, each saved by timm."""

import copy
import dataclasses
import json
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.checkpoints.original import LARGER, NATIVE, SIZES, SMALLER, Family, Original, Size, randomise
from tests.originals import timm

TOY: dict[str, Any] = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 7}


def create(architecture: str, **arguments: Any) -> Any:
    return timm.create_model(architecture, **{"img_size": 64, "dynamic_img_size": True, **TOY, **arguments})


def save(
    model: Any, folder: Path, architecture: str, arguments: Mapping[str, Any], size: tuple[int, int] = NATIVE
) -> None:
    """Write the directory that timm uploads to the hub."""
    model.pretrained_cfg = dict(model.pretrained_cfg, architecture=architecture, input_size=(3, *size))
    model_args = {key: value for key, value in arguments.items() if not callable(value)}
    timm.models.save_for_hf(model, folder, model_args=model_args, safe_serialization=True)


def forward(model: Any, pictures: Tensor) -> dict[str, Tensor]:
    tokens = model.forward_features(pictures)
    read = {"native": model.forward_head(tokens, pre_logits=True)}
    if model.num_classes:
        read["logits"] = model.forward_head(tokens)
    prefix = model.num_prefix_tokens
    read["mean"] = tokens[:, prefix:].mean(1)
    if getattr(model, "cls_token", None) is not None:
        read["cls"] = tokens[:, 0]
    return read


def make(architecture: str, folder: Path, native: tuple[int, int] = NATIVE, **changed: Any) -> Original:
    arguments = {"img_size": native, "dynamic_img_size": True, **TOY, **changed}
    model = randomise(timm.create_model(architecture, **arguments))
    save(model, folder, architecture, arguments, native)
    sizes = SIZES if native == NATIVE else {"native": native, "turned": (native[1], native[0]), "larger": (96, 160)}
    return Original(folder, partial(forward, model), sizes=sizes)


def make_naflex(architecture: str, folder: Path, **changed: Any) -> Original:
    """timm's NaFlex network, which takes pictures as well as flat patches."""
    arguments = {**TOY, "pos_embed_grid_size": (8, 8), **changed}
    model = randomise(timm.create_model(architecture, **arguments))
    save(model, folder, architecture, arguments)
    return Original(folder, partial(forward, model))


def make_projection(architecture: str, folder: Path) -> Original:
    """CLIP's vision tower as timm publishes it: the head is the projection, with a bias of zeros."""
    arguments = {"img_size": 64, "dynamic_img_size": True, **TOY, "num_classes": 512}
    model: Any = randomise(timm.create_model(architecture, **arguments))
    model.head.bias.zero_()
    save(model, folder, architecture, arguments)

    def read(pictures: Tensor) -> dict[str, Tensor]:
        tokens = model.forward_features(pictures)
        return {"cls": tokens[:, 0], "native": model.forward_head(tokens)}

    return Original(folder, read)


def make_flexivit(folder: Path) -> Original:
    """flexivit is resampled while loading, so there is one model for each size, made by timm's own function."""
    arguments = {"img_size": 64, **TOY}
    trained = randomise(timm.create_model("flexivit_small", **arguments))
    save(trained, folder, "flexivit_small", arguments)
    at_size: dict[tuple[int, ...], Any] = {}
    for size in (NATIVE, SMALLER, LARGER):
        model = timm.create_model("flexivit_small", **(arguments | {"img_size": size})).eval()
        weights = timm.models.vision_transformer.checkpoint_filter_fn(
            dict(trained.state_dict()), model, interpolation="bilinear", antialias=False
        )
        model.load_state_dict(weights)
        at_size[size] = model
    sizes = {"native": NATIVE, "smaller": SMALLER, "larger": LARGER}
    return Original(folder, lambda pictures: forward(at_size[tuple(pictures.shape[2:])], pictures), sizes=sizes)


def make_dynamic_flexivit(folder: Path) -> Original:
    """flexivit with `dynamic_img_size`, which timm resamples in the forward pass by its usual rule."""
    made = make("flexivit_small", folder)
    return Original(made.path, made.forward, {"profile": "timm"}, made.sizes)


def resized(model: Any, size: Size) -> Any:
    """A copy of a network of one size, as timm changes it for another one."""
    model = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's interpolation uses what torch calls slow or deprecated
        model.set_input_size(img_size=size)
    return model.eval()


def make_fixed(architecture: str, folder: Path, native: tuple[int, int] = NATIVE, **changed: Any) -> Original:
    """A network of one size: for another one, timm resamples a copy."""
    arguments = {"img_size": native, **TOY, **changed}
    trained: Any = randomise(timm.create_model(architecture, **arguments))
    save(trained, folder, architecture, arguments, native)
    sizes = SIZES if native == NATIVE else {"native": native, "turned": (native[1], native[0]), "larger": (96, 160)}

    def read(pictures: Tensor) -> dict[str, Tensor]:
        return forward(resized(trained, (pictures.shape[2], pictures.shape[3])), pictures)

    return Original(folder, read, sizes=sizes)


def make_beit_pth(folder: Path) -> Original:
    """BEiT's own file: no config, and indices in the file."""
    original = make_fixed("beit_base_patch16_224", folder)
    (folder / "config.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors |= {f"blocks.{i}.attn.relative_position_index": torch.zeros(65, 65, dtype=torch.long) for i in range(3)}
    torch.save({"model": tensors}, folder / "beit.pth")
    return dataclasses.replace(original, path=folder / "beit.pth")


def make_pth(folder: Path) -> Original:
    """A bare state dict without a config."""
    model = randomise(create("vit_tiny_patch16_224"))
    torch.save(model.state_dict(), folder / "weights.pth")
    return Original(folder / "weights.pth", partial(forward, model), {"num_heads": 4})


def make_old(folder: Path) -> Original:
    """A config in timm's old flat format."""
    original = make("vit_tiny_patch16_224", folder)
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 7,
        "input_size": [3, 64, 64],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "labels": list("abcdefg"),
        "model_args": {"num_heads": 4, "depth": 3, "patch_size": 8},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return original


VARIANTS: dict[str, Any] = {
    "plain": partial(make, "vit_tiny_patch16_224"),
    "plain, no head": partial(make, "vit_tiny_patch16_224", num_classes=0),
    "no qkv bias": partial(make, "vit_base_patch16_224_miil", qkv_bias=False),
    "distilled": partial(make, "deit_tiny_distilled_patch16_224"),
    "distilled, no head": partial(make, "deit_tiny_distilled_patch16_224", num_classes=0),
    "DeiT-III": partial(make, "deit3_small_patch16_224"),
    "DINOv2": partial(make, "vit_small_patch14_dinov2"),
    "DINOv2 registers": partial(make, "vit_small_patch14_reg4_dinov2"),
    "DINOv2 SwiGLU": partial(make, "vit_giant_patch14_dinov2", mlp_ratio=4.0),
    "registers with rows": partial(make, "vit_tiny_patch16_224", reg_tokens=4),
    "no [CLS], registers, norm after": partial(make, "vit_mediumd_patch16_reg4_gap_256"),
    "no [CLS], registers with rows": partial(make, "vit_so150m_patch16_reg4_gap_256"),
    "no [CLS], norm before": partial(make, "vit_medium_patch16_gap_256"),
    "[CLS], average, norm after": partial(make, "eva_large_patch14_196"),
    "[CLS], average, norm before": partial(make, "vit_tiny_patch16_224", global_pool="avg", fc_norm=False),
    "average with prefix": partial(make, "vit_tiny_patch16_224", global_pool="avg", pool_include_prefix=True),
    "maximum": partial(make, "vit_tiny_patch16_224", global_pool="max"),
    "average and maximum": partial(make, "vit_tiny_patch16_224", global_pool="avgmax"),
    "CLIP": partial(make, "vit_base_patch16_clip_224"),
    "CLIP QuickGELU": partial(make, "vit_base_patch16_clip_quickgelu_224"),
    "CLIP projection": partial(make_projection, "vit_base_patch16_clip_quickgelu_224"),
    "SigLIP, average": partial(make, "vit_base_patch32_siglip_gap_256"),
    "no final norm": partial(make, "vit_intern300m_patch14_448"),
    "norms on queries and keys": partial(make, "vit_tiny_patch16_224", qk_norm=True),
    "48 x 80 native": partial(make, "vit_tiny_patch16_224", native=(48, 80)),
    "SigLIP": partial(make, "vit_base_patch16_siglip_224"),
    "attention pooling, without the prefix": partial(make, "vit_tiny_patch16_224", global_pool="map", reg_tokens=2),
    "attention pooling, with the prefix": partial(
        make, "vit_tiny_patch16_224", global_pool="map", reg_tokens=2, pool_include_prefix=True
    ),
    "AIMv2": partial(make, "aimv2_large_patch14_224"),
    "NaFlex, average": partial(make_naflex, "naflexvit_base_patch16_gap"),
    "NaFlex, attention pooling": partial(make_naflex, "naflexvit_base_patch16_map"),
    "NaFlex, SigLIP 2": partial(make_naflex, "naflexvit_base_patch16_siglip", num_classes=0),
    "NaFlex, aspect ratio preserved": partial(make_naflex, "naflexvit_base_patch16_par_gap"),
    "NaFlex, rows and columns": partial(make_naflex, "naflexvit_base_patch16_parfac_gap"),
    "SigLIP 2, GELU by tanh": partial(make, "vit_so400m_patch16_siglip_256"),
    "EVA": partial(make, "eva_giant_patch14_224"),
    "EVA-CLIP": partial(make, "eva_giant_patch14_clip_224"),
    "EVA-02": partial(make, "eva02_tiny_patch14_224"),
    "EVA-02, separate projections": partial(make, "eva02_base_patch14_448"),
    "EVA-02 CLIP": partial(make, "eva02_large_patch14_clip_224"),
    "EVA-02 CLIP, norms after": partial(make, "eva02_enormous_patch14_clip_224"),
    "rotary, registers": partial(make, "vit_betwixt_patch16_rope_reg4_gap_256"),
    "RoPE-ViT": partial(make, "vit_small_patch16_rope_224"),
    "RoPE-ViT, with a table": partial(make, "vit_small_patch16_rope_ape_224"),
    "RoPE-ViT, mixed": partial(make, "vit_small_patch16_rope_mixed_224"),
    "RoPE-ViT, mixed, with a table": partial(make, "vit_small_patch16_rope_mixed_ape_224"),
    "PE core": partial(make, "vit_pe_core_base_patch16_224"),
    "PE core G": partial(make, "vit_pe_core_gigantic_patch14_448"),
    "PE lang": partial(make, "vit_pe_lang_large_patch14_448"),
    "PE spatial": partial(make, "vit_pe_spatial_small_patch16_512"),
    "DINOv3": partial(make, "vit_small_patch16_dinov3"),
    "DINOv3, biases": partial(make, "vit_small_patch16_dinov3_qkvb"),
    "DINOv3, gated": partial(make, "vit_huge_plus_patch16_dinov3"),
    "LingBot": partial(make, "vit_giant_patch16_lingbot"),
    "Sapiens 2": partial(make, "vit_base_patch16_sapiens2", num_kv_heads=(2, 4, 2)),
    "BEiT": partial(make_fixed, "beit_base_patch16_224"),
    "BEiT v2, 48 x 80 native": partial(make_fixed, "beitv2_base_patch16_224", native=(48, 80)),
    "BEiT, head on [CLS]": partial(make_fixed, "beit_base_patch16_224", global_pool="token"),
    "BEiT, every table": partial(
        make_fixed, "beit_base_patch16_224", use_abs_pos_emb=True, use_shared_rel_pos_bias=True
    ),
    "BEiT, a shared table": partial(
        make_fixed, "beit_base_patch16_224", use_rel_pos_bias=False, use_shared_rel_pos_bias=True
    ),
    "BEiT, bare .pth": make_beit_pth,
    "BEiT-3": partial(make, "beit3_base_patch16_224"),
    "relative positions": partial(make_fixed, "vit_relpos_small_patch16_224"),
    "relative positions, shared": partial(make_fixed, "vit_srelpos_small_patch16_224"),
    "relative positions, [CLS]": partial(make_fixed, "vit_relpos_medium_patch16_cls_224"),
    "relative positions, [CLS], average": partial(make_fixed, "vit_relpos_base_patch16_clsgap_224"),
    "relative positions, norms after": partial(make_fixed, "vit_relpos_medium_patch16_rpn_224"),
    "relative positions, tables": partial(make_fixed, "vit_relpos_small_patch16_224", rel_pos_type="bias"),
    "relative positions, shared table, [CLS]": partial(
        make_fixed, "vit_relpos_medium_patch16_cls_224", rel_pos_type="bias", shared_rel_pos=True
    ),
    "norms after the residual branch": partial(make, "vit_base_patch16_rpn_224"),
    "flexivit": make_flexivit,
    "flexivit, dynamic size": make_dynamic_flexivit,
    "old flat config": make_old,
    "bare .pth": make_pth,
}
FAMILIES = [Family(f"timm, {name}", variant, "timm") for name, variant in VARIANTS.items()]

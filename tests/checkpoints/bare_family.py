"""Families without a config: facebookresearch, torchvision, JAX, OpenAI CLIP and open_clip."""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.checkpoints.original import (
    LARGER,
    NATIVE,
    NATIVE_ONLY,
    SIZES,
    SMALLER,
    SQUARE,
    Family,
    Original,
    randomise,
)
from tests.checkpoints.reference import DEPTH, DIM, HEADS, PATCH, SIDE, ClipTower, Facebook, Jax, jax_arrays
from tests.checkpoints.rotary_reference import Dinov3
from tests.checkpoints.timm_family import create
from tests.checkpoints.timm_family import forward as timm_forward
from tests.originals import torchvision

Pooled = Callable[[Any, Tensor], Tensor]

WITH_HEADS = {"num_heads": HEADS}
PLAIN = ("weight", "bias")
OF_DINO = ("module.linear.weight", "module.linear.bias")
OF_TRAINING = tuple(f"module.classifiers_dict.classifier_1_blocks_avgpool_True_lr_0_1.linear.{part}" for part in PLAIN)
ODD = SIZES | {"as many patches, not square": (65, 70), "beyond the grid": (70, 70)}


def bare(model: Any, folder: Path, name: str, sizes: Mapping[str, Any] = SIZES, wrap: Any = None) -> Original:
    """Save the weights of a model of `reference.py` in the dictionaries of its training code."""
    weights = dict(model.state_dict())
    torch.save(wrap(weights) if wrap else weights, folder / name)
    return Original(folder / name, model.read, WITH_HEADS, sizes)


def dino(folder: Path) -> Original:
    return bare(randomise(Facebook("offset")), folder, "dino_toy_pretrain.pth", ODD)


def dino_training(folder: Path) -> Original:
    """A full training checkpoint: the teacher is the model, and its projection head is not a classifier."""
    student = randomise(Facebook("offset"), seed=9).state_dict()
    projection = {"head.mlp.0.weight": torch.randn(8, DIM), "head.last_layer.weight_v": torch.randn(16, 8)}

    def wrap(weights: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "student": {f"module.backbone.{key}": value for key, value in student.items()},
            "teacher": {f"backbone.{key}": value for key, value in weights.items()} | projection,
            "optimizer": {"state": {}, "param_groups": []},
            "epoch": 3,
            "args": argparse.Namespace(arch="vit_small", lr=np.float64(0.1)),
            "dino_loss": {"center": torch.zeros(1, 16)},
        }

    return bare(randomise(Facebook("offset")), folder, "checkpoint.pth", ODD, wrap)


def dinov2(folder: Path, chunks: bool = False, **options: Any) -> Original:
    model = randomise(Facebook("antialias" if options.get("registers") else "offset", v2=True, **options))

    def chunked(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {_in_chunks(key): value for key, value in weights.items()}

    return bare(model, folder, "dinov2_toy_pretrain.pth", wrap=chunked if chunks else None)


def dinov3(folder: Path, name: str = "dinov3_toy_pretrain_lvd1689m.pth", wrap: Any = None, **options: Any) -> Original:
    return bare(randomise(Dinov3(**options)), folder, name, wrap=wrap)


def dinov3_training(folder: Path) -> Original:
    """The teacher of a training run, and EUPE's projections."""

    def wrap(weights: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"teacher": {f"backbone.{k}": v for k, v in weights.items()} | {"dino_head.mlp.0.weight": torch.ones(2)}}

    return dinov3(folder, "teacher_checkpoint.pth", wrap)


def eupe(folder: Path) -> Original:
    return dinov3(folder, "eupe_toy.pt", lambda weights: {**weights, "projectors.0.weight": torch.ones(2, 2)})


def _in_chunks(key: str) -> str:
    """`blocks.3.` -> `blocks.1.3.`: the second number still counts all blocks."""
    if not key.startswith("blocks."):
        return key
    number = int(key.split(".")[1])
    return f"blocks.{number // 2}.{key.removeprefix('blocks.')}"


def with_head(
    folder: Path, backbone: Callable[[Path], Original], pooled: Pooled, names: tuple[str, ...] = PLAIN, wrap: str = ""
) -> Original:
    """A backbone, and a linear head in a separate file."""
    original = backbone(folder)
    model = original.forward.__self__  # type: ignore[attr-defined] # forward is a method of the model
    width = pooled(model, torch.zeros(1, 3, *NATIVE)).shape[1]
    head = randomise(nn.Linear(width, 7), seed=5)
    weights: Any = dict(zip(names, head.parameters(), strict=True))
    torch.save({wrap: weights, "epoch": 1} if wrap else weights, folder / "head.pth")

    def forward(pictures: Tensor) -> dict[str, Tensor]:
        features = pooled(model, pictures)
        return {"native": features, "logits": head(features)}

    return Original(original.path, forward, {**WITH_HEADS, "head": str(folder / "head.pth")}, original.sizes)


def cls_and_mean(model: Any, pictures: Tensor) -> Tensor:
    tokens = model.layers(pictures)[-1]
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)


def four_layers(model: Any, pictures: Tensor) -> Tensor:
    layers = model.layers(pictures)[-4:]
    return torch.cat([*(tokens[:, 0] for tokens in layers), layers[-1][:, 1:].mean(1)], -1)


def last_four(model: Any, pictures: Tensor) -> Tensor:
    return torch.cat([tokens[:, 0] for tokens in model.layers(pictures)[-4:]], -1)


def interleaved(model: Any, pictures: Tensor) -> Tensor:
    tokens = model.layers(pictures)[-1]
    return torch.stack([tokens[:, 0], tokens[:, 1:].mean(1)], -1).flatten(1)


def mae_pretrained(folder: Path) -> Original:
    def wrap(weights: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"model": {**weights, "mask_token": torch.zeros(1, 1, 32), "decoder_pred.weight": torch.zeros(192, 32)}}

    return bare(randomise(Facebook("plain")), folder, "mae_pretrain.pth", wrap=wrap)


def mae_probe(folder: Path) -> Original:
    """MAE's linear probe: a BatchNorm without parameters, then the head."""
    model: Any = randomise(Facebook("plain"))
    probe: Any = nn.Sequential(nn.BatchNorm1d(DIM, affine=False, eps=1e-6), nn.Linear(DIM, 7))
    randomise(probe)
    probe[0].running_mean.copy_(torch.randn(DIM))
    probe[0].running_var.copy_(torch.rand(DIM) + 0.1)
    head = {f"head.{key}": value for key, value in probe.state_dict().items()}
    original = bare(model, folder, "mae_linprobe.pth", wrap=lambda weights: {"model": weights | head})
    return Original(original.path, lambda x: {"logits": probe(model.read(x)["cls"])}, WITH_HEADS, original.sizes)


def deit(folder: Path, architecture: str, **arguments: Any) -> Original:
    """DeiT and fine-tuned MAE use timm's classes; at the native size timm is the original."""
    model = randomise(create(architecture, **arguments))
    weights = {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for key, v in model.state_dict().items()
    }
    torch.save({"model": weights}, folder / "toy.pth")
    return Original(folder / "toy.pth", partial(timm_forward, model), WITH_HEADS, NATIVE_ONLY)


def torchvision_vit(folder: Path, published: bool = False, **arguments: Any) -> Original:
    """One model for each size, with position embeddings resampled by torchvision's own function."""
    vit = torchvision.models.vision_transformer
    shape = {
        "patch_size": PATCH,
        "num_layers": DEPTH,
        "num_heads": HEADS,
        "hidden_dim": DIM,
        "mlp_dim": 96,
        "num_classes": 7,
    }
    at_size: dict[int, Any] = {SIDE: randomise(vit.VisionTransformer(image_size=SIDE, **shape, **arguments))}
    trained = at_size[SIDE].state_dict()
    for side in (SMALLER[0], LARGER[0]):
        at_size[side] = vit.VisionTransformer(image_size=side, **shape, **arguments).eval()
        at_size[side].load_state_dict(vit.interpolate_embeddings(side, PATCH, dict(trained)))
    if published:
        trained = {
            key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v for key, v in trained.items()
        }
    torch.save(trained, folder / "vit_toy.pth")

    def forward(pictures: Tensor) -> dict[str, Tensor]:
        model = at_size[pictures.shape[2]]
        tokens = model._process_input(pictures)
        tokens = torch.cat([model.class_token.expand(len(tokens), -1, -1), tokens], 1)
        return {"cls": model.encoder(tokens)[:, 0], "logits": model(pictures)}

    return Original(folder / "vit_toy.pth", forward, WITH_HEADS, SQUARE)


def jax(folder: Path, prefix: str = "", stacked: bool = False, text: bool = False, **options: Any) -> Original:
    arrays = jax_arrays(**options)
    stored = _stacked(arrays) if stacked else arrays
    stored = {f"{prefix}{key}": value for key, value in stored.items()}
    if text:
        stored |= {"params/txt/head/kernel": np.zeros((DIM, DIM)), "params/t": np.zeros(1), "params/b": np.zeros(1)}
    np.savez(folder / "toy.npz", **stored)
    return Original(folder / "toy.npz", Jax(arrays, options.get("second", False)), sizes=SIZES)


def _stacked(arrays: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in arrays.items() if "encoderblock_" not in key}
    for key in arrays:
        if "encoderblock_0/" in key:
            blocks = [arrays[key.replace("encoderblock_0/", f"encoderblock_{i}/")] for i in range(DEPTH)]
            plain[key.replace("encoderblock_0/", "encoderblock/")] = np.stack(blocks)
    return plain


def clip(folder: Path, openai: bool, text: bool = True, embed: int = DIM) -> Original:
    """The projection is square by default, so that one that is not transposed would load."""
    model: Any = randomise(ClipTower(embed))
    for block in model.transformer["resblocks"]:
        block.quick = openai
    weights: dict[str, Tensor] = {f"visual.{key}" if text else key: value for key, value in model.state_dict().items()}
    if text:
        weights |= {
            "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(96, 32),
            "token_embedding.weight": torch.zeros(50, 32),
            "positional_embedding": torch.zeros(8, 32),
            "ln_final.weight": torch.zeros(32),
            "text_projection": torch.zeros(32, 8),
            "logit_scale": torch.zeros(()),
        }
    if openai:
        weights["input_resolution"] = torch.tensor(SIDE)
    torch.save(weights, folder / "clip.pt")
    return Original(folder / "clip.pt", model.read, WITH_HEADS, NATIVE_ONLY)


def open_clip_trunk(folder: Path) -> Original:
    """open_clip with a timm network inside, and its projection."""
    trunk: Any = randomise(create("vit_base_patch16_clip_224", num_classes=0))
    projection = randomise(nn.Linear(DIM, 20, bias=False))
    weights = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()}
    weights |= {
        "visual.head.proj.weight": projection.weight,
        "logit_scale": torch.zeros(()),
        "text.ln_final.bias": torch.zeros(3),
    }
    torch.save(weights, folder / "open_clip_pytorch_model.bin")
    config = {"model_cfg": {"embed_dim": 20}, "preprocess_cfg": {"size": 64}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))

    def forward(pictures: Tensor) -> dict[str, Tensor]:
        tokens = trunk.forward_features(pictures)
        return {"cls": tokens[:, 0], "native": projection(tokens[:, 0])}

    return Original(folder, forward, WITH_HEADS)


def open_clip_named(folder: Path, architecture: str, own: bool, pool: str) -> Original:
    """open_clip with a network that its config names, and a projection of its own or the network's head as one."""
    shape = {"depth": 12, "patch_size": 16, "num_classes": 0 if own or pool == "map" else 20}  # as the name says
    trunk: Any = randomise(create(architecture, **shape))
    projection = randomise(nn.Linear(DIM, 20, bias=False)) if own else nn.Identity()
    weights = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()}
    weights |= {f"visual.head.proj.{key}": value for key, value in projection.state_dict().items()}
    weights |= {"logit_scale": torch.zeros(()), "logit_bias": torch.zeros(()), "text.ln_final.bias": torch.zeros(3)}
    torch.save(weights, folder / "open_clip_pytorch_model.bin")
    vision = {"image_size": 64, "timm_model_name": architecture, "timm_pool": pool}
    config = {"model_cfg": {"embed_dim": 20, "vision_cfg": vision}, "preprocess_cfg": {"size": 64}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))

    def forward(pictures: Tensor) -> dict[str, Tensor]:
        return {"native": projection(trunk(pictures))}

    sizes = {"native": NATIVE, "smaller": (32, 32), "larger": (96, 96), "wide": (48, 80), "tall": (80, 48)}
    return Original(folder, forward, WITH_HEADS, sizes)


HEADED: dict[str, Callable[[Path], Original]] = {
    "DINO, head on 4 blocks": partial(with_head, backbone=dino, pooled=last_four, names=OF_DINO, wrap="state_dict"),
    "DINO, head interleaved": partial(with_head, backbone=dino, pooled=interleaved, names=OF_DINO, wrap="state_dict"),
    "DINOv2, head": partial(with_head, backbone=dinov2, pooled=cls_and_mean),
    "DINOv2, head on 4 blocks": partial(with_head, backbone=dinov2, pooled=four_layers),
    "DINOv2 registers, head on 4 blocks": partial(with_head, backbone=partial(dinov2, registers=4), pooled=four_layers),
    "DINOv3, head": partial(with_head, backbone=dinov3, pooled=cls_and_mean),
    "DINOv2, head of a training run": partial(with_head, backbone=dinov2, pooled=cls_and_mean, names=OF_TRAINING),
}
FORMULAS: dict[str, Callable[[Path], Original]] = {
    "DINO": dino,
    "DINO, training checkpoint": dino_training,
    "DINOv2": dinov2,
    "DINOv2 registers": partial(dinov2, registers=4),
    "DINOv2 SwiGLU": partial(dinov2, gated=True),
    "DINOv2 in chunks": partial(dinov2, chunks=True),
    "DINOv3": dinov3,
    "DINOv3, gated, no biases, untied norms": partial(dinov3, gated=True, bias=False, untied=True),
    "DINOv3, periods in float32": partial(dinov3, rounded=False),
    "DINOv3, training checkpoint": dinov3_training,
    "EUPE": eupe,
    **HEADED,
    "MAE, pre-training": mae_pretrained,
    "MAE, linear probe": mae_probe,
    "JAX": jax,
    "JAX, representation layer": partial(jax, prefix="opt/target/", representation=True),
    "JAX, big_vision": partial(jax, prefix="params/", second=True),
    "JAX, big_vision, no [CLS]": partial(jax, prefix="params/img/", second=True, cls=False),
    "JAX, SigLIP": partial(jax, prefix="params/img/", second=True, cls=False, pooling=True, classes=0, text=True),
    "JAX, stacked": partial(jax, stacked=True),
    "OpenAI CLIP": partial(clip, openai=True),
    "open_clip": partial(clip, openai=False),
    "open_clip, vision tower alone": partial(clip, openai=False, text=False, embed=20),
}
INSTALLED: dict[str, tuple[str, Callable[[Path], Original]]] = {
    "MAE, fine-tuned": ("timm", partial(deit, architecture="vit_tiny_patch16_224", global_pool="avg", fc_norm=True)),
    "DeiT": ("timm", partial(deit, architecture="deit_tiny_patch16_224")),
    "DeiT distilled": ("timm", partial(deit, architecture="deit_tiny_distilled_patch16_224")),
    "DeiT-III": ("timm", partial(deit, architecture="deit3_small_patch16_224")),
    "open_clip around timm": ("timm", open_clip_trunk),
    "open_clip, SigLIP": (
        "timm",
        partial(open_clip_named, architecture="vit_base_patch16_siglip_224", own=False, pool="map"),
    ),
    "open_clip, EVA-02": (
        "timm",
        partial(open_clip_named, architecture="eva02_base_patch16_clip_224", own=False, pool="token"),
    ),
    "open_clip, ViT with a projection": (
        "timm",
        partial(open_clip_named, architecture="vit_medium_patch16_gap_256", own=True, pool="avg"),
    ),
    "torchvision": ("torchvision", torchvision_vit),
    "torchvision, published names": ("torchvision", partial(torchvision_vit, published=True)),
    "torchvision, representation layer": ("torchvision", partial(torchvision_vit, representation_size=40)),
}
FAMILIES = [Family(name, make, "its formulas") for name, make in FORMULAS.items()]
FAMILIES += [Family(name, make, against) for name, (against, make) in INSTALLED.items()]

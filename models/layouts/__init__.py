"""The public layouts of Vision Transformer checkpoints: one file for each, which recognises it and maps its keys.

To add one, write a module with `recognises(source) -> bool` and `read(source) -> Reading`, and list it here, the more
particular before the more general. What looks like one and is another is refused by `unsupported`.
"""

from types import ModuleType

from models.layouts import facebook, jax, open_clip, torchvision
from models.layouts.timm import layout as timm
from models.layouts.transformers import clip as transformers_clip
from models.layouts.transformers import dinov2 as transformers_dinov2
from models.layouts.transformers import vit as transformers_vit

LAYOUTS: tuple[ModuleType, ...] = (
    jax,
    torchvision,
    open_clip,
    transformers_clip,
    transformers_dinov2,
    transformers_vit,
    timm,
    facebook,
)

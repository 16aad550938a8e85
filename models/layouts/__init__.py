"""The public layouts of Vision Transformer checkpoints: tensor names and configs of each library.

Does: recognise a layout and read it as a `Reading`, with the tensors under the network's names.
Knows: the names, configs and defaults of timm, transformers, torchvision, open_clip, facebookresearch and JAX.
Does not know: how files are found and opened, and how the network is built.

To add a layout, write a module with `recognises(source) -> bool` and `read(source) -> Reading` and add it to `LAYOUTS`,
specific layouts before general ones. `unsupported` refuses what a config names and no table knows, and a file
without a config whose tensors show another network than a plain one.
"""

from types import ModuleType

from models.layouts import jax, open_clip, torchvision
from models.layouts.facebook import bare as facebook
from models.layouts.facebook import dinov3 as facebook_dinov3
from models.layouts.timm import layout as timm
from models.layouts.transformers import aimv2 as transformers_aimv2
from models.layouts.transformers import beit as transformers_beit
from models.layouts.transformers import clip as transformers_clip
from models.layouts.transformers import dinov2 as transformers_dinov2
from models.layouts.transformers import dinov3 as transformers_dinov3
from models.layouts.transformers import siglip as transformers_siglip
from models.layouts.transformers import vit as transformers_vit

LAYOUTS: tuple[ModuleType, ...] = (
    jax,
    torchvision,
    open_clip,
    transformers_beit,
    transformers_clip,
    transformers_siglip,
    transformers_aimv2,
    transformers_dinov2,
    transformers_dinov3,
    transformers_vit,
    timm,
    facebook_dinov3,
    facebook,
)

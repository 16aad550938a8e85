"""All families of checkpoints in the parity table."""

from tests.checkpoints import bare_family, converted_family, timm_family, transformers_family
from tests.checkpoints.original import Family

FAMILIES: list[Family] = [
    *timm_family.FAMILIES,
    *transformers_family.FAMILIES,
    *bare_family.FAMILIES,
    *converted_family.FAMILIES,
]

"""The families of timm's architectures, by name: the first pattern that matches counts.

They only group the rows of the page. What the code under test takes from a name is its own table.
"""

import re

FAMILIES = {
    "flexivit": "^flexivit_",
    "radio": "_radio_",
    "naflex": "^naflexvit_",
    "sam": "^samvit_",
    "hybrid": r"_r\d*_s\d+|_mci_|_resnet\d",
    "relpos": "^vit_s?relpos_",
    "rpn": "_rpn_",
    "parallel blocks": "_18x2_|_pwee_|_parallel_",
    "differential": "_dp?wee_|_dlittle_",
    "aimv2": "^aimv2_",
    "beit3": "^beit3_",
    "beit": "^beit(v2)?_",
    "eva02": "^eva02_",
    "plain": "^eva_large_",
    "eva": "^eva_",
    "dinov3": "_dinov3",
    "lingbot": "_lingbot",
    "sapiens2": "_sapiens2",
    "pe": "^vit_pe_",
    "rope_mixed": "_rope_mixed_",
    "rope": "_rope_",
    "siglip_gap": "_siglip_gap_",
    "siglip": "_siglip_",
}


def family(architecture: str) -> str:
    return next((name for name, pattern in FAMILIES.items() if re.search(pattern, architecture)), "plain")

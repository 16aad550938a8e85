"""Print docs/coverage.md; or for some networks a line each with their largest differences, or their rows of the table.

`python -m tests.coverage --family siglip` measures a family of the page, or names such as 'vit_*_siglip_*'.
`python -m tests.coverage --rows 'vit_*_siglip_*'` prints what `models/layouts/timm/architectures.py` has of each name.
"""

import argparse
import fnmatch
import sys

from tests.coverage.families import family
from tests.coverage.page import page
from tests.coverage.timm_weights import Published, measure_all, published, rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.coverage", description="Measure which networks are served.")
    parser.add_argument("--family", help="measure only this family, or names such as 'vit_*_siglip_*'")
    parser.add_argument("--rows", help="print the rows of the table for names such as 'vit_*_siglip_*'")
    arguments = parser.parse_args()
    if arguments.rows:
        lines = rows(arguments.rows)
    elif arguments.family:
        lines = (str(outcome) for outcome in measure_all(_chosen(arguments.family)))
    else:
        lines = page()
    for line in lines:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _chosen(wanted: str) -> list[Published]:
    return [
        weights
        for weights in published()
        if family(weights.architecture) == wanted or fnmatch.fnmatch(weights.architecture, wanted)
    ]


if __name__ == "__main__":
    main()

"""Print docs/coverage.md, or with `--family` a line for each network whose family or name matches."""

import argparse
import fnmatch
import sys

from tests.coverage.families import family
from tests.coverage.timm_weights import measure_all, published


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.coverage", description=__doc__)
    parser.add_argument("--family", help="a family, or a pattern of names such as 'vit_*_siglip_*'")
    arguments = parser.parse_args()
    chosen = [
        weights
        for weights in published()
        if not arguments.family
        or family(weights.architecture) == arguments.family
        or fnmatch.fnmatch(weights.architecture, arguments.family)
    ]
    for outcome in measure_all(chosen):
        sys.stdout.write(f"{outcome}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Print Markdown: tables, and a section that fails without the others."""

import time
import traceback
from collections.abc import Callable

LINES_OF_AN_ERROR = 6


def row(*cells: object) -> None:
    """Print a row of a table, with numbers of about three digits."""
    print("| " + " | ".join(_cell(cell) for cell in cells) + " |", flush=True)


def header(*names: str) -> None:
    """Print the first two rows of a table."""
    print()
    row(*names)
    row(*["---"] * len(names))


def section(title: str, write: Callable[[], None]) -> bool:
    """Print a section and how long it took; return whether it succeeded."""
    started = time.monotonic()
    print(f"\n## {title}\n", flush=True)
    try:
        write()
    except Exception:  # noqa: BLE001 - whatever fails, the other sections are measured
        error = "\n".join(traceback.format_exc().splitlines()[-LINES_OF_AN_ERROR:])
        print(f"\nThis section failed:\n\n```\n{error}\n```")
        return False
    finally:
        print(f"\n({time.monotonic() - started:.0f} s)", flush=True)
    return True


def _cell(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.2g}"

"""The first code of `vitrine` and of `python -m app`: decide what a signal does before anything slow is imported.

Python runs a signal handler between two bytecodes, so a handler has to wait for imports that load large libraries.
SIGTERM and SIGINT therefore keep the kernel's own action during the start, which ends the process at once: nothing has
been accepted yet that could be lost. The server installs handlers of its own when it starts to listen (`server.py`),
and commands over files take SIGINT as KeyboardInterrupt.

Process 1 of a container is different: the kernel ignores signals for which it has no handler. There a handler ends the
process. It was measured to wait up to 0.4 s for the import of torch, and signals of the first 20 ms, before this module
runs, are lost; the image therefore starts `vitrine` below an init, which has neither fault.
"""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line."""
    end_on_signals()
    from app.cli import main as command  # noqa: PLC0415 - after the signals

    command(prog_name="vitrine")


def end_on_signals() -> None:
    """Let SIGTERM and SIGINT end the process at once; a signal that the parent has set to be ignored stays so."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            continue
        signal.signal(number, _end if os.getpid() == 1 else signal.SIG_DFL)


def _end(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()

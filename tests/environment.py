"""What the tests and the processes that they start find around them: the same on every machine."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "torch_threads": 2, "decode_threads": 2}
"""What a server or a command takes from the machine unless it is named. Here it is; a test may name another."""

AS_IT_COMES: dict[str, Any] = dict.fromkeys(SETTINGS)
"""The service's own choice again, for what measures a machine."""

KEPT = (
    # where programs and their libraries are
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV", "CC", "CXX"),
    # the processor or the card to be tested on
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES"),
    # orders to the tests themselves
    *(
        "VITRINE_TEST_AXE",
        "VITRINE_TEST_PORT",
        "VITRINE_TEST_SHARED",
        "SOAK_S",
        "PYTEST_CURRENT_TEST",
        "PYTHONDONTWRITEBYTECODE",
    ),
)
"""Variables that the tests take from whoever runs them."""

USER = f"tests-{os.getuid()}"
"""Of this user alone: temporary folders are named by it, and a user without an entry has one too."""

SIGNALS: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""A shell ignores SIGINT in what it runs in the background, and so would every server that the tests start."""

DEFINED = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", "USER": USER, "LOGNAME": USER}
UMASK = 0o022


@contextmanager
def defined() -> Iterator[None]:
    """This process in an environment that says nothing of the machine: locale, umask, signals, an empty home."""
    before, umask = dict(os.environ), os.umask(UMASK)
    handlers = {number: signal.signal(number, handler) for number, handler in SIGNALS.items()}
    with tempfile.TemporaryDirectory(prefix="vitrine-home-", ignore_cleanup_errors=True) as home:
        for name in set(os.environ) - set(KEPT):
            del os.environ[name]
        # What torch compiles is for one processor: two runs that share it may run the other one's code.
        os.environ.update(DEFINED, HOME=home, TORCHINDUCTOR_CACHE_DIR=f"{home}/inductor")
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            os.umask(umask)
            for number, handler in handlers.items():
                signal.signal(number, handler)


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with these settings over `SETTINGS`, and no others; None leaves one out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VITRINE_")}
    chosen = {name: value for name, value in (SETTINGS | settings).items() if value is not None}
    return kept | {f"VITRINE_{name.upper()}": str(value) for name, value in chosen.items()}

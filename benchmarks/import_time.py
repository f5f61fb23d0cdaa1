"""Milliseconds that `import lynxstop` and the command line's help take in a fresh interpreter, beyond
the bare one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 15


def milliseconds(*arguments: str) -> float:
    """Median wall-clock of a fresh interpreter."""
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def main() -> None:
    """Print the table."""
    bare = milliseconds("-c", "pass")
    rows = {
        "import lynxstop": ("-c", "import lynxstop"),
        "import lynxstop.core.session": ("-c", "import lynxstop.core.session"),
        "load the shipped bundle": (
            "-c",
            "from lynxstop import shipped; from lynxstop.artifacts.bundle import Bundle; "
            "Bundle.load(shipped.BUNDLE)",
        ),
        "lynxstop --help": ("-m", "lynxstop.cli", "--help"),
    }
    print(f"{'bare interpreter':32}{bare:8.0f} ms")
    for name, arguments in rows.items():
        print(f"{name:32}{milliseconds(*arguments) - bare:+8.0f} ms")


if __name__ == "__main__":
    main()

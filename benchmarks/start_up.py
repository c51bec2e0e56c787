"""How long the command line and the import take to start: each in a fresh process, in turns, as a Markdown table.

    python benchmarks/start_up.py

Bars: `saha-st --help` under 0.5 s, `import saha_st` under 0.2 s. The first run reads files from disk and writes byte
code, so each runs once before it is timed. The start of Python itself is the first row.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

from measure import machine, side_by_side, table

from saha_st.cli import COMMANDS

PYTHON, IMPORT, HELP = "python -c pass", "import saha_st", "saha-st --help"
BARS = {HELP: 0.5, IMPORT: 0.2}  # seconds


def process(*arguments: str) -> Callable[[], object]:
    """What runs Python with some arguments and waits for it."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def contenders() -> dict[str, Callable[[], object]]:
    """What is timed, by its name in the table."""
    found = {
        PYTHON: process("-c", "pass"),
        IMPORT: process("-c", "import saha_st"),
        HELP: process("-m", "saha_st.cli", "--help"),
    }
    for command in COMMANDS:
        found[f"saha-st {command.NAME} --help"] = process("-m", "saha_st.cli", command.NAME, "--help")
    return found


def main() -> None:
    """Print the table; exits with 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11, help="how often each is started")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    options = parser.parse_args()
    timings = side_by_side(contenders(), rounds=3 if options.quick else options.rounds)
    rows = []
    for name, seconds in timings.seconds.items():
        bar = f"under {BARS[name]} s" if name in BARS else ""
        rows.append([name, f"{timings.median(name):.3f}", f"{min(seconds):.3f}-{max(seconds):.3f}", bar])
    print(machine() + "\n")
    print(table(["start of", "median, s", "spread", "bar"], rows))
    missed = [name for name, bar in BARS.items() if timings.median(name) >= bar]
    sys.exit(f"\nMissed: {', '.join(missed)}." if missed else 0)


if __name__ == "__main__":
    main()

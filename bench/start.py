"""CPU seconds that a command takes to start, beside an empty Python:  python bench/start.py

CPU time of the child, the least of seven runs: the machine may be busy with other things.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile

RUNS = 7
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "forge --help": ["-m", "forge", "--help"],
    "forge --version": ["-m", "forge", "--version"],
    "forge runs": ["-m", "forge", "runs"],
    "forge config show": ["-m", "forge", "config", "show"],
}


def cpu_seconds(arguments: list[str], home: str) -> float:
    """User and system time of one child."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env={**os.environ, "FORGE_HOME": home})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as home:
        for name, arguments in COMMANDS.items():
            print(f"{name:20} {min(cpu_seconds(arguments, home) for _ in range(RUNS)):.3f} CPU s")


if __name__ == "__main__":
    main()

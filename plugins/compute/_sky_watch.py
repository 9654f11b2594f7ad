"""What SkyPilot runs on a leased cluster: ends at the deadline, or when nobody asks any more. Standard library only, Python 3.8 and later.

    python3 - DEADLINE_SECONDS IDLE_SECONDS POWER_OFF_SECONDS LEASE_FOLDER < _sky_watch.py

The engine's calls touch LEASE_FOLDER/.asked. When this has ended the cluster is idle, and SkyPilot takes it down. A machine that
is still up POWER_OFF_SECONDS later powers itself off. All times are the monotonic clock's.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

LOOK_SECONDS = 5.0


def watch(deadline: float, idle: float, folder: str) -> str:
    """Return why it is over."""
    began = asked = time.monotonic()
    seen = -1.0
    while time.monotonic() - began < deadline:
        try:
            touched = (Path(folder).expanduser() / ".asked").stat().st_mtime
        except OSError:
            touched = -1.0
        if touched != seen:
            seen, asked = touched, time.monotonic()
        if time.monotonic() - asked >= idle:
            return "nobody asks any more"
        time.sleep(min(LOOK_SECONDS, idle / 4, deadline / 4))
    return "the deadline has come"


def main() -> None:
    """Watch, then arm the power switch."""
    deadline, idle, power_off = (float(text) for text in sys.argv[1:4])
    sys.stdout.write(watch(deadline, idle, sys.argv[4]) + "\n")
    sys.stdout.flush()
    command = f"sleep {power_off:.0f}; sudo -n shutdown -h now || shutdown -h now"
    subprocess.Popen(["/bin/sh", "-c", command], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

"""The run's database: what several processes may do with it at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from forge.state import State


def test_processes_that_start_together_open_one_database(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from forge.state import State\n"
        "sys.stdin.read(1)\n"
        "state = State(Path(sys.argv[1])); state.put(sys.argv[2], 'here'); state.close()\n"
    )
    path, names = tmp_path / "state.db", ("north", "east", "south", "west")
    all_four = [subprocess.Popen([sys.executable, "-c", script, str(path), name], stdin=subprocess.PIPE) for name in names]
    for one in all_four:
        assert one.stdin is not None
        one.stdin.write(b"x")
        one.stdin.close()
    assert [one.wait(60) for one in all_four] == [0, 0, 0, 0]
    state = State(path)
    assert [state.get(name) for name in names] == ["here"] * 4
    state.close()

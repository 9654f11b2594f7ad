"""The filter that takes the network away: what it answers, computed as the kernel computes it, for both machines."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from forge import isolate
from forge.isolate import ALLOW, DENIED, DENY, KILL, MACHINES, PRETEND, PRETENDED, PRLIMIT, SENDTO

NUMBER = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}


def answer(machine: str, call: int, *arguments: int, architecture: int | None = None) -> int:
    """Runs the program over one call: classic BPF, of which five instructions are used."""
    data = struct.pack("=IIQ6Q", call, architecture or NUMBER[machine], 0, *(*arguments, *[0] * (6 - len(arguments))))
    program = [struct.unpack("=HBBI", one) for one in isolate.program(machine)]
    place, loaded = 0, 0
    while True:
        code, yes, no, value = program[place]
        place += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            loaded = struct.unpack_from("=I", data, value)[0]
        elif code in (0x15, 0x35):
            place += yes if (loaded == value if code == 0x15 else loaded >= value) else no
        else:
            raise AssertionError(f"unknown instruction {code:#x}")


@pytest.mark.parametrize("machine", MACHINES)
def test_every_listed_call_gets_its_answer_and_others_pass(machine: str) -> None:
    column = MACHINES[machine][0]
    for table, wanted in ((DENIED, DENY), (PRETENDED, PRETEND)):
        for name, numbers in table.items():
            number = numbers[column]
            assert number is None or answer(machine, number) == wanted, name
    listed = {numbers[column] for table in (DENIED, PRETENDED) for numbers in table.values()}
    free = [call for call in range(470) if call not in listed and call not in (SENDTO[column], PRLIMIT[column])]
    assert {answer(machine, call) for call in free} == {ALLOW}


@pytest.mark.parametrize("machine", MACHINES)
def test_data_may_be_sent_on_a_pair_of_sockets_and_to_no_address(machine: str) -> None:
    call = SENDTO[MACHINES[machine][0]]
    assert answer(machine, call, 3, 4096, 1, 0, 0, 0) == ALLOW
    assert answer(machine, call, 3, 4096, 1, 0, 0x7FFF_0000, 16) == DENY
    assert answer(machine, call, 3, 4096, 1, 0, 0x7FFF_0000_0000, 16) == DENY


@pytest.mark.parametrize("machine", MACHINES)
def test_limits_may_be_read_and_only_processor_time_may_be_set(machine: str) -> None:
    call = PRLIMIT[MACHINES[machine][0]]
    assert answer(machine, call, 0, 7, 0, 4096) == ALLOW
    assert answer(machine, call, 0, 0, 0x7FFF_0000_0000, 0) == ALLOW
    assert answer(machine, call, 0, 7, 0x7FFF_0000_0000, 0) == DENY
    assert answer(machine, call, 0, 9, 1, 0) == DENY


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_by_other_numbers_end_the_process(machine: str) -> None:
    assert answer(machine, 1, architecture=0x4000_0003) == KILL   # i386
    assert answer("x86_64", 0x4000_0029) == KILL   # socket() of x32


def run_confined(folder: Path, code: str) -> str:
    script = f"from forge import isolate\nfrom pathlib import Path\nisolate.confine(Path({str(folder)!r}))\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(bool(isolate.gaps()), reason="; ".join(isolate.gaps()))
def test_a_confined_process_and_its_children_write_below_one_folder_only(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    code = (
        "import subprocess\nopen('/dev/null', 'w').write('x')\n"
        f"for place in ('in', '.'):\n    print(subprocess.run(['sh', '-c', f'echo x > {tmp_path}/{{place}}/file'], stderr=-3).returncode)\n"
    )
    assert run_confined(tmp_path / "in", code).split() == ["0", "2"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.skipif(bool(isolate.gaps()), reason="; ".join(isolate.gaps()))
def test_threads_sockets_in_pairs_and_programs_still_work(tmp_path: Path) -> None:
    code = (
        "import asyncio, socket, subprocess\na, b = socket.socketpair()\na.send(b'x')\n"
        "print(b.recv(1), asyncio.run(asyncio.to_thread(lambda: 5)), subprocess.run(['true']).returncode)\n"
    )
    assert run_confined(tmp_path, code) == "b'x' 5 0"


def test_nothing_is_claimed_and_nothing_breaks_where_the_system_offers_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(isolate, "SYSTEM", "darwin")
    isolate.landlock_version.cache_clear()
    isolate.has_seccomp.cache_clear()
    try:
        assert len(isolate.gaps()) == 2
        isolate.confine(tmp_path)
        (tmp_path.parent / f"{tmp_path.name}-free").write_text("still free", encoding="utf-8")
    finally:
        monkeypatch.undo()
        isolate.landlock_version.cache_clear()
        isolate.has_seccomp.cache_clear()

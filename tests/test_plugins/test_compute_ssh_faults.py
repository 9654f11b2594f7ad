"""A whole run on a host over ssh, with the network cut, the host lost, its key swapped or the engine killed at bad moments."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError
from forge.plugins.compute import _channel
from forge.plugins.compute._transfer import bytes_of
from forge.store import hash_path
from forge.sweep import sweep
from tests.servers.hosts import SshHost
from tests.test_engine.remote_toys import artifacts, money
from tests.test_plugins.ssh_toys import Engine, worker_python
from tests.test_plugins.ssh_world import opened, reach, until

ALL_STEPS = [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "forge"))


def engine(folder: Path, host: SshHost) -> Engine:
    return Engine(folder, reach(host, poll_seconds=0.5, python=worker_python(folder), usd_per_hour=0.36), host)


def test_after_a_partition_the_job_was_not_started_twice_and_the_log_goes_on_where_it_was(tmp_path: Path) -> None:
    """Six seconds, of which a connection stands three: the same path as five minutes, for which settings allow ten."""
    with SshHost(tmp_path / "host") as host, engine(tmp_path, host) as run:
        run.begin(train__wait_at=4)
        run.until_there("waits")
        host.partition()
        time.sleep(4.0)
        (run.disk / "go").touch()   # it goes on while nobody hears of it
        until(lambda: (run.disk / "steps").read_text().split()[-1] == "8")
        steps, jobs = run.steps(), sorted(path.name for path in (run.disk / "jobs").glob("train-*"))
        host.heal()
        assert run.end() == "done"
        assert (steps, len(jobs)) == (ALL_STEPS, 1)
        assert run.told() == ALL_STEPS
        assert run.curve_is_right()
        assert set(artifacts()) >= {"weights", "curve", "model"}
        settled, reserved, _ = money()
        assert 0 < settled < 36_000
        assert reserved == 0
        assert list(host.home.iterdir()) == []


def test_an_engine_that_is_killed_is_followed_by_one_that_adopts_the_job(tmp_path: Path) -> None:
    with SshHost(tmp_path / "host") as host, engine(tmp_path, host) as run:
        run.begin(train__wait_at=5)
        run.until_there("waits")
        run.kill()
        run.begin(train__wait_at=5)
        time.sleep(1.0)
        (run.disk / "go").touch()
        until(lambda: (run.disk / "steps").read_text().split()[-1] == "8")
        assert run.steps() == ALL_STEPS
        assert run.end() == "done"
        assert sorted({*run.told()}) == ALL_STEPS


def test_what_a_dead_run_left_on_the_host_is_swept_by_what_the_host_lists(tmp_path: Path) -> None:
    with SshHost(tmp_path / "host") as host, engine(tmp_path, host) as run:
        run.begin(train__wait_at=4)
        run.until_there("waits")
        run.kill()
        (swept,) = sweep({"ssh": run.provider})
        assert (swept.done, swept.why) == ("ended", "run toy does not run any more")
        assert host.processes("forge.worker") == host.processes("ssh_toys") == []
        assert list(host.home.iterdir()) == []
        settled, reserved, _ = money()
        assert settled > 0
        assert reserved == 0


def test_a_host_that_is_lost_while_it_writes_a_checkpoint_goes_on_from_the_last_whole_one(tmp_path: Path) -> None:
    with SshHost(tmp_path / "host") as host, engine(tmp_path, host) as run:
        run.begin(train__hold_at=6, train__step_seconds=0.2)
        until(lambda: any(host.home.glob(".slm-forge/leases/lease-*/jobs")))
        (run.disk / "hold").touch()
        run.until_there("holds")
        until(lambda: any(run.folder.glob("work/train/kept/*/*/checkpoint-4/state.json")))
        host.power_off()
        (torn,) = host.home.glob(".slm-forge/leases/lease-*/phases/train/work/.partial")
        assert [path.name for path in torn.iterdir()] == ["weights.bin"]
        host.power_on()
        assert run.end() == "done"
        assert run.told()[:5] + run.told()[-4:] == [1, 2, 3, 4, 5, 5, 6, 7, 8]
        assert run.curve_is_right()
        assert money()[1] == 0


def test_a_host_that_is_lost_with_its_disk_while_a_checkpoint_is_fetched_goes_on_from_the_one_that_is_here(tmp_path: Path) -> None:
    with SshHost(tmp_path / "host") as host, engine(tmp_path, host) as run:
        run.begin(train__wait_at=5, train__checkpoint_bytes=12_000_000, train__step_seconds=0.1)
        kept = run.folder / "work/train/kept"
        until(lambda: any(kept.glob("*/*/checkpoint-2/state.json")) and any(kept.glob("*/*/.checkpoint-4.*.partial/weights.bin")))
        host.power_off()
        shutil.rmtree(host.home / ".slm-forge")
        assert not any(kept.glob("*/*/checkpoint-4"))
        host.power_on()
        until(lambda: any(host.home.glob(".slm-forge/leases/lease-*/phases")))
        (run.disk / "go").touch()
        assert run.end() == "done"
        assert run.told() == [1, 2, 3, 4, 3, 4, 5, 6, 7, 8]
        assert run.curve_is_right()


def test_a_swapped_host_key_ends_the_work_before_a_byte_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.lease.GIVE_UP_SECONDS", 0.5)
    with SshHost(tmp_path / "host") as host, engine(tmp_path, host) as run:
        run.begin(train__wait_at=4)
        run.until_there("waits")
        log = host.swap_host_key()
        said = run.end()
        assert said.startswith("StillBilling")   # nobody could be asked whether the lease is gone
        assert "shows another host key than the known one; nothing was sent to it" in said
        assert "userauth-request" in host.log.read_text()
        seen = log.read_text()
        assert "Connection from" in seen
        assert [word for word in ("userauth-request", "Accepted", "Starting session", "session open") if word in seen] == []


@pytest.mark.parametrize("direction", ["put", "get"])
def test_a_broken_transfer_goes_on_where_it_stopped(tmp_path: Path, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(24_000_000))
    with SshHost(tmp_path / "host") as host:
        _, channel = opened(host, reach(host))
        stream = channel.host.stream
        offsets: list[int] = []
        cuts: list[int] = []

        def cut_at_half(chunks: Iterable[bytes]) -> Iterator[bytes]:
            passed = 0
            for chunk in chunks:
                yield chunk
                passed += len(chunk)
                if passed >= 12_000_000 and not cuts:
                    cuts.append(passed)
                    host.run("pkill", "-f", "sshd: root", check=False)

        def watched(verb: str, request: dict[str, Any], data: Iterable[bytes] = (), **more: Any) -> Any:
            if verb not in ("receive", "send"):
                return stream(verb, request, data, **more)
            offsets.append(request["offset"])
            return stream(verb, request, cut_at_half(data), **more) if verb == "receive" else cut_at_half(stream(verb, request, data, **more))

        if direction == "get":
            channel.put(big, "inputs/big")
        monkeypatch.setattr(channel.host, "stream", watched)
        channel.put(big, "inputs/big") if direction == "put" else channel.get("inputs/big", tmp_path / "back")
        there = host.home / ".slm-forge/leases/lease-1/inputs/big" if direction == "put" else tmp_path / "back"
        assert hash_path(there) == hash_path(big)
        assert len(cuts) == 1
        assert offsets[0] == 0
        assert offsets[-1] >= 4_000_000   # what was under way when the connection ended may be lost
        assert not list(there.parent.glob(".*partial"))


def test_bytes_that_arrive_damaged_are_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"right" * 1000)
    with SshHost(tmp_path / "host") as host:
        _, channel = opened(host, reach(host))
        sent = []

        def spoiled(*given: Any) -> Iterator[bytes]:
            sent.append(given)
            yield from ([b"wrong" * 1000] if len(sent) == 1 else bytes_of(*given))

        monkeypatch.setattr(_channel, "bytes_of", spoiled)
        channel.put(tmp_path / "file", "inputs/file")
        assert len(sent) == 2
        assert (host.home / ".slm-forge/leases/lease-1/inputs/file").read_bytes() == b"right" * 1000
        monkeypatch.setattr(_channel, "bytes_of", lambda *given: [b"wrong" * 1000])
        with pytest.raises(ForgeError, match="arrives damaged"):
            channel.put(tmp_path / "file", "inputs/other")

"""The provider `ssh` on a real sshd in namespaces of its own: what it quotes, leases, runs, ends and leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, MissingAccess, NoCapacity, UsageError
from forge.plugins.compute import ssh
from forge.plugins.compute._channel import HostChannel, Watch
from forge.plugins.compute._environment import LockedEnvironment
from forge.plugins.compute._ssh import make_key
from forge.plugins.compute.ssh import Ssh, SshSettings
from forge.protocols import ENVIRONMENT_GIB
from forge.store import hash_path
from tests.servers.hosts import SshHost
from tests.test_plugins.ssh_world import NEED, ended, lease, opened, reach, until

CANARIES = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "DATABASE_PASSWORD")


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    """One host for the tests that leave it as it was."""
    with SshHost(tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture
def host(shared: SshHost) -> Iterator[SshHost]:
    yield shared
    provider = reach(shared)
    for resource in provider.find("all"):
        provider.stop(resource)
    shared.run("rm", "-rf", str(shared.home / ".slm-forge"))


def left_on(host: SshHost) -> list[str]:
    return sorted(str(path.relative_to(host.home)) for path in host.home.rglob("*"))


# --- quoting ---------------------------------------------------------------------------------------------------


def test_quotes_what_the_host_has_and_leaves_nothing_there(host: SshHost) -> None:
    (offer,) = reach(host, usd_per_hour=0.4).quote(NEED)
    assert (offer.provider, offer.name, offer.device) == ("ssh", f"root@{host.address} cpu", "cpu")
    assert offer.cores >= 1
    assert offer.memory_gib > 0.1
    assert (offer.usd_per_hour, offer.price_source) == (0.4, "ssh.usd_per_hour")
    assert left_on(host) == []


def test_gpus_are_offered_together_and_alone_but_not_those_that_others_use_or_that_are_not_named(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    fake_nvidia_smi(tools, "0, NVIDIA H200, 143771, 9.0, 0", "1, NVIDIA H200, 143771, 9.0, 60000", "2, NVIDIA H200, 143771, 9.0, 300")
    with SshHost(tmp_path / "host", path=str(tools)) as host:
        gpus = NEED.model_copy(update={"gpu": True, "gpu_memory_gib": 80})
        names = [offer.name.partition(" ")[2] for offer in reach(host).quote(gpus)]
        assert names == ["2xNVIDIA H200", "1xNVIDIA H200"]
        named = reach(host, gpus="0,1,2").quote(gpus)
        assert [(offer.gpus, offer.gpu_memory_gib, offer.bf16) for offer in named] == [(3, 140.4, True), (1, 140.4, True)]
        with pytest.raises(NoCapacity, match="GPU"):
            take_all(host, reach(host, gpus="0,1,2"))


def fake_nvidia_smi(folder: Path, *rows: str) -> None:
    folder.mkdir()
    (folder / "nvidia-smi").write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows))
    (folder / "nvidia-smi").chmod(0o755)


def take_all(host: SshHost, provider: Ssh) -> None:
    """Two leases of two GPUs each, of three."""
    h200: dict[str, Any] = {"name": f"root@{host.address} 2xNVIDIA H200", "device": "cuda", "gpu": "NVIDIA H200", "gpus": 2}
    first = provider.start(lease(host, "lease-1", **h200))
    channel = provider.channel(first, Path())
    channel.spawn("show", ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], {})
    assert ended(channel, "show") == 0
    assert channel.read("jobs/show/log", 0) == b"0,1\n"
    provider.start(lease(host, "lease-2", **h200))


def test_a_host_that_is_not_configured_offers_nothing_and_lists_nothing() -> None:
    assert Ssh().quote(NEED) == []
    with pytest.raises(MissingAccess, match="no host"):
        Ssh().find("all")


@pytest.mark.parametrize("name", ["-oProxyCommand=touch /tmp/x", "root@", "a b:c:d"])
def test_a_name_that_ssh_would_take_for_an_option_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not"):
        Ssh(SshSettings(host=name)).quote(NEED)


# --- leases ----------------------------------------------------------------------------------------------------


def test_a_lease_is_found_by_token_run_and_all_and_stopping_it_leaves_nothing(host: SshHost) -> None:
    provider = reach(host, usd_per_hour=36.0)
    resource = provider.start(lease(host))
    assert provider.start(lease(host)).id == resource.id
    other = reach(host)
    assert [one.id for one in other.find("lease-1")] == [one.id for one in other.find("run-a")] == [one.id for one in other.find("all")] == [resource.id]
    assert other.find("run-b") == []
    assert other.find("lease-1")[0].held
    provider.stop(resource)
    provider.stop(resource)
    assert provider.find("all") == []
    assert left_on(host) == []
    assert 0 < provider.settle(resource) < 36 * 30 / 3600 * 1e6


def test_a_lease_past_its_deadline_is_no_machine_but_a_folder_to_be_removed(host: SshHost) -> None:
    provider = reach(host)
    provider.start(lease(host, seconds=1))
    until(lambda: provider.find("lease-1")[0].kind == "folder", 10)
    (over,) = provider.find("lease-1")
    assert over.overdue
    provider.stop(over)
    assert left_on(host) == []


def test_results_that_nobody_fetched_stay_and_the_same_run_takes_them_up_again(host: SshHost, tmp_path: Path) -> None:
    provider = reach(host)
    resource, channel = opened(host, provider)
    channel.spawn("train", ["sh", "-c", "mkdir ../../out && echo weights > ../../out/model"], {})
    assert ended(channel, "train") == 0
    provider.stop(resource)
    assert provider.find("all") == []
    again = provider.channel(provider.start(lease(host, attempt=2)), Path())
    again.spawn("train", ["false"], {})
    assert again.poll("train") == 0
    again.get("out", tmp_path / "out")
    assert (tmp_path / "out" / "model").read_text() == "weights\n"
    provider.stop(provider.find("lease-1")[0])
    assert left_on(host) == []


def test_the_command_that_a_person_types_ends_a_lease_with_all_its_jobs(host: SshHost) -> None:
    provider = reach(host)
    resource, channel = opened(host, provider)
    channel.spawn("job", ["sh", "-c", "setsid sleep 4321 & sleep 4321"], {})
    assert ".slm-forge/leases/lease-1/.stop" in provider.stop_command(resource)
    assert provider.stop_command(resource).startswith(f"ssh -i {host.key} root@")
    host.run("touch", str(host.home / ".slm-forge/leases/lease-1/.stop"))
    until(lambda: host.processes("sleep 4321") == [])
    assert provider.find("lease-1")[0].kind == "folder"


# --- jobs ------------------------------------------------------------------------------------------------------


def test_a_job_starts_once_and_its_log_is_read_from_an_offset(host: SshHost) -> None:
    _, channel = opened(host, reach(host))
    channel.spawn("job", ["sh", "-c", "echo one; echo two; exit 3"], {})
    channel.spawn("job", ["sh", "-c", "echo again"], {})
    assert ended(channel, "job") == 3
    assert channel.read("jobs/job/log", 0) == b"one\ntwo\n"
    assert channel.read("jobs/job/log", 4) == b"two\n"
    assert (channel.read("jobs/none/log", 0), channel.poll("none")) == (b"", -1)
    channel.spawn("missing", ["/nonexistent/program"], {})
    assert ended(channel, "missing") == 127


def test_a_job_sees_none_of_our_keys_and_nobody_sees_the_one_it_was_given(host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CANARIES:
        monkeypatch.setenv(name, f"canary-{name}")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nonexistent/agent")
    _, channel = opened(host, reach(host))
    channel.spawn("job", ["sh", "-c", "env; sleep 2"], {"GIVEN": "canary-given"})
    commands = host.run("ps", "-eo", "args=")
    assert ended(channel, "job") == 0
    log = channel.read("jobs/job/log", 0).decode()
    assert "GIVEN=canary-given" in log
    assert [name for name in (*CANARIES, "SSH_AUTH_SOCK", "SSH_CONNECTION") if f"{name}=" in log] == []
    written = "".join(path.read_text(errors="replace") for path in host.home.rglob("*") if path.is_file() and path.name != "log")
    assert "canary" not in commands + written


def test_no_agent_is_forwarded(host: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL)
    try:
        until((tmp_path / "agent").exists)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        transport = reach(host)._transport(f"root@{host.address}")
        assert b"".join(transport.stream(["sh", "-c", "echo agent=$SSH_AUTH_SOCK"], (), seconds=20)) == b"agent=\n"
    finally:
        agent.kill()
        agent.wait()


ALIAS = """
Host gpubox
  HostName {address}
  User root
  IdentityFile {key}
  ForwardAgent yes
  SendEnv *
  LocalForward 59999 localhost:22
  RemoteCommand echo taken
"""


def test_an_alias_of_the_users_configuration_is_followed_and_what_it_forwards_is_not(host: SshHost, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh" / "config").write_text(ALIAS.format(address=host.address, key=host.key))
    (home / ".ssh" / "known_hosts").write_text(f"{host.address} {host.public_host_key}\n")
    (tmp_path / "passwd").write_text(f"root:x:0:0:root:{home}:/bin/sh\n")   # ssh asks it, and not HOME, where ~/.ssh is
    code = "from forge.plugins.compute._ssh import *; print(b''.join(SshTransport(Target('gpubox', user_config=True)).stream(['env'], (), seconds=20)).decode())"
    command = 'mount --make-rprivate / && mount --bind "$0" /etc/passwd && exec "$1" -c "$2"'
    keys = dict.fromkeys(CANARIES, "canary")
    told = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, str(tmp_path / "passwd"), sys.executable, code], env={**os.environ, **keys, "SSH_AUTH_SOCK": "/nonexistent"},
        capture_output=True, text=True, check=True,
    )
    assert f"HOME={host.home}" in told.stdout
    assert "canary" not in told.stdout
    assert "/tmp/ssh-" not in told.stdout   # where sshd puts the socket of a forwarded agent


def test_the_host_side_runs_on_python_3_8(tmp_path: Path) -> None:
    found = sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python3.8"))
    if not found:
        pytest.skip("there is no Python 3.8 here")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(found[-1])
    with SshHost(tmp_path / "host", path=str(tmp_path / "bin")) as host:
        provider = reach(host)
        provider.quote(NEED)
        assert provider._facts[f"root@{host.address}"]["python"][:2] == [3, 8]
        resource, channel = opened(host, provider)
        tree = make_tree(tmp_path / "tree")
        channel.put(tree, "tree", hash_path(tree))
        channel.put(tree, "tree", hash_path(tree))
        channel.spawn("job", ["sh", "-c", "echo up; sleep 600"], {})
        until(lambda: channel.read("jobs/job/log", 0) == b"up\n")
        channel.get("tree", tmp_path / "back")
        assert hash_path(tmp_path / "back") == hash_path(tree)
        provider.stop(resource)
        assert left_on(host) == []


def test_stopping_gives_a_job_its_grace_and_takes_all_that_it_started(host: SshHost) -> None:
    _, channel = opened(host, reach(host))
    channel.spawn("job", ["sh", "-c", "trap 'echo saved; exit 130' TERM; setsid sleep 4322 & echo up; while :; do sleep 0.1; done"], {})
    until(lambda: channel.read("jobs/job/log", 0) == b"up\n")
    channel.stop("job", grace_seconds=10)
    assert channel.poll("job") == 130
    assert channel.read("jobs/job/log", 0).endswith(b"saved\n")
    assert host.processes("sleep 4322") == []


def test_the_host_ends_a_job_at_the_deadline_when_the_engine_is_gone_for_good(tmp_path: Path) -> None:
    with SshHost(tmp_path / "host") as host:
        _, channel = opened(host, reach(host), seconds=3)
        channel.spawn("job", ["sh", "-c", "trap 'echo saved; exit 130' TERM; setsid sleep 4323 & while :; do sleep 0.1; done"], {})
        host.partition()
        folder = host.home / ".slm-forge/leases/lease-1/jobs/job"
        until((folder / ".job" / "rc").exists, 10)
        assert (folder / ".job" / "rc").read_text() == "86"
        assert (folder / "log").read_text().endswith("saved\n")
        assert host.processes("sleep 4323") == []


def test_a_job_that_nobody_asks_for_ends_and_the_end_command_runs(host: SshHost) -> None:
    provider = reach(host)
    _, plain = opened(host, provider)
    channel = HostChannel(plain.host, plain.root, watch=Watch(idle_seconds=1.5, at_end=("touch", str(host.home / "end"))))
    channel.spawn("job", ["sleep", "600"], {})
    until((host.home / ".slm-forge/leases/lease-1/jobs/job/.job/rc").exists, 10)
    assert channel.poll("job") == 87
    until((host.home / "end").exists, 10)
    assert provider.find("lease-1")[0].state == "live"
    (host.home / "end").unlink()


def test_a_providers_notice_ends_the_job_as_preempted(host: SshHost) -> None:
    provider = reach(host)
    _, plain = opened(host, provider)
    notice = host.home / "notice"
    watch = Watch(notice=("test", "-e", str(notice)), notice_seconds=0.1, at_end=("false",))
    channel = HostChannel(plain.host, plain.root, watch=watch, poll_seconds=0.1)
    channel.spawn("job", ["sh", "-c", "trap 'echo saved; exit 130' TERM; while :; do sleep 0.1; done"], {})
    assert channel.poll("job") is None
    notice.touch()
    assert ended(channel, "job") == 85
    assert channel.read("jobs/job/log", 0).endswith(b"saved\n")
    notice.unlink()


def test_a_job_whose_watcher_was_killed_is_gone_with_all_it_started(host: SshHost) -> None:
    _, channel = opened(host, reach(host))
    channel.spawn("job", ["sh", "-c", "sleep 4324 & echo up; sleep 4324"], {})
    until(lambda: channel.read("jobs/job/log", 0) == b"up\n")
    pid = (host.home / ".slm-forge/leases/lease-1/jobs/job/.job/pid").read_text().split()[0]
    host.run("kill", f"-{int(signal.SIGKILL)}", pid)
    assert ended(channel, "job") == -1
    assert host.processes("sleep 4324") == []


def test_two_runs_share_a_host_without_touching_each_other(host: SshHost) -> None:
    provider = reach(host)
    first, one = opened(host, provider, token="lease-1")
    _, two = opened(host, provider, token="lease-2")
    for channel in (one, two):
        channel.spawn("job", ["sh", "-c", "pwd; sleep 600"], {})
    provider.stop(first)
    assert two.poll("job") is None
    assert two.read("jobs/job/log", 0).endswith(b"lease-2/jobs/job\n")
    assert [resource.lease for resource in provider.find("all")] == ["lease-2"]


# --- files -----------------------------------------------------------------------------------------------------


def make_tree(folder: Path) -> Path:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "weights.bin").write_bytes(os.urandom(3_000_000))
    (folder / "deep" / "empty").write_bytes(b"")
    (folder / "späces and 'quotes'.json").write_text("{}")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def test_folders_and_files_go_there_and_back_and_what_is_there_is_not_sent_again(host: SshHost, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    sha256 = hash_path(tree)
    _, channel = opened(host, reach(host))
    channel.put(tree, "inputs/tree", sha256)
    there = host.home / ".slm-forge/leases/lease-1/inputs/tree"
    before = there.stat().st_ino
    channel.put(tree, "inputs/tree", sha256)
    assert there.stat().st_ino == before
    (there / "run.sh").write_text("changed there")
    channel.put(tree, "inputs/tree", sha256)
    assert hash_path(there) == sha256
    assert os.access(there / "run.sh", os.X_OK)
    channel.get("inputs/tree", tmp_path / "back")
    assert hash_path(tmp_path / "back") == sha256
    channel.put(tree / "run.sh", "inputs/one")
    channel.get("inputs/one", tmp_path / "one")
    assert (tmp_path / "one").read_text() == "#!/bin/sh\n"
    assert channel.path("inputs/one") == str(host.home / ".slm-forge/leases/lease-1/inputs/one")


def test_what_is_not_there_or_leads_out_is_refused(host: SshHost, tmp_path: Path) -> None:
    _, channel = opened(host, reach(host))
    with pytest.raises(ForgeError, match="there is no out"):
        channel.get("out", tmp_path / "out")
    for remote in ("../other", "/etc/passwd", "a/../../b"):
        with pytest.raises(UsageError):
            channel.put(tmp_path, remote)
    assert not (tmp_path / "out").exists()


# --- what can be wrong with a host ------------------------------------------------------------------------------


def test_a_host_with_an_unknown_key_is_refused_with_its_fingerprint_and_the_command(host: SshHost) -> None:
    with pytest.raises(MissingAccess, match="not known, so nothing was sent") as refused:
        reach(host, known_host_key="").quote(NEED)
    assert "SHA256:" in refused.value.why
    assert f"ssh-keyscan -t ed25519 {host.address} >> ~/.ssh/known_hosts" in refused.value.next
    assert f"--set ssh.known_host_key='{host.public_host_key}'" in refused.value.next


def test_a_wrong_login_key_and_a_missing_one_are_told_apart(host: SshHost, tmp_path: Path) -> None:
    make_key(tmp_path / "other", "other")
    with pytest.raises(MissingAccess, match="refuses the login with the key") as refused:
        reach(host, key=str(tmp_path / "other")).quote(NEED)
    assert "--set ssh.key=FILE" in refused.value.next
    with pytest.raises(MissingAccess):
        reach(host, key=str(tmp_path / "none")).quote(NEED)


def test_a_host_that_does_not_answer_is_told_and_the_others_are_offered(host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "SHORT_PATIENCE_SECONDS", 0.0)
    nobody = "root@127.0.0.1:1"
    with pytest.raises(ForgeError, match="does not answer"):
        reach(host, host=nobody).quote(NEED)
    both = reach(host, host=(nobody, f"root@{host.address}"))
    assert [offer.name for offer in both.quote(NEED)] == [f"root@{host.address} cpu"]


@pytest.mark.parametrize(("script", "told"), [
    ("exit 127", "has no python3"), ("exec {python} -c 'import sys; sys.version_info = (3, 6, 15); sys.argv = sys.argv[3:]; exec(sys.argv.pop(1))' \"$@\"", "Python 3.6 is too old"),
])
def test_a_host_without_a_usable_python_is_told(tmp_path: Path, script: str, told: str) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python3").write_text(f"#!/bin/sh\n{script.format(python=sys.executable)}\n")
    (tools / "python3").chmod(0o755)
    with SshHost(tmp_path / "host", path=str(tools)) as host:
        with pytest.raises(NoCapacity, match=told) as refused:
            reach(host).quote(NEED)
        assert "--set ssh.python=PATH" in refused.value.next


def test_a_full_disk_is_told_before_the_lease_and_during_a_transfer(tmp_path: Path) -> None:
    with SshHost(tmp_path / "host", home_bytes=4_000_000) as host:
        provider = reach(host)
        with pytest.raises(NoCapacity, match=r"disk of .* is too full"):
            provider.quote(NEED)
        _, channel = opened(host, provider)
        (tmp_path / "big").write_bytes(os.urandom(8_000_000))
        with pytest.raises(ForgeError, match=r"the disk of .* is full"):
            channel.put(tmp_path / "big", "inputs/big")


def test_a_host_that_has_an_environment_needs_no_disk_for_one(tmp_path: Path) -> None:
    need = NEED.model_copy(update={"disk_gib": ENVIRONMENT_GIB + 1})
    with SshHost(tmp_path / "host", home_bytes=2 * 1024**3) as host:
        with pytest.raises(NoCapacity, match=r"disk of .* is too full") as refused:
            reach(host).quote(need)
        assert refused.value.why.endswith(", 13 are needed")
        assert reach(host, python=sys.executable).quote(need)
        ready = host.home / ".slm-forge/environments" / LockedEnvironment("").name() / "ready"
        host.run("mkdir", "-p", str(ready.parent))
        with pytest.raises(NoCapacity, match="too full"):   # begun, not ready
            reach(host).quote(need)
        host.run("touch", str(ready))
        assert reach(host).quote(need)


def test_what_a_login_script_prints_does_no_harm(tmp_path: Path) -> None:
    with SshHost(tmp_path / "host") as host:
        (host.home / ".bashrc").write_text("echo Welcome to this machine; echo >&2 'quota: 3 %'\n")
        assert len(reach(host).quote(NEED)) == 1

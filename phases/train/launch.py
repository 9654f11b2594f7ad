"""One process for each GPU: how many, how they share the work and why; started with torchrun, watched, and told of as one training.

Several machines: every one runs this phase, and its provider sets FORGE_NODES (how many), FORGE_NODE_RANK (which this is, from 0) and
FORGE_HEAD (host:port of machine 0, where they meet). All of them end with the same artifacts.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from forge.children import spawn
from forge.errors import ForgeError, Interrupted, UsageError
from forge.phase import Context
from forge.phases.train.ways import GIB, adapter_parameters, needed_bytes, shape_of
from forge.records import Plan, Record, read_record, write_json
from forge.worker import BUG, Failure, as_error

if TYPE_CHECKING:
    from forge.phases.train import TrainSettings

POLL_SECONDS = 0.2
TAIL_LINES = 12
OUT_OF_MEMORY = "OutOfMemoryError"
SIOCGIFADDR = 0x8915
NODES, NODE_RANK, HEAD = "FORGE_NODES", "FORGE_NODE_RANK", "FORGE_HEAD"
ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*:\s*(\d+) \(local_rank: (\d+)\)\s*exitcode\s*:\s*(-?\d+)", re.DOTALL)


class Launch(NamedTuple):
    """Who trains. here: processes on this machine; how: "ddp" (each holds the base) or "fsdp" (it is split over all)."""

    here: int = 1
    how: str = "ddp"
    reason: str = "one GPU"
    nodes: int = 1
    node: int = 0
    head: str = ""

    @property
    def ranks(self) -> int:
        """Processes on all machines."""
        return self.nodes * self.here


class RankJob(Record):
    """What the processes are asked to do, as a file."""

    folder: str
    run_id: str
    seed: int
    dry_run: bool
    task: str
    plugin_dirs: tuple[str, ...]
    inputs: dict[str, tuple[str, str]]
    settings: dict[str, Any]
    how: str
    smaller: int = 0


def choose_launch(plan: Plan, settings: TrainSettings, base: Path, *, gpus: int, memory: Callable[[], int]) -> Launch:
    """How many processes train, and how they share the work. gpus: of this machine; memory: free bytes of its fullest GPU.

    Raises UsageError for GPUs that are not there, ForgeError when not even all together hold the base.
    """
    nodes, node, head = read_nodes(os.environ)
    here = wanted_here(settings.gpus, gpus)
    if here * nodes == 1:
        return Launch(reason="one GPU" if gpus else "no GPU")
    if plan.scratch is not None:
        return Launch(reason=f"one of {here * nodes}: a base from scratch is small")
    if plan.sweep is not None:
        return Launch(reason=f"one of {here * nodes}: the candidates of a sweep share its passes")
    if (most := plan.lora.examples_per_step // nodes) < here:
        here = max(1, most)
    how, why = share_work(plan, settings, base, here * nodes, memory() if gpus else 0)
    where = f"{here * nodes} {'GPUs' if gpus else 'processes'}{f' on {nodes} machines' if nodes > 1 else ''}"
    return Launch(here, how, f"{where}, {how.upper() if how == 'ddp' else 'FSDP2'}: {why}", nodes, node, head)


def read_nodes(environment: Any) -> tuple[int, int, str]:
    """(machines, which of them this is, where they meet). Raises UsageError for half a description."""
    nodes = int(environment.get(NODES, "1"))
    if nodes == 1:
        return 1, 0, ""
    node, head = environment.get(NODE_RANK, ""), environment.get(HEAD, "")
    if not node.isdigit() or int(node) >= nodes or ":" not in head:
        raise UsageError(
            f"{NODES}={nodes} needs {NODE_RANK} and {HEAD}", why=f"{NODE_RANK}={node or 'unset'}, {HEAD}={head or 'unset'}",
            next=f"set {NODE_RANK} to 0..{nodes - 1} and {HEAD} to the first machine's host:port on every machine",
        )
    return nodes, int(node), head


def wanted_here(asked: int | str, gpus: int) -> int:
    """Processes on this machine."""
    if asked == "auto":
        return max(1, gpus)
    if gpus and int(asked) > gpus:
        raise UsageError(f"train.gpus={asked}, and this machine has {gpus}", next="forge resume --set train.gpus=auto")
    return int(asked)  # without a GPU: as many processes on the CPU, to try things out


def share_work(plan: Plan, settings: TrainSettings, base: Path, ranks: int, memory: int) -> tuple[str, str]:
    """("ddp" or "fsdp", why): copies of the base where one GPU holds it, else the base split over all."""
    if settings.parallel != "auto":
        return settings.parallel, f"train.parallel={settings.parallel}"
    if not memory:
        return "ddp", "each process holds the base"
    limit, needs = int(0.9 * memory), _needs(plan, base)
    asked = settings.precision
    for precision in ("bf16", "nf4") if asked == "auto" else (asked,):
        if (need := needs(precision, 1)) <= limit:
            return "ddp", f"the base in {precision} needs {need / GIB:.1f} of {limit / GIB:.1f} GiB, so each holds all of it"
    need = needs("bf16", ranks)
    if need > limit:
        raise ForgeError(
            "the model does not fit this machine", why=f"split over {ranks} GPUs the base needs {need / GIB:.1f} GiB on each, {limit / GIB:.1f} are free",
            next="plan a machine with more GPU memory, or a smaller base",
        )
    return "fsdp", f"one GPU cannot hold the base, split over {ranks} it needs {need / GIB:.1f} of {limit / GIB:.1f} GiB on each"


def _needs(plan: Plan, base: Path) -> Callable[[str, int], int]:
    config = SimpleNamespace(**{"tie_word_embeddings": False, "num_key_value_heads": None, **json.loads((base / "config.json").read_text(encoding="utf-8"))})
    trained = plan.parameters if plan.tuning == "full" else adapter_parameters(config, plan.lora.rank, plan.lora.target_modules)
    shape = shape_of(config, plan.parameters, trained)

    def needs(precision: Any, ranks: int) -> int:
        return needed_bytes(
            shape, "bf16" if precision == "fp8" else precision, row_tokens=plan.lora.max_length, checkpoint_every=1, compiled=False, shards=ranks, full=plan.tuning == "full"
        )

    return needs


def train_together(launch: Launch, reads: tuple[str, ...], settings: TrainSettings, ctx: Context) -> dict[str, Any]:
    """Train in `launch.ranks` processes; what came out, as ranks.py leaves it. The artifacts are written by them.

    Raises Interrupted when the user asked to stop (all have saved the same step), the error of the process that failed, and ForgeError
    naming the one that died without a word.
    """
    folder = ctx.work / "ranks"
    folder.mkdir(exist_ok=True)
    job = RankJob(
        folder=str(ctx.work.parent), run_id=ctx.run_id, seed=ctx.seed, dry_run=ctx.dry_run, task=ctx.task, plugin_dirs=tuple(map(str, ctx.plugin_dirs)),
        inputs={name: (str(ctx.input(name)), ctx.input_sha256(name)) for name in reads}, settings=settings.model_dump(mode="json"), how=launch.how,
    )
    with _alone(folder / "lock"):
        while True:
            _clear(folder)
            write_json(folder / "job.json", job)
            found = _run(launch, folder, ctx)
            if found is not None:
                return found
            ctx.notice("a GPU ran out of memory; all go on from the last checkpoint with fewer tokens a pass")
            job = job.model_copy(update={"smaller": job.smaller + 1})


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until the processes of an earlier, killed attempt are gone: each holds the lock while it lives (ranks.py)."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
    yield


def _clear(folder: Path) -> None:
    for old in folder.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
        elif old.name != "lock":
            old.unlink()


def _run(launch: Launch, folder: Path, ctx: Context) -> dict[str, Any] | None:
    """One attempt; None when memory did not suffice."""
    child = spawn(_command(launch, folder), folder / "torchrun.log", _environment(launch))
    told = 0
    try:
        while True:
            try:
                code: int | None = child.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                code = None
            told = _forward(folder / "events.jsonl", told, ctx)
            try:
                ctx.check_stop()
            except Interrupted:
                (folder / "stop").touch()
            if code is not None:
                return outcome(code, launch, folder)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _command(launch: Launch, folder: Path) -> list[str]:
    meet = ["--standalone"] if launch.nodes == 1 else [
        "--nnodes", str(launch.nodes), "--node-rank", str(launch.node), "--rdzv-backend", "static", "--rdzv-endpoint", launch.head,
    ]
    return [
        sys.executable, "-m", "torch.distributed.run", *meet, "--nproc-per-node", str(launch.here), "--redirects", "3", "--log-dir", str(folder / "logs"),
        "-m", "forge.phases.train.ranks", str(folder / "job.json"),
    ]


def _environment(launch: Launch) -> dict[str, str]:
    """Between machines, gloo and NCCL talk over the interface that leads to the first: by the host's name they may pick the loopback."""
    interface = interface_towards(launch.head.rpartition(":")[0]) if launch.nodes > 1 else ""
    over = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface} if interface else {}
    return {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **over, **os.environ}


def interface_towards(host: str) -> str:
    """The network interface that packets to a host leave through; "" where it cannot be told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return ""
        ours = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[20:24]) == ours:
                return name
    return ""


def _forward(events: Path, told: int, ctx: Context) -> int:
    """Tell ctx what the first process has told since `told` bytes; returns how far it was read."""
    if not events.exists():
        return told
    with events.open("rb") as file:
        file.seek(told)
        lines = file.read().split(b"\n")
    for line in lines[:-1]:
        event = json.loads(line)
        kind, fields = event.pop("kind"), event
        if kind == "progress":
            ctx.progress(fields.pop("done"), fields.pop("total"), fields.pop("note"), **fields)
        elif kind == "notice":
            ctx.notice(fields["text"])
        elif kind == "keep" and Path(fields["path"]).exists():
            ctx.keep(Path(fields["path"]))
    return told + sum(len(line) + 1 for line in lines[:-1])


def outcome(code: int, launch: Launch, folder: Path) -> dict[str, Any] | None:
    """What the processes left. Raises what one of them raised, or tells who died."""
    result = folder / "result.json"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        if found.get("stopped"):
            raise Interrupted
        if code == 0:
            return found
    failures = {int(file.stem.rpartition("-")[2]): read_record(file, Failure) for file in sorted(folder.glob("failure-*.json"))}
    if any(failure.kind == OUT_OF_MEMORY for failure in failures.values()):
        return None
    for rank, failure in sorted(failures.items()):
        if failure.kind != BUG:
            raise as_error(failure, str(_log(folder, rank - launch.node * launch.here)))
    raise _dead(code, launch, folder, failures)


def _dead(code: int, launch: Launch, folder: Path, failures: dict[int, Failure]) -> ForgeError:
    """The error that names the process which ended first, with the last lines of its log."""
    launcher = (folder / "torchrun.log").read_text(encoding="utf-8", errors="replace")
    cause = ROOT_CAUSE.search(launcher)
    silent = sorted({launch.node * launch.here + local for local in range(launch.here)} - set(failures))
    rank, local, exit_code = (int(one) for one in cause.groups()) if cause else (-1, -1, code)
    if len(silent) == 1:  # the others saw the connection break and said so
        rank, local = silent[0], silent[0] - launch.node * launch.here
        exit_code = _exit_code(launcher, rank, exit_code)
    tail = _tail(_log(folder, local)) or launcher.strip().splitlines()[-TAIL_LINES:]
    said = failures[rank].fact if rank in failures else " | ".join(tail)
    name = f"process {rank} (GPU {local}{f' of machine {launch.node}' if launch.nodes > 1 else ''})" if rank >= 0 else "torchrun"
    how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with code {exit_code}"
    return ForgeError(
        f"training stopped: {name} {how}", why=said[-1500:] or f"its log {_log(folder, local)} is empty", next="forge resume: it goes on from the last whole checkpoint"
    )


def _exit_code(launcher: str, rank: int, otherwise: int) -> int:
    found = re.search(rf"rank\s*:\s*{rank} \(local_rank: \d+\)\s*exitcode\s*:\s*(-?\d+)", launcher)
    return int(found.group(1)) if found else otherwise


def _log(folder: Path, local: int) -> Path:
    found = sorted(folder.glob(f"logs/*/attempt_0/{local}/stderr.log"))
    return found[-1] if found else folder / "torchrun.log"


def _tail(log: Path) -> list[str]:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-TAIL_LINES:]


def free_memory() -> int:
    """Free bytes of the fullest GPU that we may use, from nvidia-smi: torch would take half a GiB of it to look."""
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=60, check=True
    )
    free = {index.strip(): int(mib) for index, mib in (line.split(",") for line in done.stdout.strip().splitlines())}
    visible = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one in free]
    return min(free[one] for one in visible or free) * 1024**2

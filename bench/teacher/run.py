"""How close the Claude teacher comes to a server's limits, and what a request costs the client in CPU time.

    python bench/teacher/run.py --items 2000 --per-minute 6000

Starts the Messages server of the tests in a process of its own (token buckets, 429 with retry-after, latency) and asks
it through the real client, with the key "bench", a ledger and a durable journal as in a run.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from forge.cli.app import COLLECTING
from forge.journal import Journal
from forge.ledger import Ledger
from forge.plugins.teachers.anthropic import AnthropicTeacher
from forge.protocols import TeacherBrief, TeacherRequest
from forge.records import Passage, Source, digest
from forge.state import State
from tests.servers.claude import ClaudeServer, Storm

OUTPUT_A_REQUEST = 300
"""Output tokens a minute are this many times the requests a minute: about what is used, so that they bind."""


def serve(here: Connection, per_minute: int, seconds: float, tokens: bool) -> None:
    """Run the server until the other side closes the pipe; then send what it counted."""
    limits = {"input_per_minute": per_minute * 2000, "output_per_minute": per_minute * OUTPUT_A_REQUEST} if tokens else {}
    storm = Storm(requests_per_minute=per_minute * (4 if tokens else 1), seconds=seconds, **limits)
    with ClaudeServer(storm) as server:
        here.send(server.url)
        here.recv()
        server.levels, server.at = dict.fromkeys(server.levels, 0.0), time.monotonic()  # empty buckets: what counts is the refill
        here.send("go")
        here.recv()
        here.send((dict(server.books.statuses), server.books.micro_usd, server.books.output_tokens))


def requests(count: int) -> list[TeacherRequest]:
    """Requests of the size of a typical passage."""
    text = "The valve opens at three bar and closes by itself when the line is empty. " * 12
    return [
        TeacherRequest(
            key=digest("bench", str(number)), kind="pairs", prompt="Find facts. " * 40, wanted=6, max_output_tokens=700,
            passage=Passage(id=f"p{number}", source=Source(path="a.md", sha256="0"), group="g", text=f"{number} {text}"),
        )
        for number in range(count)
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--per-minute", type=int, default=6000, help="the server's limit of requests")
    parser.add_argument("--tokens", action="store_true", help="also limit tokens, so that output tokens are what binds")
    parser.add_argument("--seconds", type=float, default=0.1, help="latency of an answer")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--bare", action="store_true", help="without ledger and journal: the teacher alone")
    options = parser.parse_args()
    os.environ["ANTHROPIC_API_KEY"] = "bench"
    gc.set_threshold(*COLLECTING)   # as in the command line
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, options.per_minute, options.seconds, options.tokens))
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        ledger, journal = Ledger(State(Path(folder) / "state.db"), 10**12, 10**12), Journal(Path(folder) / "items.journal", durable=True)
        teacher = AnthropicTeacher(TeacherBrief(endpoint=here.recv(), mode="live", in_flight=options.in_flight))
        teacher = teacher if options.bare else teacher.metered(ledger, lambda seconds, note: time.sleep(seconds))
        teacher.preflight()
        teacher.price(requests(1)[0])
        here.send("ready")
        here.recv()
        started, cpu, failed, spent = time.monotonic(), _cpu_seconds(), 0, 0
        for answer in teacher.generate(requests(options.items)):
            failed, spent = failed + bool(answer.error), spent + answer.micro_usd
            if not options.bare:
                journal.put(answer.key, answer.model_dump(mode="json"))
        seconds, cpu = time.monotonic() - started, _cpu_seconds() - cpu
        settled = ledger.totals().settled
    here.send("stop")
    statuses, bill, used = here.recv()
    server.join()
    share = options.items / (options.per_minute / 60 * seconds)
    if options.tokens:
        share = used / (options.per_minute * OUTPUT_A_REQUEST / 60 * seconds)
    print(f"{options.items:,} answers in {seconds:.1f} s, {failed} failed: {share:.1%} of what the server's {'output tokens' if options.tokens else 'requests'} a minute allow")
    print(f"client CPU, all threads: {1000 * cpu / options.items:.2f} ms a request; refused with 429: {statuses.get(429, 0):,}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"ledger {settled:,} micro-dollars, answers {spent:,}, the server's bill {bill:,}")


def _cpu_seconds() -> float:
    """User and system time of all threads of this process, ended ones too."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()

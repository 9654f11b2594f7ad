"""How close the Claude teacher comes to a server's limits, and what a request costs the client in CPU time.

    python bench/teacher/run.py --items 2000 --per-minute 6000

Starts the Messages server of the tests in a process of its own (token bucket, 429 with retry-after, latency) and asks
it through the real client, with the key "bench".
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from forge.plugins.teachers.anthropic import AnthropicTeacher
from forge.protocols import TeacherBrief, TeacherRequest
from forge.records import Passage, Source, digest
from tests.servers.claude import ClaudeServer, Storm


def serve(here: Connection, per_minute: int, seconds: float) -> None:
    """Run the server until the other side closes the pipe; then send what it counted."""
    with ClaudeServer(Storm(requests_per_minute=per_minute, seconds=seconds)) as server:
        server.levels["requests"] = 1.0  # an empty bucket: what counts is the refill
        here.send(server.url)
        here.recv()
        here.send((dict(server.books.statuses), server.books.micro_usd))


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
    parser.add_argument("--per-minute", type=int, default=6000, help="the server's limit")
    parser.add_argument("--seconds", type=float, default=0.1, help="latency of an answer")
    parser.add_argument("--in-flight", type=int, default=32)
    options = parser.parse_args()
    os.environ["ANTHROPIC_API_KEY"] = "bench"
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, options.per_minute, options.seconds))
    server.start()
    teacher = AnthropicTeacher(TeacherBrief(endpoint=here.recv(), mode="live", in_flight=options.in_flight))
    teacher.preflight()
    asked = requests(options.items)
    started, cpu = time.monotonic(), time.process_time()
    answers = list(teacher.generate(asked))
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    here.send("stop")
    statuses, bill = here.recv()
    server.join()
    failed = sum(1 for answer in answers if answer.error)
    allowed = options.per_minute / 60 * seconds
    print(f"{len(answers):,} answers in {seconds:.1f} s, {failed} failed: {len(answers) / allowed:.1%} of what {options.per_minute:,} a minute allow")
    print(f"client CPU {1000 * cpu / len(answers):.2f} ms a request; refused with 429: {statuses.get(429, 0):,}")
    print(f"spent {sum(answer.micro_usd for answer in answers):,} micro-dollars, the server billed {bill:,}")


if __name__ == "__main__":
    main()

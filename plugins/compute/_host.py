"""Runs on the machine, standard library only, Python 3.8 and later; sent there by _channel.py on the standard input of every call.

Verbs (request and answer are JSON; `root` is a lease's folder, `folder` the one that holds leases/ and environments/):

    probe    {folder}                                  what the machine has; writes nothing
    open     {root, token, run, attempt, deadline_seconds, gpus, ...}   opens a lease; idempotent by (token, attempt)
                                                       -> {seconds_left, gpus: [indices], ...}; the deadline counts on the machine's clock since boot
    leases   {folder}                                  -> [{token, run, attempt, state: "live" | "over" | "kept", seconds_left, jobs, asked_seconds}]
    end      {root, grace_seconds}                     ends all jobs with everything they started -> {billed_seconds}
    remove   {root}                                    removes the folder, unless results were not fetched -> {kept}
    spawn    {root, job, argv, env, watch}             starts a job once       poll {root, job} -> {code}       stop {root, job, grace_seconds}
    has, received, receive, list, send, read           files, by offset and hash

A lease's folder:  lease.json, ended.json, .asked (touched by the engine's calls), .stop (touch it to end everything), jobs/<job>/.job/{pid,rc,heartbeat}
"""

from __future__ import annotations

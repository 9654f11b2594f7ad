"""The user-data of a machine: its own deadline before anything else, a watchdog, and the host key that we pin."""

from __future__ import annotations

import base64
from pathlib import Path

BOOT_SECONDS = 60
"""From the launch, which starts the bill, until user-data runs."""

NOTICE = """\
import sys, urllib.request as r
b = "http://169.254.169.254/latest/"
t = r.urlopen(r.Request(b + "api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}), timeout=2).read().decode()
r.urlopen(r.Request(b + "meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": t}), timeout=2)
"""
"""Succeeds when EC2 takes a spot machine back (AWS: "Spot Instance interruption notices"), by IMDSv2."""

END = "sudo -n shutdown -P now || shutdown -P now"

SCRIPT = """\
#!/bin/bash
shutdown -P +{minutes}
systemd-run --on-active={seconds} shutdown -P now   # a second clock, should somebody cancel the first
# Nobody has used the machine for {idle} looks, {look} s apart (no call, and not 8 MiB to or from it: a long transfer is one call):
# its jobs are asked to stop, then it ends itself.
nohup setsid bash -c '
quiet=0; last=none
while sleep {look}; do
  asked=$(stat -c %Y /home/{user}/.slm-forge/leases/*/.asked 2>/dev/null | sort | tail -1)
  moved=$(awk "NR > 2 && !/lo:/ {{ sum += \\$2 + \\$10 }} END {{ print int(sum / 8388608) }}" /proc/net/dev)
  if [ "$asked $moved" != "$last" ]; then last="$asked $moved"; quiet=0; else quiet=$((quiet + 1)); fi
  if [ $quiet -ge {idle} ]; then
    for lease in /home/{user}/.slm-forge/leases/*/; do [ -d "$lease" ] && touch "$lease.stop"; done
    sleep {grace}; shutdown -P now
  fi
done' </dev/null >/dev/null 2>&1 &
{packages}umask 077
rm -f /etc/ssh/ssh_host_*
base64 -d > /etc/ssh/ssh_host_ed25519_key <<'KEY'
{host_key}
KEY
base64 -d > /etc/ssh/ssh_host_ed25519_key.pub <<'KEY'
{host_key_pub}
KEY
systemctl restart ssh || systemctl restart sshd
"""
"""The pinned key comes last: a machine that answers with it has a deadline and a watchdog."""

PACKAGES = """\
# For the environment that is made from the lock file: Ubuntu's Python comes without venv; llama.cpp is compiled.
if ! python3 -c 'import ensurepip, venv' || ! command -v g++ || ! command -v cmake; then
  export DEBIAN_FRONTEND=noninteractive
  timeout 240 apt-get -qq -o DPkg::Lock::Timeout=120 update
  timeout 240 apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends python3-venv g++ make cmake
fi
"""


def user_data(*, deadline_seconds: int, idle_seconds: float, look_seconds: float, grace_seconds: float, user: str, host_key: Path, packages: bool) -> str:
    """The script that cloud-init runs once, as root. The machine is down `deadline_seconds` after its launch.

    packages: install what making a Python environment needs, before the machine answers.
    """
    return SCRIPT.format(
        minutes=max(1, (deadline_seconds - BOOT_SECONDS) // 60), seconds=max(60, deadline_seconds - BOOT_SECONDS), look=look_seconds,
        idle=max(1, round(idle_seconds / look_seconds)), grace=grace_seconds, user=user,
        packages=PACKAGES if packages else "", host_key=_encoded(host_key), host_key_pub=_encoded(host_key.with_suffix(".pub")),
    )


def _encoded(path: Path) -> str:
    return base64.encodebytes(path.read_bytes()).decode().strip()

#!/usr/bin/env bash
# The whole suite in two lanes side by side:  tests/lanes.sh PYTHON [CORE_PYTHON]
# What starts machines (sshd, SLURM, emulated clouds) waits most of its time; the rest computes. One after the other they take twice as long.
# The shorter lane goes on with `make test-core` on CORE_PYTHON.
set -uo pipefail
python=$1
core=${2:-}
machines=(tests/test_plugins/test_compute_*.py tests/test_engine/test_remote*.py)
shorter() {
  "$python" -m pytest -p no:cacheprovider --durations 15 "${machines[@]}" && { [ -z "$core" ] || make --no-print-directory test-core PYTHON="$core"; }
}
log=$(mktemp)
set -m   # a process group of its own, to end all of it
shorter >"$log" 2>&1 &
lane=$!
set +m
trap 'kill -- "-$lane" 2>/dev/null; rm -f "$log"' EXIT
"$python" -m pytest --durations 15 "${machines[@]/#/--ignore=}"
rest=$?
wait "$lane"
code=$?
echo "the lane of machines${core:+, then the core on $core}:"
cat "$log"
exit $((rest ? rest : code))

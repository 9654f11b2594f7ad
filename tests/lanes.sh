#!/usr/bin/env bash
# The whole suite in two lanes side by side:  tests/lanes.sh PYTHON
# What starts machines (sshd, SLURM, emulated clouds) waits most of its time; the rest computes. One after the other they take twice as long.
set -uo pipefail
python=$1
machines=(tests/test_plugins/test_compute_*.py tests/test_engine/test_remote*.py tests/test_recipes.py)   # the last only to make both equally long
log=$(mktemp)
trap 'kill "$lane" 2>/dev/null; rm -f "$log"' EXIT
"$python" -m pytest -p no:cacheprovider "${machines[@]}" >"$log" 2>&1 &
lane=$!
"$python" -m pytest "${machines[@]/#/--ignore=}"
rest=$?
wait "$lane"
code=$?
echo "the lane of machines:"
cat "$log"
exit $((rest ? rest : code))

#!/usr/bin/env bash
# Tries an installed program from nothing: scripts/packages/try.sh <program> [command to run it with, ...]
# It starts, speaks by its own name, trains a run of its own, and what it leaves can be read.
set -euo pipefail
program=$1
shift
state=$("$@" mktemp -d)
name=$(basename "$program")
"$@" "$program" --version
"$@" "$program" --help | grep -q "Usage: $name" || { echo "$program does not know its own name" >&2; exit 1; }
# Where programs start cold, from the disk; then warm.
for _ in 1 2; do
    begun=$(date +%s%N)
    "$@" "$program" --version >/dev/null
    echo "starts in $((($(date +%s%N) - begun) / 1000000)) ms"
done
"$@" "$program" --state "$state/run" --no-mdns --listen /ip4/127.0.0.1/tcp/0 --samples 64 --exit-when-idle 0 \
    --learning-rate 2e-3 --replay-budget 1000
"$@" "$program" log verify --state "$state/run"
"$@" "$program" digest --state "$state/run"
"$@" rm -r "$state"

#!/usr/bin/env bash
# Measures what decides this project's claims about speed, in half an hour on two cores. Run it on a machine that does
# nothing else.
#
#   scripts/bench.sh [--json FILE] [--quick]
#
# --json FILE  also writes the figures under plain names
# --quick      a smoke test: the benches run briefly, and their figures mean nothing
set -euo pipefail
cd "$(dirname "$0")/.."

json="" flags=()
while [ $# -gt 0 ]; do
    case "$1" in
        --json) json="${2:?--json needs a file name}"; shift ;;
        --quick) flags=(--test) ;;
        *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done

output=$(mktemp)
trap 'rm -f "$output"' EXIT
for bench in forward replay perturb step project catch_up log wire; do
    echo "== $bench"
    cargo bench --quiet --bench "$bench" -- "${flags[@]}" | tee -a "$output" | grep -v '^BENCH ' || true
done

if [ -n "$json" ]; then
    awk '$1 == "BENCH" { printf "%s  \"%s\": %s", n++ ? ",\n" : "{\n", $2, $3 } END { print n ? "\n}" : "{}" }' "$output" > "$json"
    echo "figures in $json"
fi

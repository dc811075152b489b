#!/usr/bin/env bash
# Makes the documents' pictures with the product itself: a swarm of three on the embedded model, its page in a headless
# browser, its log as a plot. Needs Chromium.
#
#   scripts/pictures.sh [directory]      (default scripts/pictures)
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-scripts/pictures}")
mkdir -p "$out"
cargo build --release --bin node
node=${CARGO_TARGET_DIR:-target}/release/node
browser=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[[ -n $browser ]] || { echo "pictures.sh: no Chromium; install one, or name it with CHROMIUM=<program>" >&2; exit 1; }

work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-1} NO_COLOR=1

wait_for() { # file, pattern, seconds
    for _ in $(seq $(($3 * 5))); do
        grep -q "$2" "$1" 2>/dev/null && return
        sleep 0.2
    done
    echo "pictures.sh: $1 never said '$2'" >&2
    exit 1
}

start() { # number, options
    "$node" --state "$work/$1" --listen /ip4/127.0.0.1/tcp/0 --no-mdns --samples 2000 "${@:2}" 2>"$work/$1.log" &
}

start 1 --http 127.0.0.1:0
wait_for "$work/1.log" 'node --bootstrap' 60
wait_for "$work/1.log" 'watch at' 60
read -r -a join <<<"$(sed -n 's/.*another machine: node \(.*\)/\1/p' "$work/1.log" | head -n 1)"
url=$(sed -n 's/.*watch at \(http[^ ]*\).*/\1/p' "$work/1.log" | head -n 1)
start 2 "${join[@]}"
start 3 "${join[@]}"
wait_for "$work/1.log" 'after [5-9][0-9][0-9][0-9] gradients' 600
"$browser" --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update \
    --disable-sync --hide-scrollbars --user-data-dir="$work/browser" --window-size=1280,1000 --virtual-time-budget=4000 \
    --screenshot="$out/page.png" "$url" 2>/dev/null
"$node" log plot --state "$work/1" --out "$out/run.svg"
"$node" log show --state "$work/1"
"$node" log stat --state "$work/1"

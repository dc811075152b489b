#!/usr/bin/env bash
# Trains a swarm of real nodes on this machine, over loopback: one joins late, one is killed with -9 and restarted.
# At the end every node's version vector, weights and held-out loss must agree.
#
#   scripts/local_swarm.sh [N] [node options...]
#
# N is the number of nodes (default 4, at least 3). Without options they train the embedded default. Options are passed to
# every node, for example --model DIR --data FILE --samples 1000; a % in an option becomes the node's number, so that
# --data parts/%.txt gives each node its own text. OUT names a directory to keep (default: a temporary one).
set -euo pipefail

count=4
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    count=$1
    shift
fi
if ((count < 3)); then
    echo "local_swarm.sh: $count nodes are too few for a late joiner and a kill; give 3 or more" >&2
    exit 2
fi
options=("$@")
[[ " $* " == *" --samples "* ]] || options+=(--samples 20480)

cd "$(dirname "$0")/.."
cargo build --release --bin node
node=${CARGO_TARGET_DIR:-target}/release/node
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"
# Several nodes share this machine's cores: one thread each.
export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-1} NO_COLOR=1
declare -A pids
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT

start() { # number
    local number=$1
    "$node" --state "$out/state-$number" --listen /ip4/127.0.0.1/tcp/0 --no-mdns --exit-when-idle 6 \
        "${join[@]}" "${options[@]//%/$number}" >>"$out/node-$number.log" 2>&1 &
    pids[$number]=$!
}

wait_for() { # number, pattern, seconds
    for _ in $(seq $(($3 * 5))); do
        grep -q "$2" "$out/node-$1.log" 2>/dev/null && return
        kill -0 "${pids[$1]}" 2>/dev/null || break
        sleep 0.2
    done
    echo "node $1 did not say '$2'; its log ends:" >&2
    tail -n 5 "$out/node-$1.log" >&2
    exit 1
}

gradients() { # number: own gradients so far, as its log has them
    sed -n 's/.* own \([0-9]*\) .*/\1/p' "$out/node-$1.log" | tail -n 1
}

begun=$SECONDS
join=()
start 1
wait_for 1 'node --bootstrap' 300
read -r -a join <<<"$(sed -n 's/.*another machine: node \(.*\)/\1/p' "$out/node-1.log" | head -n 1)"
echo "run: node ${join[*]}"
for number in $(seq 2 $((count - 1))); do start "$number"; done
# Node 2 is killed once it has trained a little; the last node joins then.
wait_for 2 ' own [1-9]' 300
kill -9 "${pids[2]}"
wait "${pids[2]}" 2>/dev/null || true
echo "[$((SECONDS - begun)) s] node 2 killed with -9 at $(gradients 2) own gradients, and restarted"
start 2
start "$count"
echo "[$((SECONDS - begun)) s] node $count joins late"

last=""
while kill -0 "${pids[@]}" 2>/dev/null; do
    line=$(sed -n 's/.*\(held-out loss.*\)/\1/p' "$out/node-1.log" | tail -n 1)
    if [[ -n $line && $line != "$last" ]]; then
        echo "[$((SECONDS - begun)) s] node 1: $line"
        last=$line
    fi
    sleep 1
done
failed=0
for number in $(seq "$count"); do
    wait "${pids[$number]}" || { echo "node $number failed; see $out/node-$number.log" >&2; failed=1; }
done
pids=()

eval_options=()
for index in "${!options[@]}"; do
    case ${options[$index]} in
    --eval) eval_options+=(--data "${options[$((index + 1))]}") ;;
    --sequence-length) eval_options+=(--sequence-length "${options[$((index + 1))]}") ;;
    esac
done
results=()
for number in $(seq "$count"); do
    digest=$("$node" digest --state "$out/state-$number")
    loss=$("$node" eval --state "$out/state-$number" "${eval_options[@]}")
    echo "node $number: $digest  $loss"
    results+=("$digest  $loss")
done
if [[ $(printf '%s\n' "${results[@]}" | sort -u | wc -l) != 1 ]]; then
    echo "the nodes do not agree; logs in $out" >&2
    exit 1
fi
((failed == 0)) || exit 1
echo "all $count nodes agree, after $((SECONDS - begun)) s"
[[ -n ${OUT:-} ]] || rm -rf "$out"

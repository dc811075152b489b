#!/usr/bin/env bash
# Everything a change must pass: format, lints, documentation, tests. Installs what is missing on a Debian machine.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cc >/dev/null; then
    apt-get update -qq && apt-get install -y -qq build-essential
fi
if ! command -v cargo >/dev/null; then
    if [ ! -x "$HOME/.cargo/bin/cargo" ]; then
        apt-get update -qq && apt-get install -y -qq rustup && rustup default stable
    fi
    export PATH="$HOME/.cargo/bin:$PATH"
fi

step() { printf '\n== %s\n' "$*"; "$@"; }

# Comments keep to the 120 columns that rustfmt keeps for code; rows of tables cannot.
comments_within_120_columns() {
    ! git ls-files -z '*.rs' | LC_ALL=C.UTF-8 xargs -0 grep -nE '^.{121,}$' | grep -E ':[0-9]+: *//[/!]? [^|]'
}

# A message that was broken over lines, and lost the sign that joins them, keeps their indentation.
messages_without_gaps() {
    ! git ls-files -z '*.rs' | LC_ALL=C.UTF-8 xargs -0 grep -nE '"[^"]*[a-z,:;.] {8,}[a-z]'
}

step cargo fmt --all --check
step messages_without_gaps
step comments_within_120_columns
# The tests come first: they build the dependency graph that users get.
step cargo test --release
# Deliberate faults in the peers' rules, each of which the simulator must find.
step cargo test --release --features sim/planted --test planted
# A few seeds of every scenario; `sim explore --seeds 1000` takes more than two hours; `--first-seed` divides it.
step cargo run --release --bin sim -- explore --seeds 3
# So that they stay alive; their figures mean nothing here.
step scripts/bench.sh --quick
step cargo clippy --release --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --release --no-deps
if command -v cargo-deny >/dev/null; then
    step cargo deny --offline check licenses bans sources
fi

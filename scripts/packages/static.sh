#!/usr/bin/env bash
# A binary that needs no library of the system: scripts/packages/static.sh [out directory, default target/packages]
# Needs rustup, and musl's C compiler (Debian: musl-tools).
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-target/packages}
target=$(uname -m)-unknown-linux-musl

command -v musl-gcc >/dev/null || { echo "musl-gcc is missing: apt-get install musl-tools" >&2; exit 1; }
rustup target list --installed | grep -qx "$target" || rustup target add "$target"
# Debug information of dependencies is off already; what is left is for backtraces, and stripped below.
cargo build --release --target "$target" --features upnp --bin onebyte
mkdir -p "$out"
strip -o "$out/onebyte" "${CARGO_TARGET_DIR:-target}/$target/release/onebyte"
! ldd "$out/onebyte" 2>/dev/null | grep -q '=>' || { echo "$out/onebyte: needs libraries" >&2; exit 1; }
scripts/packages/try.sh "$out/onebyte"
ls -l "$out/onebyte"

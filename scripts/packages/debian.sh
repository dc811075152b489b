#!/usr/bin/env bash
# A Debian package of a binary: scripts/packages/debian.sh [binary, default the static one] [out directory]
# With --try it is also installed, started as its own user, and purged in a clean system (needs root, debootstrap).
# The program is called onebyte there: Debian's `node` is Node.js.
set -euo pipefail
cd "$(dirname "$0")/../.."
try=false
[ "${1:-}" != --try ] || { try=true; shift; }
binary=${1:-target/packages/onebyte}
out=${2:-target/packages}
[ -x "$binary" ] || { echo "$binary: no such binary; scripts/packages/static.sh makes one" >&2; exit 1; }
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
architecture=$(dpkg --print-architecture)

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
install -D -m 755 "$binary" "$tree/usr/bin/onebyte"
strip "$tree/usr/bin/onebyte"
install -D -m 644 scripts/packages/onebyte.service "$tree/lib/systemd/system/onebyte.service"
install -D -m 640 scripts/packages/onebyte.toml "$tree/etc/onebyte.toml"
for document in README.md GUIDE.md LICENSE-MIT LICENSE-APACHE; do
    install -D -m 644 "$document" "$tree/usr/share/doc/onebyte/$document"
done
# A binary that needs the system's library needs the one that it was built with, or a later one.
libc=$(objdump -T "$tree/usr/bin/onebyte" 2>/dev/null | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1 | cut -d_ -f2 || true)
mkdir -p "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<CONTROL
Package: onebyte
Version: $version
Architecture: $architecture
Maintainer: The onebyte authors <onebyte@localhost>
Depends: adduser${libc:+, libc6 (>= $libc)}
Section: science
Priority: optional
Installed-Size: $(du -sk "$tree" | cut -f1)
Description: fine-tune language models together, one byte per gradient
 A peer-to-peer node that trains a language model with others over home
 connections, without a coordinator. Data stays on the machine.
CONTROL
echo /etc/onebyte.toml >"$tree/DEBIAN/conffiles"
install -m 755 scripts/packages/postinst scripts/packages/prerm scripts/packages/postrm "$tree/DEBIAN/"
mkdir -p "$out"
package=$out/onebyte_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$tree" "$package"
ls -l "$package"
$try || exit 0

root=$(mktemp -d)
chmod 755 "$root"
trap 'rm -rf "$tree" "$root"' EXIT
debootstrap --variant=minbase --include=adduser stable "$root" >"$root.log" || { tail "$root.log"; exit 1; }
rm -f "$root.log"
cp "$package" "$root/onebyte.deb"
cp scripts/packages/try.sh "$root/try.sh"
within() { chroot "$root" "$@"; }
within dpkg --install /onebyte.deb
[ "$(within stat -c '%U %a' /var/lib/onebyte)" = "onebyte 750" ]
[ "$(within stat -c '%G %a' /etc/onebyte.toml)" = "onebyte 640" ]
within /bin/bash /try.sh /usr/bin/onebyte runuser -u onebyte --
# As the unit starts it, but for what only systemd does.
within runuser -u onebyte -- sh -c 'cd / && exec timeout --signal=TERM 20 /usr/bin/onebyte --config /etc/onebyte.toml \
    --state /var/lib/onebyte --no-mdns --samples 32 --exit-when-idle 0 --learning-rate 2e-3 --replay-budget 1000'
within runuser -u onebyte -- /usr/bin/onebyte ticket --plain --state /var/lib/onebyte
within dpkg --purge onebyte
[ ! -e "$root/var/lib/onebyte" ] && [ ! -e "$root/usr/bin/onebyte" ] && [ ! -e "$root/etc/onebyte.toml" ]
if command -v systemd-analyze >/dev/null; then
    unit=$(mktemp -d)
    sed "s:/usr/bin/onebyte:$(realpath "$binary"):" scripts/packages/onebyte.service >"$unit/onebyte.service"
    systemd-analyze verify --man=no "$unit/onebyte.service"
    rm -r "$unit"
fi
echo "$package: installed, started and purged in a clean system"

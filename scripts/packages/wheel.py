#!/usr/bin/env python3
"""A wheel with the program in it: scripts/packages/wheel.py [binary, default target/packages/onebyte] [out directory]

`pip install` puts `onebyte` beside `python`. The layout is that of maturin's binary wheels (a program under
`<name>.data/scripts`); maturin itself would call it `node`, which is Node.js to everybody else's environment. A static
binary runs on every Linux of its machine, and the tags say so. With --try the wheel is also installed into a clean
environment and the program tried there.
"""
import base64, hashlib, os, pathlib, platform, re, subprocess, sys, tempfile, zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def is_static(binary):
    """Whether an ELF file names no interpreter (no program header of type PT_INTERP)."""
    head = binary.read_bytes()[:4096]
    assert head[:5] == b"\x7fELF\x02", f"{binary}: not a 64-bit program"
    begin, size, count = int.from_bytes(head[32:40], "little"), *(int.from_bytes(head[at:at + 2], "little") for at in (54, 56))
    return all(head[begin + size * number] != 3 for number in range(count))


def record(name, content):
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}"


def build(binary, out):
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    machine = platform.machine()
    # Otherwise it needs a library of this machine, and nobody has checked which others have it.
    tags = [f"manylinux2014_{machine}", f"musllinux_1_1_{machine}"] if is_static(binary) else [f"linux_{machine}"]
    with tempfile.NamedTemporaryFile() as stripped:
        subprocess.run(["strip", "-o", stripped.name, binary], check=True)
        program = pathlib.Path(stripped.name).read_bytes()
    about = (
        f"Metadata-Version: 2.1\nName: onebyte\nVersion: {version}\n"
        "Summary: Fine-tune language models together, exchanging one byte per gradient\n"
        "License: MIT OR Apache-2.0\nRequires-Python: >=3.7\nDescription-Content-Type: text/markdown\n\n"
    ) + (ROOT / "README.md").read_text()
    wheel = "Wheel-Version: 1.0\nGenerator: onebyte\nRoot-Is-Purelib: false\n" + "".join(f"Tag: py3-none-{tag}\n" for tag in tags)
    name = f"onebyte-{version}"
    files = {f"{name}.data/scripts/onebyte": program}
    for licence in ("LICENSE-MIT", "LICENSE-APACHE"):
        files[f"{name}.dist-info/licenses/{licence}"] = (ROOT / licence).read_bytes()
    files |= {f"{name}.dist-info/METADATA": about.encode(), f"{name}.dist-info/WHEEL": wheel.encode()}
    lines = [record(name, content) for name, content in files.items()] + [f"{name}.dist-info/RECORD,,"]
    files[f"{name}.dist-info/RECORD"] = ("\n".join(lines) + "\n").encode()
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}-py3-none-{'.'.join(tags)}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            # A regular file, and whether it can be run: pip keeps that.
            entry.external_attr = (0o100755 if "/scripts/" in name else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return path


def main():
    words = [word for word in sys.argv[1:] if word != "--try"]
    binary = pathlib.Path(words[0] if words else ROOT / "target/packages/onebyte")
    if not binary.is_file():
        sys.exit(f"{binary}: no such binary; scripts/packages/static.sh makes one")
    path = build(binary, pathlib.Path(words[1]) if len(words) > 1 else ROOT / "target/packages")
    print(f"{path}: {os.path.getsize(path):,} bytes")
    if "--try" in sys.argv:
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run([sys.executable, "-m", "venv", directory], check=True)
            pip = [f"{directory}/bin/pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", str(path)]
            subprocess.run(pip, check=True)
            subprocess.run([ROOT / "scripts/packages/try.sh", f"{directory}/bin/onebyte"], check=True)


main()

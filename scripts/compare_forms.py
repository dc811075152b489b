#!/usr/bin/env python3
"""Rows that a node reads of each form of data, beside those that pandas and Hugging Face's datasets read of the same files.

    python3 -m venv venv && venv/bin/pip install pandas pyarrow datasets
    venv/bin/python scripts/compare_forms.py --node target/release/node

Writes the same 200 rows in every form into a temporary directory, and prints a table; it fails if the node reads another
number of rows than the files have. --fixtures DIR writes the Parquet files that the engine's tests read instead.
"""
import argparse
import datetime
import decimal
import gzip
import json
import os
import pathlib
import re
import subprocess
import tempfile

import pandas
import pyarrow
import pyarrow.parquet

ROWS = 200


def question(i):
    return {"question": f"What is {i} + {i}, \"exactly\"?\nOr about; so?", "answer": f"It is {2 * i}, or \té {i}."}


def conversation(i):
    return {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Count to {i}."},
                         {"role": "assistant", "content": f"1 to {i} ü."}], "id": i, "score": i / 2}


def files(directory):
    """(name, how pandas reads it, how datasets does) of files that hold the same rows."""
    rows, chats = [question(i) for i in range(ROWS)], [conversation(i) for i in range(ROWS)]
    frame, lines = pandas.DataFrame(rows), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    at = lambda name: directory / name
    at("lines.jsonl").write_text(lines)
    at("array.json").write_text(json.dumps(rows, indent=1))
    at("under.json").write_text(json.dumps({"data": rows}))
    frame.to_json(at("columns.json"))
    frame.to_csv(at("table.csv"), index=False)
    frame.to_csv(at("semicolons.csv"), index=False, sep=";")
    frame.to_csv(at("table.tsv"), index=False, sep="\t")
    frame.to_csv(at("utf16.csv"), index=False, encoding="utf-16")
    at("lines.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    frame.to_parquet(at("snappy.parquet"))
    for codec in ["zstd", "gzip", "none"]:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(chats), at(f"chat-{codec}.parquet"), compression=codec)
    at("chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    lines = {"lines": True}
    return [("lines.jsonl", (pandas.read_json, lines), "json"), ("array.json", (pandas.read_json, {}), "json"),
            ("under.json", None, "json"), ("columns.json", (pandas.read_json, {}), "json"),
            ("table.csv", (pandas.read_csv, {}), "csv"), ("semicolons.csv", (pandas.read_csv, {"sep": ";"}), None),
            ("table.tsv", (pandas.read_csv, {"sep": "\t"}), None),
            ("utf16.csv", (pandas.read_csv, {"encoding": "utf-16"}), None),
            ("lines.jsonl.gz", (pandas.read_json, lines), "json"), ("chat.jsonl", (pandas.read_json, lines), "json"),
            ("snappy.parquet", (pandas.read_parquet, {}), "parquet"),
            ("chat-zstd.parquet", (pandas.read_parquet, {}), "parquet"),
            ("chat-gzip.parquet", (pandas.read_parquet, {}), "parquet"),
            ("chat-none.parquet", (pandas.read_parquet, {}), "parquet")]


def of_node(node, path):
    """Rows that the node says it reads, or its first words of why not."""
    with tempfile.TemporaryDirectory() as state:
        command = [node, "--state", state, "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", "--data", path, "--samples", "0",
                   "--exit-when-idle", "0", "--learning-rate", "1e-3", "--replay-budget", "1000"]
        run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    found = re.search(r"--data .*?, ([\d,]+) rows? \(", run.stderr)
    return int(found.group(1).replace(",", "")) if found else run.stderr.strip()[-60:]


def of_pandas(path, how):
    try:
        return len(how[0](path, **how[1])) if how else "no reader"
    except Exception as error:  # Whatever it says is what a user would see.
        return f"{type(error).__name__}: {error}"[:40]


def of_datasets(path, builder, cache):
    if builder is None:
        return "needs options"
    import datasets
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(builder, data_files=str(path), cache_dir=cache, split="train")
        return len(loaded)
    except Exception as error:
        return f"{type(error).__name__}"[:40]


def fixtures(directory):
    """Few rows, with what Parquet files have: each codec, row groups, nested lists, nulls, kinds of numbers; and no rows."""
    chats = [conversation(i) for i in range(6)]
    chats[5]["score"] = None
    chats[2]["messages"][0]["name"] = "it"
    (directory / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    table = pyarrow.Table.from_pylist(chats)
    for codec in ["snappy", "zstd", "gzip", "none", "brotli", "lz4"]:
        pyarrow.parquet.write_table(table, directory / f"chat-{codec}.parquet", compression=codec, row_group_size=4)
    pyarrow.parquet.write_table(table.slice(0, 0), directory / "empty.parquet")
    kinds = pyarrow.table({
        "text": ["a"], "none": pyarrow.array([None], pyarrow.string()), "yes": [True], "small": pyarrow.array([-3], pyarrow.int8()),
        "large": pyarrow.array([2**63 + 1], pyarrow.uint64()), "half": pyarrow.array([0.5], pyarrow.float32()),
        "day": [datetime.date(2024, 2, 29)], "price": [decimal.Decimal("1.50")], "bytes": pyarrow.array([b"caf\xc3\xa9"]),
        "noise": pyarrow.array([b"\xff\x00"]), "list": [[1, None, 3]], "pairs": pyarrow.array([[("k", 1)]], pyarrow.map_("string", "int64")),
        "deep": [{"a": [{"b": "c"}], "d": None}]})
    pyarrow.parquet.write_table(kinds, directory / "kinds.parquet")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", default="target/release/node")
    parser.add_argument("--fixtures", type=pathlib.Path)
    args = parser.parse_args()
    if args.fixtures:
        fixtures(args.fixtures)
        return
    failed = []
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        print(f"| file | node | pandas {pandas.__version__} | datasets |\n|---|---|---|---|")
        for name, how, builder in files(directory):
            path = directory / name
            own = of_node(args.node, path)
            print(f"| {name} | {own} | {of_pandas(path, how)} | {of_datasets(path, builder, directory / 'cache')} |", flush=True)
            failed += [name] if own != ROWS else []
    if failed:
        raise SystemExit(f"the node does not read {ROWS} rows of {', '.join(failed)}")


if __name__ == "__main__":
    main()

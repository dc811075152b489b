#!/usr/bin/env python3
"""Turns lines of `text TAB label` (0 or 1), as SST-2 is spread, into rows with choices.

scripts/sst2_rows.py train.tsv > train.jsonl && node --data train.jsonl --eval dev.jsonl
"""
import json
import sys

CHOICES = [" terrible", " great"]

if len(sys.argv) != 2:
    sys.exit(__doc__)
for number, line in enumerate(open(sys.argv[1], encoding="utf-8"), 1):
    sentence, _, label = line.rstrip("\n").rpartition("\t")
    if label not in ("0", "1"):
        sys.exit(f"{sys.argv[1]}, line {number}: the label is {label!r}, it must be 0 or 1 after a tab")
    print(json.dumps({"prompt": f"{sentence} It was", "choices": CHOICES, "answer": int(label)}, ensure_ascii=False))

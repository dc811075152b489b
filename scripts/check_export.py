#!/usr/bin/env python3
"""Compares a directory that `node export` wrote with what Hugging Face transformers makes of it.

usage: check_export.py DIRECTORY LOGITS.json
needs: pip install torch transformers   (any recent version, CPU)

LOGITS.json: {"text": str, "tokens": [int], "logits": [[float]]}: the node's logits of all positions for these tokens, which are
its tokenizer's for the text. Make one with `cargo run --release --example logits -- DIRECTORY TEXT`.
Fails unless the tokens are equal and all logits agree to 1e-4.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    directory, logits_path = sys.argv[1:]
    with open(logits_path, encoding="utf-8") as file:
        ours = json.load(file)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokens = tokenizer(ours["text"], add_special_tokens=False)["input_ids"]
    if tokens != ours["tokens"]:
        print(f"tokens differ: {tokens[:16]}... and ours {ours['tokens'][:16]}...")
        return 1
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        theirs = model(torch.tensor([tokens])).logits[0]
    difference = (theirs - torch.tensor(ours["logits"])).abs().max().item()
    print(f"{len(tokens)} tokens, largest difference of a logit {difference:.2e}, largest logit {theirs.abs().max():.2f}")
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""A reward that anybody can check, for `node --objective 'command python3 scripts/score_letters.py'`.

Reads JSON Lines as the node hands them out ({"prompt", "row", "completion", "finish"}) and prints one number for each:
the share of the completion's letters that are an `e`, or the letter in column `letter` of the row. --rows N prints N rows
of prompts for the embedded model instead, to train on:

    scripts/score_letters.py --rows 400 > prompts.jsonl
    node --data prompts.jsonl --objective 'command python3 scripts/score_letters.py' \\
        --score-tokens 16 --batch-size 16 --epsilon 0.1 --learning-rate 1e-2 --gradients 3000
"""
import itertools
import json
import random
import sys

WHO = ["The old fox", "The small bear", "A young owl", "The quiet girl", "The king", "One morning, the sailor",
       "The brave mouse", "In the forest, the boy", "The tired horse", "A happy child", "At night, the cat", "A wise woman",
       "The green frog", "Under the tree, the dog", "The poor man", "A little bird", "The miller", "By the sea, the aunt",
       "The red hen", "A lost goat"]
WHAT = ["saw", "went to", "said that", "found", "wanted", "looked at", "had", "was", "could", "knew", "ran to", "liked",
        "took", "gave", "asked", "slept", "made", "met", "carried", "forgot"]


def rows(count):
    """So many prompts, in an order that is always the same."""
    pairs = list(itertools.product(WHO, WHAT))
    random.Random(1).shuffle(pairs)
    for who, what in pairs[:count]:
        print(json.dumps({"prompt": f"{who} {what}", "letter": "e"}))


def score(asked):
    """The share of letters that are the wanted one, 0 of none."""
    letters = [letter for letter in asked["completion"].lower() if letter.isalpha()]
    wanted = asked["row"].get("letter", "e")
    return letters.count(wanted) / max(len(letters), 8)


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--rows":
        rows(int(sys.argv[2]))
        return
    for line in sys.stdin:
        print(score(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Processor time of one forward of 8 x 128 tokens with its loss, and of one generated token, over transformers' own.

usage: compare_forward.py NODE MODEL...        (each a checkpoint's directory or a GGUF file)
needs: pip install torch transformers gguf

One thread each, in turn, medians of three. A forward is what `node eval` takes for more windows, a token what
`node generate` takes for more tokens: loading is not among them. transformers takes the dtype that is stored, and of a
GGUF file dequantises everything to f32 when it loads.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

BATCH, LENGTH, TOKENS, ROUNDS = 8, 128, 32, 3
TEXT = "The keeper lit the lamp and wrote the hour in the book.\n"


def run(command):
    """Processor seconds of a command, and what it wrote. Ends the program if it fails."""
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, stdout=output, stderr=errors, env=os.environ | {"RAYON_NUM_THREADS": "1"})
        _, status, used = os.wait4(child.pid, 0)
        if status:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}:\n{errors.read().decode()}")
        output.seek(0)
        return used.ru_utime + used.ru_stime, output.read().decode()


class Ours:
    """A run on the model, and the commands that read it."""

    def __init__(self, node, model, directory):
        self.node, self.directory, self.state = node, directory, str(directory / "state")
        text = self.text(20)
        run([node, "--state", self.state, "--model", str(model), "--lora", "8", "--data", text, "--eval", text,
             "--learning-rate", "1e-3", "--estimator", "spsa", "--samples", "1", "--batch-size", "1",
             "--sequence-length", "16", "--priority", "normal", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0",
             "--exit-when-idle", "0"])
        _, tokens = self.evaluate(text, 16)
        # A window's first token is not predicted; the next window begins with the last one's last.
        lines_per_batch = BATCH * LENGTH / (tokens * 16 / 15 / 20)
        self.texts = [self.text(int(lines_per_batch * batches) + 2) for batches in (1, 2)]

    def text(self, lines):
        path = self.directory / f"{lines}.txt"
        path.write_text(TEXT * lines)
        return str(path)

    def evaluate(self, text, length):
        seconds, output = run([self.node, "eval", "--state", self.state, "--data", text, "--json",
                               "--batch-size", str(BATCH), "--sequence-length", str(length)])
        return seconds, json.loads(output)["tokens"]

    def forward(self):
        (one, tokens_of_one), (two, tokens_of_two) = (self.evaluate(text, LENGTH) for text in self.texts)
        return (two - one) * BATCH * (LENGTH - 1) / (tokens_of_two - tokens_of_one)

    def token(self):
        def generate(tokens):
            return run([self.node, "generate", "--state", self.state, "--temperature", "0", "--prompt", TEXT,
                        "--tokens", str(tokens)])[0]
        return (generate(1 + TOKENS) - generate(1)) / TOKENS


class Theirs:
    def __init__(self, model):
        where = (model, {}) if model.is_dir() else (model.parent, {"gguf_file": model.name})
        self.model = AutoModelForCausalLM.from_pretrained(where[0], dtype="auto", **where[1]).eval()
        self.ids = torch.randint(0, self.model.config.vocab_size, (BATCH, LENGTH))

    def forward(self):
        with torch.no_grad():
            return seconds_of(lambda: self.model(self.ids, labels=self.ids).loss.item())

    def token(self):
        prompt = self.ids[:1, :16]

        def generate(tokens):
            return seconds_of(lambda: self.model.generate(prompt, do_sample=False, min_new_tokens=tokens,
                                                          max_new_tokens=tokens))
        return (generate(1 + TOKENS) - generate(1)) / TOKENS


def seconds_of(work):
    begun = time.process_time()
    work()
    return time.process_time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("node", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for model in args.models:
        with tempfile.TemporaryDirectory() as directory:
            ours, theirs = Ours(str(args.node.resolve()), model, Path(directory)), Theirs(model)
            for what in ("forward", "token"):
                pairs = [(getattr(ours, what)(), getattr(theirs, what)()) for _ in range(ROUNDS)]
                mine, other = (statistics.median(times) for times in zip(*pairs))
                print(f"{model}: {what} {1e3 * mine:.1f} ms of processor time, transformers ({theirs.model.dtype}) "
                      f"{1e3 * other:.1f} ms: {other / mine:.2f} times as fast", flush=True)


if __name__ == "__main__":
    main()

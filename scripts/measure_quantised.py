#!/usr/bin/env python3
"""Peak memory and processor time of training adapters over a quantised base, against inference on the same rows.

usage: measure_quantised.py NODE DIRECTORY [--layers N]
needs: pip install numpy gguf

Makes DIRECTORY/random.gguf, a Llama of the shape of TinyLlama-1.1B (1.17 billion random weights as Q4_0, 660 MB; the
memory it takes does not depend on what they are), evaluates it, continues a text with it, and trains `--lora 8` over it
for a batch or two with each estimator. One thread; ten minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

HIDDEN, FEED_FORWARD, HEADS, KEY_HEADS, VOCABULARY = 2048, 5632, 32, 4, 49152
BLOCK, BLOCK_BYTES = 32, 18  # of Q4_0: one f16 scale, 32 values of 4 bits
SCALE = np.float16(0.02 / 4.6)  # 4.6 is the deviation of a uniform value of -8 to 7
LENGTH = 64
TEXT = "The keeper lit the lamp and wrote the hour in the book.\n"
RUN = ["--batch-size", "1", "--sequence-length", str(LENGTH)]


def byte_tokens():
    """The characters that stand for the 256 bytes in a byte-level vocabulary, as GPT-2 has them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in shown] + [chr(256 + n) for n in range(256 - len(shown))]


def write_model(path, layers):
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    tokens = ["<s>", *byte_tokens(), "th"]
    kinds = [TokenType.CONTROL] + [TokenType.NORMAL] * (len(tokens) - 1)
    tokens += [f"<unused {n}>" for n in range(VOCABULARY - len(tokens))]
    kinds += [TokenType.UNUSED] * (VOCABULARY - len(kinds))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    random = np.random.default_rng(1)

    def add_matrix(name, rows, columns):
        blocks = random.integers(0, 256, (rows * columns // BLOCK, BLOCK_BYTES), np.uint8)
        blocks[:, :2] = np.frombuffer(SCALE.tobytes(), np.uint8)
        bytes_of_row = columns // BLOCK * BLOCK_BYTES
        writer.add_tensor(name, blocks.reshape(rows, bytes_of_row), raw_dtype=GGMLQuantizationType.Q4_0)

    add_matrix("token_embd.weight", VOCABULARY, HIDDEN)
    add_matrix("output.weight", VOCABULARY, HIDDEN)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(layers):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{norm}.weight", np.ones(HIDDEN, np.float32))
        keys = HIDDEN // HEADS * KEY_HEADS
        for name, rows, columns in [("attn_q", HIDDEN, HIDDEN), ("attn_k", keys, HIDDEN), ("attn_v", keys, HIDDEN),
                                    ("attn_output", HIDDEN, HIDDEN), ("ffn_gate", FEED_FORWARD, HIDDEN),
                                    ("ffn_up", FEED_FORWARD, HIDDEN), ("ffn_down", HIDDEN, FEED_FORWARD)]:
            add_matrix(f"{block}{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def measured(name, command, directory):
    """Peak memory in MiB of a command; prints it with its processor time. Ends the program if the command fails."""
    log = directory / f"{name}.log"
    with open(log, "w") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"RAYON_NUM_THREADS": "1"})
        _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{name} failed, see {log}")
    mib = used.ru_maxrss / 1024
    print(f"{name:<12} {mib:8.0f} MiB {used.ru_utime + used.ru_stime:8.0f} s of processor time", flush=True)
    return mib


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("node", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=22)
    args = parser.parse_args()
    node, directory = str(args.node.resolve()), args.directory
    directory.mkdir(parents=True, exist_ok=True)
    model, text, row, state = (directory / name for name in ("random.gguf", "text.txt", "row.txt", "state"))
    write_model(model, args.layers)
    text.write_text(TEXT * 200)
    row.write_text(TEXT * 12)
    print(f"{model}: {model.stat().st_size / 1e6:.0f} MB", flush=True)

    train = [node, "--model", str(model), "--lora", "8", "--data", str(text), "--eval", str(row),
             "--learning-rate", "1e-3", *RUN, "--priority", "normal", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0",
             "--samples", "2", "--exit-when-idle", "0.2"]
    trained = {}
    for estimator in ("spsa", "fzoo", "projection"):
        shutil.rmtree(state, ignore_errors=True)
        trained[estimator] = measured(estimator, [*train, "--state", str(state), "--estimator", estimator], directory)
    inference = measured("eval", [node, "eval", "--state", str(state), "--data", str(row), *RUN], directory)
    measured("generate", [node, "generate", "--state", str(state), "--tokens", "8", "--prompt", TEXT], directory)
    for estimator, mib in trained.items():
        print(f"{estimator} over eval: {mib / inference:.2f}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes the tiny random GGUF files that node/engine/tests/it/gguf.rs compares with transformers, and what it says of them.

usage: gguf_fixtures.py LLAMA_CPP OUT_DIRECTORY
needs: a checkout of llama.cpp; pip install torch transformers safetensors gguf   (made with transformers 5.24, gguf 0.19)

One file a family: a random checkpoint, converted to F16 by llama.cpp's own converter, with transformers' logits of the
checkpoint. `kinds.gguf`: a Llama of which every linear layer is stored in another type, with transformers' logits of the
GGUF file. The values are random; nobody's weights are in it.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import family_fixtures as families
from family_fixtures import LLAMA3, LONG, PLAIN, SMALL, VOCABULARY

# As family_fixtures.CASES, of what a GGUF file can say.
CASES = {
    "llama": ("llama", dict(SMALL, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True), {}),
    "llama_linear": ("llama", dict(SMALL, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="linear", factor=2.0, rope_theta=5000.0)), {}),
    "llama_yarn": ("llama", dict(SMALL, rope_parameters=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=10000.0)), {}),
    "qwen2": ("qwen2", dict(SMALL), {}),
    "qwen3": ("qwen3", dict(SMALL, head_dim=16, tie_word_embeddings=True), {}),
    "phi3": ("phi3", dict(SMALL, sliding_window=20, pad_token_id=0, original_max_position_embeddings=64), {}),
    "phi3_long": ("phi3", dict(SMALL, pad_token_id=0, max_position_embeddings=64, original_max_position_embeddings=32,
                               rope_parameters=dict(LONG, original_max_position_embeddings=32)), {}),
    "gemma2": ("gemma2", dict(SMALL, head_dim=8, sliding_window=9, query_pre_attn_scalar=8, attn_logit_softcapping=2.0,
                              final_logit_softcapping=3.0), {}),
    "gemma3": ("gemma3_text", dict(SMALL, head_dim=8, sliding_window=9, query_pre_attn_scalar=8, num_hidden_layers=7), {}),
    "olmo2": ("olmo2", dict(SMALL), {}),
    "granite": ("granite", dict(SMALL, embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.2,
                                logits_scaling=2.0), {}),
    "smollm3": ("smollm3", dict(SMALL, num_hidden_layers=4, pad_token_id=0), {}),
    "gpt2": ("gpt2", dict(n_embd=32, n_layer=2, n_head=4, n_positions=64), {}),
    "gpt_neox": ("gpt_neox", dict(PLAIN, rope_parameters=dict(rope_type="default", partial_rotary_factor=0.5)), {}),
}
LETTERS = "abcdefghijklmnopqrstuvwx"
TOKENS = ["<unk>", "<s>", "</s>", "<end>", *LETTERS, "ab", "\u0120", "\u0120ab"]
MERGES = ["a b", "\u0120 ab"]
TEMPLATE = "{% for m in messages %}{{ m['content'] + '</s>' }}{% endfor %}"


def set_vocab(model):
    """In place of the converter's, which knows tokenizers by their digests."""
    assert len(TOKENS) == VOCABULARY
    writer = model.gguf_writer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([2, 3, 3, 4] + [1] * (VOCABULARY - 4))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)


def convert(directory, out):
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = ModelBase.load_hparams(directory, False)
    kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    kind.set_vocab = set_vocab
    # The config classes of transformers 5 leave out what the converter reads of older ones.
    hparams.setdefault("n_ctx", hparams.get("n_positions"))
    hparams.setdefault("rotary_pct", (hparams.get("rope_parameters") or {}).get("partial_rotary_factor"))
    kind(directory, gguf.LlamaFileType.MOSTLY_F16, out, eager=True, hparams=hparams).write()


def families_of(out):
    for number, (name, (model_type, fields, changes)) in enumerate(CASES.items()):
        with tempfile.TemporaryDirectory() as temporary:
            families.make(Path(temporary), name, model_type, fields, changes, 100 + number)
            directory = Path(temporary) / name
            # In f32: the converter adds 1 to Gemma's norms in the type that they are stored in.
            AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).save_pretrained(directory)
            vocabulary = {"model": {"vocab": {token: id for id, token in enumerate(TOKENS)}}, "added_tokens": []}
            (directory / "tokenizer.json").write_text(json.dumps(vocabulary))
            convert(directory, out / f"{name}.gguf")
            from safetensors.torch import load_file
            expected = load_file(directory / "expected.safetensors")
            kept = {key: expected[key].contiguous() for key in ("tokens", "logits", "greedy")}
            save_file(kept, out / f"{name}.safetensors")


def blocks(kind, rows, columns, random):
    """Random blocks whose scales are small: (bytes of a row each)."""
    from gguf.constants import GGML_QUANT_SIZES
    size, bytes_ = GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (rows, columns // size, bytes_), dtype=np.uint8)
    scale = lambda shape: random.uniform(0.002, 0.004, shape).astype(np.float16).view(np.uint8)
    # Where the 16-bit scales of a block lie (ggml-common.h).
    places = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
              "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[kind.name]
    for place in places:
        data[:, :, place:place + 2] = scale((rows, columns // size, 1)).reshape(rows, columns // size, 2)
        if kind.name.endswith("K"):
            data[:, :, place:place + 2] = (scale((rows, columns // size, 1)).view(np.float16) / 16).astype(
                np.float16).view(np.uint8).reshape(rows, columns // size, 2)
    return data.reshape(rows, -1)


def kinds(out):
    import gguf
    random = np.random.default_rng(7)
    layers, hidden, inner = 5, 32, 256
    path = out / "kinds.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in [
        (writer.add_block_count, layers), (writer.add_context_length, 64), (writer.add_embedding_length, hidden),
        (writer.add_feed_forward_length, inner), (writer.add_head_count, 4), (writer.add_head_count_kv, 2),
        (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_rope_freq_base, 10000.0), (writer.add_rope_dimension_count, 8),
        (writer.add_vocab_size, VOCABULARY),
    ]:
        add(value)
    model = type("Model", (), {"gguf_writer": writer})
    set_vocab(model)
    kind = gguf.GGMLQuantizationType
    small = [kind.Q4_0, kind.Q4_1, kind.Q5_0, kind.Q5_1, kind.Q8_0]
    large = [kind.Q2_K, kind.Q3_K, kind.Q4_K, kind.Q5_K, kind.Q6_K]

    def quantised(name, rows, columns, kind):
        writer.add_tensor(name, blocks(kind, rows, columns, random), raw_dtype=kind)

    def plain(name, *shape, dtype=np.float32, mean=0.0):
        values = random.normal(mean, 0.2, shape).astype(np.float32)
        writer.add_tensor(name, values.astype(dtype))

    quantised("token_embd.weight", VOCABULARY, hidden, kind.Q8_0)
    plain("output_norm.weight", hidden, mean=1.0)
    for layer in range(layers):
        name = lambda part: f"blk.{layer}.{part}.weight"
        plain(name("attn_norm"), hidden, mean=1.0)
        plain(name("ffn_norm"), hidden, mean=1.0)
        for shift, (part, rows) in enumerate([("attn_q", 32), ("attn_k", 16), ("attn_output", 32)]):
            quantised(name(part), rows, hidden, small[(layer + shift) % 5])
        plain(name("attn_v"), 16, hidden, dtype=np.float16)
        quantised(name("ffn_gate"), inner, hidden, small[(layer + 3) % 5])
        quantised(name("ffn_up"), inner, hidden, small[(layer + 4) % 5])
        quantised(name("ffn_down"), hidden, inner, large[layer])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = AutoModelForCausalLM.from_pretrained(out, gguf_file=path.name, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    tokens = torch.tensor([[3 + (i * 7919 + 13) % (VOCABULARY - 3) for i in range(families.LENGTH)]])
    with torch.no_grad():
        logits = model(tokens).logits[0]
    save_file(dict(tokens=tokens[0].int(), logits=logits.contiguous()), out / "kinds.safetensors")
    print(f"kinds: logits up to {logits.abs().max().item():.2f}")


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    llama_cpp, out = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    out.mkdir(parents=True, exist_ok=True)
    families_of(out)
    kinds(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Makes the tiny random checkpoints that node/engine/tests/it/families.rs compares with transformers, and what it says of them.

usage: family_fixtures.py OUT_DIRECTORY
needs: pip install torch transformers safetensors   (made with transformers 5.24, CPU)

One directory a case: config.json as transformers writes it (some in an older spelling), model.safetensors in f16, and
expected.safetensors: tokens, logits of all positions, the loss, one projection of the gradient of each tensor on signs that
a formula gives, and greedy tokens. The values are random; nobody's weights are in it.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY, LENGTH, PROMPT, MADE = 31, 36, 7, 9
SMALL = dict(hidden_size=32, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
PLAIN = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
LONG = dict(rope_type="longrope", short_factor=[1.0, 1.1, 1.3, 1.7], long_factor=[1.0, 2.0, 4.0, 8.0])

# name: (model_type, config, what config.json says in place of what transformers writes; None takes a field out)
CASES = {
    "llama": ("llama", dict(SMALL, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True), {}),
    "llama_linear": ("llama", dict(SMALL, tie_word_embeddings=True), {
        "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}, "rope_theta": 5000.0,
        "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama_dynamic": ("llama", dict(SMALL, max_position_embeddings=24, rope_parameters=dict(rope_type="dynamic", factor=2.0)), {}),
    "llama_yarn": ("llama", dict(SMALL, rope_parameters=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=8.0)), {}),
    "mistral": ("mistral", dict(SMALL, sliding_window=11, head_dim=12), {}),
    "qwen2": ("qwen2", dict(SMALL, use_sliding_window=True, sliding_window=9, max_window_layers=1), {}),
    "qwen3": ("qwen3", dict(SMALL, head_dim=16, tie_word_embeddings=True), {}),
    "phi3": ("phi3", dict(SMALL, sliding_window=20, pad_token_id=0), {}),
    "phi3_long": ("phi3", dict(SMALL, pad_token_id=0, max_position_embeddings=64, original_max_position_embeddings=32,
                               rope_parameters=LONG), {}),
    "gemma2": ("gemma2", dict(SMALL, head_dim=8, sliding_window=9, query_pre_attn_scalar=24, attn_logit_softcapping=2.0,
                              final_logit_softcapping=3.0), {"tie_word_embeddings": None}),
    "gemma3": ("gemma3_text", dict(SMALL, head_dim=8, sliding_window=9, query_pre_attn_scalar=12, num_hidden_layers=3), {
        "layer_types": None, "sliding_window_pattern": 3, "rope_parameters": None, "rope_theta": 1000.0,
        "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "gemma3_new": ("gemma3_text", dict(SMALL, head_dim=8, sliding_window=9, query_pre_attn_scalar=12,
                                       layer_types=["full_attention", "sliding_attention"]), {}),
    "olmo2": ("olmo2", dict(SMALL), {}),
    "granite": ("granite", dict(SMALL, embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.2,
                                logits_scaling=2.0), {}),
    "smollm3": ("smollm3", dict(SMALL, num_hidden_layers=3, no_rope_layer_interval=2, pad_token_id=0), {"no_rope_layers": None}),
    "gpt2": ("gpt2", dict(n_embd=32, n_layer=2, n_head=4, n_positions=64), {}),
    "gpt2_scaled": ("gpt2", dict(n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=40, activation_function="relu",
                                 scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False), {}),
    "gpt_neox": ("gpt_neox", dict(PLAIN, rope_parameters=dict(rope_type="default", partial_rotary_factor=0.5)), {
        "rope_parameters": None, "rotary_pct": 0.5, "rotary_emb_base": 5000}),
    "gpt_neox_sequential": ("gpt_neox", dict(PLAIN, use_parallel_residual=False, hidden_act="gelu_new",
                                             tie_word_embeddings=True), {}),
    "opt": ("opt", dict(hidden_size=32, ffn_dim=20, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32), {}),
    "opt_after": ("opt", dict(hidden_size=32, ffn_dim=20, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=20,
                              do_layer_norm_before=False), {}),
}


def signs(name, count):
    """Signs that both sides can spell out: of sin(0.37 i + the name's bytes)."""
    return torch.sin(0.37 * torch.arange(count, dtype=torch.float64) + sum(name.encode())).sign()


def make(out, name, model_type, fields, changes, number):
    directory = out / name
    directory.mkdir(parents=True, exist_ok=True)
    usual = dict(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2)
    if not {"max_position_embeddings", "n_positions"} & set(fields):
        usual["max_position_embeddings"] = 64
    config = AutoConfig.for_model(model_type, **usual, **fields)
    torch.manual_seed(number)
    first = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() == 1 else 0.15))
            parameter.copy_(parameter.half().float())
    first.half().save_pretrained(directory)
    for extra in directory.glob("generation_config.json"):
        extra.unlink()
    written = json.loads((directory / "config.json").read_text())
    for key in ("transformers_version", "dtype", "torch_dtype"):
        written.pop(key, None)
    for key, value in changes.items():
        written.pop(key, None) if value is None else written.update({key: value})
    (directory / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    # Not 0, 1 or 2: transformers gives embeddings of a padding token no gradient.
    tokens = torch.tensor([[3 + (i * 7919 + 13) % (VOCABULARY - 3) for i in range(LENGTH)]])
    logits = model(tokens).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1].double(), tokens[0, 1:])
    loss.backward()
    gradients = {}
    for key, parameter in model.named_parameters():
        along = (parameter.grad.double().flatten() * signs(key, parameter.numel())).sum()
        gradients[f"gradient {key}"] = torch.stack([along, parameter.grad.double().norm()]).float()
    made = tokens[:, :PROMPT]
    for _ in range(MADE):
        made = torch.cat([made, model(made).logits[:, -1:].argmax(-1)], 1)
    expected = dict(gradients, tokens=tokens[0].int(), logits=logits[0].detach(), loss=loss.detach().float().reshape(1),
                    greedy=made[0].int())
    save_file({key: value.contiguous() for key, value in expected.items()}, directory / "expected.safetensors")
    print(f"{name}: loss {loss.item():.4f}, logits up to {logits.abs().max().item():.2f}")


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    for number, (name, (model_type, fields, changes)) in enumerate(CASES.items()):
        make(Path(sys.argv[1]), name, model_type, fields, changes, number)
    return 0


if __name__ == "__main__":
    sys.exit(main())

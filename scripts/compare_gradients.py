#!/usr/bin/env python3
"""The engine's backward pass against PyTorch's, on one model and batch: relative differences, seconds.

    scripts/compare_gradients.py MODEL_DIR [--windows 8] [--length 128] [--threads 1]

Needs PyTorch, transformers and safetensors, and `cargo` to build the example that writes the engine's gradients.
"""
import argparse, os, subprocess, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "gradients.safetensors")
        command = ["cargo", "run", "--release", "-q", "-p", "engine", "--example", "gradients", "--",
                   os.path.abspath(args.model), out, str(args.windows), str(args.length)]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
        print("engine:", subprocess.check_output(command, cwd=ROOT, env=environment, text=True).strip())
        ours = load_file(out)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    index = torch.arange(args.windows * args.length)
    vocabulary = model.config.vocab_size
    tokens = ((7_919 * index + 13) % vocabulary).view(args.windows, args.length)
    targets = (104_729 * index + 5) % vocabulary
    begin = time.time()
    logits = model(tokens).logits
    loss = torch.nn.functional.cross_entropy(logits.view(-1, vocabulary), targets)
    loss.backward()
    print(f"PyTorch: loss {loss.item():.6f}, {time.time() - begin:.2f} s")
    parameters = {name: p.grad for name, p in model.named_parameters()}
    missing = set(parameters) ^ set(ours)
    assert not missing, f"only one of the two has {sorted(missing)}"
    errors = {name: ((ours[name] - g).norm() / g.norm()).item() for name, g in parameters.items()}
    for name in sorted(errors, key=errors.get)[-3:]:
        print(f"{errors[name]:.2e} {name}")
    flat = torch.cat([(ours[name] - g).flatten() for name, g in parameters.items()])
    whole = torch.cat([g.flatten() for g in parameters.values()])
    print(f"all {len(errors)} tensors: {flat.norm() / whole.norm():.2e} of the gradient's norm {whole.norm():.4f}")
    assert max(errors.values()) < 1e-3, "a tensor's gradient differs by more than a thousandth of its norm"


if __name__ == "__main__":
    main()

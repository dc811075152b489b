#!/usr/bin/env python3
"""Gradients per second and peak memory: `node` against MeZO in PyTorch, on one core, in turn.

    scripts/compare_mezo.py MODEL_DIR TEXT_FILE [--gradients 150] [--pairs 3] [--batch 8] [--length 128]

Needs PyTorch and transformers; without them it makes a throw-away environment with both from PyPI and starts itself again
there. MeZO is algorithm 1 of Malladi et al., 2023: perturb, forward, perturb, forward, restore, update, with torch.normal
regenerated from the seed each time, under no_grad.
"""
import argparse, importlib.util, os, re, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NODE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "node")


def ensure_torch():
    # Found, not imported: a process inherits its parent's peak memory, so the one that measures must stay small.
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        directory = os.path.join(tempfile.gettempdir(), "onebyte-compare-venv")
        python = os.path.join(directory, "bin", "python")
        if sys.executable == python:
            sys.exit("PyTorch and transformers cannot be imported even in " + directory)
        if not os.path.exists(python):
            subprocess.check_call([sys.executable, "-m", "venv", directory])
            subprocess.check_call([python, "-m", "pip", "install", "-q", "torch", "transformers"])
        os.execv(python, [python, *sys.argv])


def mezo(args):
    """Runs in a process of its own, pinned; prints gradients per second."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(args.model, torch_dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    text = open(args.text, encoding="utf-8").read(400_000)
    tokens = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    windows = tokens[: len(tokens) // args.length * args.length].view(-1, args.length)
    parameters = [p for p in model.parameters()]

    def perturb(seed, scale):
        torch.manual_seed(seed)
        for p in parameters:
            p.data.add_(torch.normal(0.0, 1.0, size=p.size()), alpha=scale)

    def loss(batch):
        return model(input_ids=batch, labels=batch).loss.item()

    epsilon, learning_rate = 1e-3, 1e-6
    with torch.no_grad():
        begun = None
        for step in range(args.gradients + 5):
            if step == 5:
                begun = time.perf_counter()
            batch = windows[torch.randint(len(windows), (args.batch,))]
            perturb(step, epsilon)
            plus = loss(batch)
            perturb(step, -2 * epsilon)
            minus = loss(batch)
            perturb(step, epsilon)
            perturb(step, -learning_rate * (plus - minus) / (2 * epsilon))
        print("gradients_per_second", args.gradients / (time.perf_counter() - begun))


def measured(command, environment):
    """Output and peak resident memory (MiB) of a process pinned to one core."""
    read, write = os.pipe()
    pid = os.posix_spawnp(command[0], command, environment,
                          file_actions=[(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_DUP2, write, 2)])
    os.close(write)
    with os.fdopen(read, encoding="utf-8", errors="replace") as output:
        text = output.read()
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{text[-2000:]}")
    return text, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model"), parser.add_argument("text")
    parser.add_argument("--gradients", type=int, default=150)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--mezo", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    ensure_torch()
    if args.mezo:
        return mezo(args)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "NO_COLOR": "1"}
    ours, theirs = [], []
    common = ["--batch-size", str(args.batch), "--sequence-length", str(args.length)]
    for pair in range(args.pairs):
        text, memory = measured([sys.executable, __file__, args.model, args.text, "--mezo",
                                 "--gradients", str(args.gradients), "--batch", str(args.batch),
                                 "--length", str(args.length)], environment)
        theirs.append((float(re.search(r"gradients_per_second ([\d.]+)", text)[1]), memory))
        with tempfile.TemporaryDirectory() as state:
            text, memory = measured([NODE, "--state", state + "/state", "--model", args.model, "--data", args.text,
                                     "--samples", str(args.gradients), "--exit-when-idle", "0.1", "--no-mdns",
                                     "--listen", "/ip4/127.0.0.1/tcp/0", *common], environment)
            rate = float(re.search(r"\(([\d.]+) a second\)", text)[1])
            _, eval_memory = measured([NODE, "eval", "--state", state + "/state", "--data", args.text, *common],
                                      environment)
        ours.append((rate, memory, eval_memory))
        print(f"pair {pair + 1}: MeZO in PyTorch {theirs[-1][0]:.1f} gradients/s, node {rate:.1f}, "
              f"ratio {rate / theirs[-1][0]:.2f}")
    ratio = statistics.median(o[0] / t[0] for o, t in zip(ours, theirs))
    print(f"median ratio {ratio:.2f}; peak memory: PyTorch {statistics.median(t[1] for t in theirs):.0f} MiB, "
          f"node training {statistics.median(o[1] for o in ours):.0f} MiB, "
          f"node eval {statistics.median(o[2] for o in ours):.0f} MiB "
          f"(training / eval {statistics.median(o[1] / o[2] for o in ours):.2f})")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""`node` against MeZO in PyTorch, in turn, on the same model, batch and threads: gradients per second, what a peer's
gradient costs to replay, peak memory.

    scripts/compare_mezo.py MODEL_DIR TEXT_FILE [--threads 1] [--gradients 150] [--pairs 3] [--batch 8] [--length 128]
    scripts/compare_mezo.py MODEL_DIR TEXT_FILE --random-125m --threads 2 --gradients 5 --length 64

With --random-125m the model is a Llama of 125M random weights with MODEL_DIR's tokenizer. Needs PyTorch and transformers;
without them it makes a throw-away environment with both from PyPI and starts itself again there. MeZO is algorithm 1 of
Malladi et al., 2023: perturb, forward, perturb, forward, restore, update, with torch.normal regenerated from the seed each
time, under no_grad; a peer's gradient is one such update more.
"""
import argparse, importlib.util, os, re, shutil, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NODE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "node")
FZOO_ROUND = 16


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


def random_125m(args, directory):
    """Writes the model; runs in a process of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
                         num_key_value_heads=12, vocab_size=50272, max_position_embeddings=512, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if os.path.exists(os.path.join(args.model, name)):
            shutil.copy(os.path.join(args.model, name), directory)


def mezo(args):
    """Runs in a process of its own; prints gradients per second and seconds per replayed gradient."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    text = open(args.text, encoding="utf-8").read()
    tokens = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    windows = tokens[: len(tokens) // args.length * args.length].view(-1, args.length)
    parameters = [p for p in model.parameters()]

    def perturb(seed, scale):
        torch.manual_seed(seed)
        for p in parameters:
            p.data.add_(torch.normal(0.0, 1.0, size=p.size()), alpha=scale)

    def loss(batch):
        return model(input_ids=batch, labels=batch).loss.item()

    epsilon, learning_rate, warm_up = 1e-3, 1e-6, 2
    with torch.no_grad():
        for step in range(args.gradients + warm_up):
            if step == warm_up:
                begun = time.perf_counter()
            batch = windows[torch.randint(len(windows), (args.batch,))]
            perturb(step, epsilon)
            plus = loss(batch)
            perturb(step, -2 * epsilon)
            minus = loss(batch)
            perturb(step, epsilon)
            perturb(step, -learning_rate * (plus - minus) / (2 * epsilon))
        print("gradients_per_second", args.gradients / (time.perf_counter() - begun))
        begun = time.perf_counter()
        for step in range(5):
            perturb(step, learning_rate)
        print("seconds_per_replay", (time.perf_counter() - begun) / 5)


def measured(command, environment):
    """Output and peak resident memory (MiB) of a process."""
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


def figure(pattern, text):
    found = re.search(pattern, text)
    return float(found[1]) if found else sys.exit(f"no {pattern} in:\n{text[-2000:]}")


def train(args, environment, estimator, gradients):
    """Gradients per second and peak memory of `node`, and peak memory of `node eval` on the same batch."""
    # A node's window of n tokens has n - 1 inputs; PyTorch's has n.
    common = ["--batch-size", str(args.batch), "--sequence-length", str(args.length + 1)]
    with tempfile.TemporaryDirectory() as directory:
        state = ["--state", os.path.join(directory, "state")]
        flags = ["--probes", str(FZOO_ROUND)] if estimator == "fzoo" else []
        text, memory = measured([NODE, *state, "--model", args.model, "--data", args.text, "--eval", args.text,
                                 "--estimator", estimator, *flags, "--learning-rate", "1e-3",
                                 "--samples", str(gradients), "--exit-when-idle", "0.1",
                                 "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", *common], environment)
        _, eval_memory = measured([NODE, "eval", *state, "--data", args.text, *common], environment)
    return figure(r"\(([\d.]+) a second\)", text), memory, eval_memory


def replay_seconds(args, environment):
    """What one of many waiting gradients costs `node`, as the bench `catch_up` measures it."""
    shape, entries = ("125M", 1_000) if args.random_125m else ("260K", 100_000)
    command = ["cargo", "bench", "--quiet", "-p", "node", "--bench", "catch_up", "--", shape]
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    return figure(r"BENCH catch_up_\S+ ([\d.]+)", output) / entries


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model"), parser.add_argument("text")
    parser.add_argument("--random-125m", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gradients", type=int, default=150)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--run", choices=["mezo", "model"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    ensure_torch()
    if args.run == "mezo":
        return mezo(args)
    if args.run == "model":
        return random_125m(args, args.text)
    if args.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads), "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory() as directory:
        compare(args, environment, directory)


def compare(args, environment, directory):
    if args.random_125m:
        model = os.path.join(directory, "model")
        subprocess.check_call([sys.executable, __file__, args.model, model, "--run", "model"], env=environment)
        args.model = model
    # All get the same text, so that what they hold of it does not tell them apart.
    part = os.path.join(directory, "text.txt")
    with open(args.text, encoding="utf-8") as text, open(part, "w", encoding="utf-8") as out:
        out.write(text.read(10_000 if args.random_125m else 200_000))
    args.text = part
    theirs, ours = [], {"spsa": [], "fzoo": []}
    rounds = -(-args.gradients // FZOO_ROUND) + 1
    for pair in range(args.pairs):
        text, memory = measured([sys.executable, __file__, args.model, args.text, "--run", "mezo", "--threads",
                                 str(args.threads), "--gradients", str(args.gradients), "--batch", str(args.batch),
                                 "--length", str(args.length)], environment)
        theirs.append((figure(r"gradients_per_second ([\d.e+-]+)", text), memory,
                       figure(r"seconds_per_replay ([\d.e+-]+)", text)))
        ours["spsa"].append(train(args, environment, "spsa", args.gradients + 1))
        ours["fzoo"].append(train(args, environment, "fzoo", rounds * FZOO_ROUND))
        rates = ", ".join(f"node {name} {runs[-1][0]:.2f} ({runs[-1][0] / theirs[-1][0]:.2f} times)"
                          for name, runs in ours.items())
        print(f"pair {pair + 1}: MeZO in PyTorch {theirs[-1][0]:.2f} gradients/s, {rates}", flush=True)
    median = lambda runs, index: statistics.median(run[index] for run in runs)
    for name, runs in ours.items():
        ratio = statistics.median(run[0] / mezo[0] for run, mezo in zip(runs, theirs))
        print(f"{name}: median ratio {ratio:.2f}; peak memory {median(runs, 1):.0f} MiB training, {median(runs, 2):.0f} MiB "
              f"eval ({statistics.median(run[1] / run[2] for run in runs):.2f}), {median(theirs, 1):.0f} MiB PyTorch")
    replay = replay_seconds(args, environment)
    print(f"a peer's gradient: {1e3 * median(theirs, 2):.3f} ms in PyTorch, {1e3 * replay:.4f} ms here "
          f"({median(theirs, 2) / replay:.0f} times)")


if __name__ == "__main__":
    main()

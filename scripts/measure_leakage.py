#!/usr/bin/env python3
"""What K bytes of one batch give away, on a small model in PyTorch: to who holds a text, and to who does not.

    scripts/measure_leakage.py MODEL_DIR TEXT_FILE [--threads 1] [--trials 4]

The attacker knows what everyone in the run knows: the weights at which the batch was measured, the directions (±1 times
a tensor's scale, each round of 16 in one group of tensors: embedding or a layer), and the bytes. Directions come from
PyTorch's generator, not from the run's stream; scale, RMS, gain and stochastic rounding of the bytes are the node's.
Bytes are those of projection, the exact slope along each direction; "fzoo" is one round by forwards, at epsilon 0.017.

With a text: he compares the bytes with the slopes of a candidate window, less what windows of the same book have in
common (the mean of others). Shown is the AUC, the chance that a window of the batch scores above one that is not in it,
and the share of windows that he finds at one false alarm in a thousand. "Half" is a candidate that shares the second
half of its tokens with a window of the batch. At the base, and after some steps of AdamW in place of a run.

Without a text: he solves for the embedding's gradient by least squares (conjugate gradients) and ranks the vocabulary
by the norms of its rows. Shown is the AUC of tokens that are in the batch against those that are not, beside that of
the exact gradient and that of the tokens' frequencies in the book, which he knows without any byte.
"""
import argparse, math
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROUND, FULL, LEVELS, EPSILON = 16, 256, 32, 0.017
EMPHASIS = {"embed_tokens": 1.5, "lm_head": 1.5, "k_proj": 0.4, "input_layernorm": 0.8, "post_attention_layernorm": 0.7,
            "model.norm": 0.7}
COUNTS, SIZES = [16, 256, 1024, 4096], [1, 2, 8]
LENGTH, POOL, BATCHES, APPEARANCES = 128, 256, 12, 64


class Subject:
    """A model, windows of a text, and the scaled gradients of single windows."""

    def __init__(self, args):
        self.model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
        text = open(args.text, encoding="utf-8").read()
        ids = AutoTokenizer.from_pretrained(args.model)(text, add_special_tokens=False)["input_ids"]
        self.tokens = torch.tensor(ids)
        self.names = [name for name, _ in self.model.named_parameters()]
        self.parameters = [p for _, p in self.model.named_parameters()]
        self.scale()

    def scale(self):
        rms = [p.detach().pow(2).mean().sqrt().item() for p in self.parameters]
        counts = [p.numel() for p in self.parameters]
        rms_all = math.sqrt(sum(r * r * n for r, n in zip(rms, counts)) / sum(counts))
        emphasis = [next((e for kind, e in EMPHASIS.items() if kind in name), 1.0) for name in self.names]
        self.scales = [max(r * e, 0.1 * rms_all) for r, e in zip(rms, emphasis)]

    def groups(self):
        """Places of the parameters in each group: the embedding, each layer; the last norm goes with the last layer."""
        layers = {}
        for place, name in enumerate(self.names):
            layer = int(name.split(".")[2]) if ".layers." in name else -1 if "embed" in name else 1 << 30
            layers.setdefault(layer, []).append(place)
        layers[max(layer for layer in layers if layer < 1 << 30)] += layers.pop(1 << 30, [])
        return [places for _, places in sorted(layers.items())]

    def window(self, at):
        return self.tokens[at:at + LENGTH]

    def loss(self, windows):
        logits = self.model(windows).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    def gradients(self, starts):
        """Of the loss of each window, times the directions' scale: for each group (windows, weights)."""
        rows = []
        for at in starts:
            grads = torch.autograd.grad(self.loss(self.window(at)[None]), self.parameters)
            rows.append([g.flatten() * s for g, s in zip(grads, self.scales)])
        return [torch.stack([torch.cat([row[place] for place in places]) for row in rows]) for places in self.groups()]

    def train(self, steps):
        optimizer = torch.optim.AdamW(self.parameters, lr=1e-3)
        for _ in range(steps):
            starts = torch.randint(0, len(self.tokens) - LENGTH, (8,)).tolist()
            optimizer.zero_grad()
            loss = self.loss(torch.stack([self.window(at) for at in starts]))
            loss.backward()
            optimizer.step()
        return loss.item()


def signs(count, elements):
    return torch.randint(0, 2, (count, elements), dtype=torch.int8).float().mul_(2).sub_(1)


def to_bytes(slopes, rms):
    """Bytes in units of one standard deviation, as a node rounds them. slopes: (batches, K)."""
    gain = min(1.0, (FULL / slopes.shape[1]) ** (2 / 3))
    return torch.floor(LEVELS * gain * slopes / rms + torch.rand_like(slopes)).clamp(-127, 127) / LEVELS


def scores(data, candidates, common):
    """How well each candidate's slopes fit the bytes once what all texts share is taken out. candidates: (K, N)."""
    centred = candidates - common[:, None]
    left = data - common * (data @ common) / (common @ common)
    return left @ centred / centred.norm(dim=0)


def auc_and_found(members, others):
    """AUC of members above others, and the share of members above all but a thousandth of the others."""
    members, others = torch.cat(members), torch.cat(others).sort().values
    auc = torch.searchsorted(others, members).double().mean().item() / len(others)
    limit = others[min(int(0.999 * len(others)), len(others) - 1)]
    return f"{auc:.3f} ({(members > limit).double().mean().item():.2f})"


def slopes_along(gradients, count):
    """Slopes of every window along `count` directions, (count, windows), and the first round's group and signs."""
    first, slopes = None, []
    for _ in range(count // ROUND):
        group = torch.randint(len(gradients), ()).item()
        z = signs(ROUND, gradients[group].shape[1])
        slopes.append(z @ gradients[group].T)
        first = first or (group, z)
    return torch.cat(slopes), first


def forward_slopes(subject, starts, group, z):
    """One round of fzoo: one-sided differences of the batch's loss, less their mean."""
    places = subject.groups()[group]
    windows = torch.stack([subject.window(at) for at in starts])
    losses = []
    with torch.no_grad():
        base = subject.loss(windows).item()
        for row in z:
            parts = row.split([subject.parameters[place].numel() for place in places])
            for sign in (EPSILON, -EPSILON):
                for place, part in zip(places, parts):
                    p = subject.parameters[place]
                    p.add_(part.view_as(p), alpha=sign * subject.scales[place])
                if sign > 0:
                    losses.append((subject.loss(windows).item() - base) / EPSILON)
    slopes = torch.tensor(losses)
    return slopes - slopes.mean()


def with_text(subject, trials):
    """Prints a row of the first table for each K."""
    starts = (torch.randperm((len(subject.tokens) - LENGTH) // LENGTH - 1)[:2 * POOL] * LENGTH + LENGTH // 2).tolist()
    halves = [at - LENGTH // 2 for at in starts[:SIZES[-1] * BATCHES]]
    gradients = subject.gradients(starts + halves)
    batches = {size: [list(range(n * size, (n + 1) * size)) for n in range(BATCHES)] for size in SIZES}
    columns = [*((size, "whole") for size in SIZES), (1, "half")]
    found = {}

    def note(key, score, batch, kind="whole"):
        members = [2 * POOL + row for row in batch] if kind == "half" else batch
        others = torch.tensor([row not in batch for row in range(POOL)])
        known = found.setdefault(key, ([], []))
        known[0].append(score[members]), known[1].append(score[:POOL][others])

    for _ in range(trials):
        slopes, first_round = slopes_along(gradients, COUNTS[-1])
        common = slopes[:, POOL:2 * POOL].mean(1)
        for size, kind in columns:
            of_batches = torch.stack([slopes[:, batch].mean(1) for batch in batches[size]])
            for count in COUNTS:
                rms = of_batches[:, :count].pow(2).mean().sqrt()
                for batch, data in zip(batches[size], to_bytes(of_batches[:, :count], rms)):
                    note((count, size, kind), scores(data, slopes[:count], common[:count]), batch, kind)
            if kind == "half":
                continue
            by_forwards = torch.stack([forward_slopes(subject, [starts[row] for row in batch], *first_round)
                                       for batch in batches[size]])
            level = lambda values: values - values.mean(0)
            for batch, data in zip(batches[size], to_bytes(by_forwards, by_forwards.pow(2).mean().sqrt())):
                note(("fzoo", size, kind), scores(data, level(slopes[:ROUND]), level(common[:ROUND])), batch)
            again(slopes, common, size, note)
    for key in ["fzoo", *COUNTS, f"16, {APPEARANCES} times"]:
        cells = [auc_and_found(*found[key, *column]) if (key, *column) in found else "" for column in columns]
        print("| " + " | ".join([str(key), *cells]) + " |", flush=True)


def again(slopes, common, size, note):
    """A window that comes again and again, each time in a batch with other windows, 16 bytes each time."""
    for row in range(BATCHES):
        others = torch.randint(BATCHES, POOL, (APPEARANCES, size - 1)).tolist()
        rounds = zip(slopes.split(ROUND), others)
        data = torch.cat([slopes_of[:, [row, *other]].mean(1) for slopes_of, other in rounds])[None]
        score = scores(to_bytes(data, data.pow(2).mean().sqrt())[0], slopes[:data.shape[1]], common[:data.shape[1]])
        note((f"16, {APPEARANCES} times", size, "whole"), score, [row])


def least_squares(rows, data, steps):
    """Least x with `rows` x = `data`, by conjugate gradients (CGLS). rows: int8 (K, weights)."""
    parts = rows.split(1024)
    times = lambda x: torch.cat([part.float() @ x for part in parts])
    transposed = lambda y: sum(part.float().T @ piece for part, piece in zip(parts, y.split(1024)))
    x, left, slope = torch.zeros(rows.shape[1]), data, transposed(data)
    direction, size = slope, slope @ slope
    for _ in range(steps):
        image = times(direction)
        step = size / (image @ image)
        x, left = x + step * direction, left - step * image
        slope = transposed(left)
        before, size = size, slope @ slope
        direction = slope + size / before * direction
    return x


def without_text(subject, counts, sizes, steps=12):
    """Prints a row of the second table for each K. Of K directions those of the embedding's rounds say something."""
    vocabulary = subject.model.config.vocab_size
    frequency = torch.bincount(subject.tokens, minlength=vocabulary).double()
    starts = torch.randint(0, len(subject.tokens) - LENGTH, (sizes[-1],)).tolist()
    gradients = subject.gradients(starts)
    share = 1 / len(gradients)
    rows = (signs(int(counts[-1] * share), gradients[0].shape[1])).to(torch.int8)
    table = {}
    for size in sizes:
        gradient = gradients[0][:size].mean(0)
        present = torch.bincount(torch.cat([subject.window(at) for at in starts[:size]]), minlength=vocabulary) > 0
        auc = lambda values: auc_and_found([values[present]], [values[~present]]).split()[0]
        norms = lambda x: x.view(vocabulary, -1).norm(dim=1)
        table["frequencies", size], table["exact gradient", size] = auc(frequency), auc(norms(gradient).double())
        for count in counts:
            part = rows[:int(count * share)]
            slopes = torch.cat([piece.float() @ gradient for piece in part.split(1024)])[None]
            data = to_bytes(slopes, slopes.pow(2).mean().sqrt())[0]
            table[count, size] = auc(norms(least_squares(part, data, steps)).double())
    for key in [*counts, "exact gradient", "frequencies"]:
        print(f"| {key} | " + " | ".join(table[key, size] for size in sizes) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model"), parser.add_argument("text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=4, help="draws of the directions")
    parser.add_argument("--steps", type=int, default=100, help="of AdamW, for the later point of a run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads), torch.manual_seed(0)
    subject = Subject(args)
    for steps in (0, args.steps):
        loss = subject.train(steps) if steps else None
        print(f"\nafter {steps} steps" + (f", loss {loss:.2f} nats per token" if steps else ""))
        print("\n| bytes | " + " | ".join(f"batch of {size}" for size in SIZES) + " | half of a batch of 1 |")
        with_text(subject, args.trials)
        print("\n| bytes | " + " | ".join(f"batch of {size}" for size in (1, 8)) + " |")
        without_text(subject, [1024, 4096, 16384, 65536, 262144], (1, 8))


if __name__ == "__main__":
    main()

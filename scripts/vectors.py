#!/usr/bin/env python3
"""Recomputes tests/vectors/protocol_2.json and membership_2.json from the documented formulas alone.

Standard library only, BLAKE3 included; shares no code with the crates. Takes a few seconds.
"""

import json
import pathlib
import struct
import sys

M32, M64 = (1 << 32) - 1, (1 << 64) - 1

# BLAKE3, from its paper (section 2): 16 words of state, seven rounds, a binary tree of 1,024-byte chunks.
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
COLUMNS_AND_DIAGONALS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = 1, 2, 4, 8, 16, 32, 64


def compress(chaining, block, counter, length, flags):
    v = [*chaining, *IV[:4], counter & M32, counter >> 32, length, flags]
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(COLUMNS_AND_DIAGONALS):
            for word, right_d, right_b in ((m[2 * i], 16, 12), (m[2 * i + 1], 8, 7)):
                v[a] = (v[a] + v[b] + word) & M32
                x = v[d] ^ v[a]
                v[d] = (x >> right_d | x << (32 - right_d)) & M32
                v[c] = (v[c] + v[d]) & M32
                x = v[b] ^ v[c]
                v[b] = (x >> right_b | x << (32 - right_b)) & M32
        m = [m[i] for i in PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)] + [v[i + 8] ^ chaining[i] for i in range(8)]


def node(data, key, flags, first_chunk=0):
    """The last compression of a (sub)tree, not yet made: its arguments."""
    if len(data) <= 1024:
        chaining, blocks = key, [data[i:i + 64] for i in range(0, len(data), 64)] or [b""]
        for i, block in enumerate(blocks):
            marks = flags | (CHUNK_START if i == 0 else 0) | (CHUNK_END if i == len(blocks) - 1 else 0)
            if i == len(blocks) - 1:
                return chaining, block, first_chunk, len(block), marks
            chaining = compress(chaining, block, first_chunk, 64, marks)[:8]
    left = 1024 << ((len(data) - 1) // 1024).bit_length() - 1
    halves = (node(data[:left], key, flags, first_chunk), node(data[left:], key, flags, first_chunk + left // 1024))
    block = b"".join(struct.pack("<8I", *compress(*half)[:8]) for half in halves)
    return key, block, 0, 64, flags | PARENT


def blake3(data, key=IV, flags=0, length=32):
    assert length <= 64
    chaining, block, counter, size, marks = node(data, key, flags)
    return struct.pack("<16I", *compress(chaining, block, 0, size, marks | ROOT))[:length]


def keyed_hash(key, data, length):
    return blake3(data, struct.unpack("<8I", key), KEYED, length)


def derive_key(context, material):
    return blake3(material, struct.unpack("<8I", blake3(context.encode(), flags=CONTEXT)), MATERIAL)


# Seeds and groups (protocol/src/seed.rs, machine.rs, manifest/groups.rs).
def of_machine(vectors, number, incarnation=None):
    """run, key, incarnation, and the number of a sample or a round: what seeds and groups are derived from."""
    incarnation = int(vectors["incarnation"], 16) if incarnation is None else incarnation
    return bytes.fromhex(vectors["run"] + vectors["key"]) + struct.pack("<QQ", incarnation, number)


def entry_seed(vectors, sample):
    return derive_key("onebyte 2 entry seed", of_machine(vectors, sample))


def round_group(vectors, weights, round_number, incarnation=None):
    draw = derive_key("onebyte 2 round group", of_machine(vectors, round_number, incarnation))[:16]
    t = int.from_bytes(draw, "little") * sum(weights) >> 128
    return next(group for group in range(len(weights)) if sum(weights[:group + 1]) > t)


def tensor_key(seed, tensor):
    *words, rounding = struct.unpack("<4QI", keyed_hash(seed, struct.pack("<I", tensor), 36))
    return words, rounding


# The perturbation stream (protocol/src/perturbation.rs).
def split_mix(seed, index):
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & M64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & M64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & M64
    return z ^ z >> 31


def lane_states(words, block):
    return [[split_mix(word, (8 * block + lane) & M64) for word in words] for lane in range(8)]


def rotate(x, left):
    return (x << left | x >> (64 - left)) & M64


def xoshiro256_plus_plus(s):
    result = (rotate((s[0] + s[3]) & M64, 23) + s[0]) & M64
    t = s[1] << 17 & M64
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= t
    s[3] = rotate(s[3], 45)
    return result


def block_steps(words, block):
    lanes = lane_states(words, block)
    return [[xoshiro256_plus_plus(lane) for lane in lanes] for _ in range(32)]


def signs(words, elements):
    """+1 or -1 for every element of a tensor."""
    out = []
    for block in range(-(-elements // 16384)):
        for step in block_steps(words, block):
            out += [2 * (word >> bit & 1) - 1 for word in step for bit in range(64)]
    return out[:elements]


# First values of an adapter, quanta (protocol/src/manifest/adapter.rs).
def adapter(vectors, spec):
    seed = derive_key("onebyte 2 adapter", bytes.fromhex(vectors["adapters"]["nonce"]) + spec["name"].encode())
    words, _ = tensor_key(seed, 0)
    return [z * spec["initial"] for z in signs(words, elements_of(spec))]


def elements_of(spec):
    elements = 1
    for dimension in spec["shape"]:
        elements *= dimension
    return elements


def digest_of(quanta, spec):
    quantum = 2.0 ** (spec["range_log2"] - 24)
    return blake3(struct.pack(f"<{len(quanta)}f", *(n * quantum for n in quanta)))


# The codec (protocol/src/codec.rs) and the schedule (protocol/src/manifest/schedule.rs); >> rounds towards minus infinity.
def unit_at(unit, multiplier):
    return unit * multiplier >> 24


def decode(byte, unit, rounding):
    return 0 if byte in (0, -128) else (byte * unit + rounding) >> 32


def multiplier(knots, step):
    if step <= knots[0][0]:
        return knots[0][1]
    for (s0, m0), (s1, m1) in zip(knots, knots[1:]):
        if step < s1:
            return m0 + (m1 - m0) * (step - s0) // (s1 - s0)
    return knots[-1][1]


# Replay (protocol/src/replay.rs): integers modulo 2^25. An entry moves the tensors of its round's group.
def replay(vectors):
    weights, samples = vectors["groups"]["weights"], vectors["groups"]["round_samples"]

    def moves_group(sample, spec):
        return round_group(vectors["seeds"], weights, sample // samples) == spec["group"]

    digests = []
    for index, spec in enumerate(vectors["replay"]["tensors"]):
        n = [e * 2654435761 % (1 << 25) - (1 << 24) for e in range(elements_of(spec))]
        if "initial" in spec:
            n = adapter(vectors, spec)
        moves = [(sample, multiple * spec["epsilon"]) for sample, multiple in vectors["replay"]["probes"]]
        for sample, byte, step, removed in vectors["replay"]["entries"]:
            _, rounding = tensor_key(entry_seed(vectors["seeds"], sample), index)
            unit = unit_at(spec["unit"], multiplier(vectors["schedule"]["knots"], step))
            k = decode(byte, unit, rounding) << spec["shift"]
            moves.append((sample, k if removed else -k))
        for sample, quanta in moves:
            if moves_group(sample, spec):
                words, _ = tensor_key(entry_seed(vectors["seeds"], sample), index)
                n = [weight + quanta * z for weight, z in zip(n, signs(words, len(n)))]
        digests.append(digest_of([(weight + (1 << 24)) % (1 << 25) - (1 << 24) for weight in n], spec))
    return digests, blake3(b"".join(digests))


# The base (protocol/src/manifest/base.rs, appendix.rs): files, then the appendix, cut in chunks.
def varint(n):
    """bincode's: one byte up to 250, else a mark and 2, 4 or 8 bytes."""
    if n < 251:
        return bytes([n])
    mark, form = next(pair for bits, pair in ((16, (251, "<H")), (32, (252, "<I")), (64, (253, "<Q"))) if n >> bits == 0)
    return bytes([mark]) + struct.pack(form, n)


def appendix(tensors):
    out = varint(len(tensors))
    for tensor in tensors:
        name, frozen_as = tensor["name"].encode(), tensor["frozen_as"]
        out += varint(len(name)) + name + varint(len(tensor["shape"]))
        out += b"".join(map(varint, tensor["shape"]))
        out += varint(0) if frozen_as is None else varint(1) + varint(frozen_as)
        out += blake3(name)  # stands for the digest of the tensor's values
    return out


def base(vectors):
    """Digests of the files, the appendix, and the root of the chunks."""
    files = [bytes((31 * i + 7 * f) % 251 for i in range(file["bytes"])) for f, file in enumerate(vectors["files"])]
    last = appendix(vectors["tensors"])
    string = b"".join(files) + last
    chunks = [blake3(string[start:start + (1 << 18)]) for start in range(0, len(string), 1 << 18)]
    return [blake3(file) for file in files], last, blake3(b"".join(chunks))


# The manifest (protocol/src/manifest/mod.rs): its fields in their order; the run id is its BLAKE3.
def sequence(values, encode):
    return varint(len(values)) + b"".join(map(encode, values))


def text(string):
    return sequence(string.encode(), lambda byte: bytes([byte]))


def numbers(row, *names):
    return b"".join(varint(row[name]) for name in names)


def variant(value, names, encode=lambda name, content: b""):
    """One of several forms: its number, then what it holds."""
    name, content = (value, None) if isinstance(value, str) else next(iter(value.items()))
    return varint(names.index(name)) + encode(name, content)


def optional(value, encode):
    return b"\0" if value is None else b"\1" + encode(value)


ROLES = ("Config", "Tokenizer", "TokenizerConfig", "ChatTemplate", "GenerationConfig", "SpecialTokens", "WeightsIndex",
         "Weights", "Gguf", "TokenizerPart", "NamedTemplate")


def base_model(base):
    file = lambda f: variant(f["role"], ROLES) + text(f["name"]) + varint(f["bytes"]) + bytes(f["digest"])
    return (text(base["source"]) + sequence(base["files"], file) + varint(base["appendix_bytes"])
            + bytes(base["appendix_digest"]) + bytes(base["chunks_root"]))


def origin(name, content):
    if name == "Base":
        return bytes(content["digest"])
    return variant(content["half"], ("A", "B")) + numbers(content, "rank", "scaling", "direction_scale", "initial")


def table_row(spec):
    return (text(spec["name"]) + sequence(spec["shape"], varint) + varint(spec["group"]) + bytes([spec["range_log2"]])
            + numbers(spec, "epsilon", "unit") + bytes([spec["shift"]]) + variant(spec["origin"], ("Base", "Adapter"), origin))


def objective(name, content):
    return {"NextToken": lambda: b"", "Choices": lambda: bytes([content["normalize"]]), "Other": lambda: text(content)}[name]()


def manifest(m):
    real = m["hyperparameters"]
    member = lambda group: numbers(group, "weight", "epsilon")
    knot = lambda k: numbers(k, "step", "multiplier")
    held_out = lambda h: varint(h["bytes"]) + bytes(h["digest"]) + bytes(h["chunks_root"])
    return (varint(m["protocol_version"]) + bytes(m["nonce"]) + base_model(m["base"]) + sequence(m["tensors"], table_row)
            + sequence(m["groups"]["members"], member) + varint(m["groups"]["round_samples"])
            + variant(m["objective"], ("NextToken", "Choices", "Other"), objective)
            + struct.pack("<dd", real["learning_rate"], real["epsilon"]) + varint(real["planned_gradients"])
            + variant(real["direction_scale"], ("rms", "uniform")) + sequence(m["schedule"]["knots"], knot)
            + bytes([m["levels"]]) + numbers(m, "ledger_samples_max", "replay_budget")
            + variant(m["membership"], ("Open", "Keys", "ByAuthority"), lambda _, keys: sequence(keys, bytes) if keys else b"")
            + optional(m["authority"], bytes) + optional(m["held_out"], held_out) + optional(m["private"], bytes))


def recompute(vectors):
    """Yields (name, published, recomputed)."""
    seeds = vectors["seeds"]
    machine = of_machine(seeds, 0)[32:72]
    yield "handle", seeds["handle"], derive_key("onebyte 2 handle", machine)[:16].hex()
    for row in seeds["seeds"]:
        yield "seed", row["seed"], entry_seed(seeds, row["sample"]).hex()
    groups = vectors["groups"]
    for name, incarnation in (("groups", None), ("restarted_at_7", None), ("of_incarnation", groups["incarnation"])):
        for sample, group in groups[name]:
            drawn = round_group(seeds, groups["weights"], sample // groups["round_samples"], incarnation)
            yield f"group of sample {sample}, {name}", group, drawn
    for number, group in groups["of_1024_of_weight_1048576"]:
        yield f"one of 1,024 groups, round {number}", group, round_group(seeds, [1 << 20] * 1024, number)
    for row in vectors["tensor_keys"]:
        words, rounding = tensor_key(entry_seed(seeds, row["sample"]), row["tensor"])
        yield "tensor key", (row["words"], row["rounding"]), ([f"{word:016x}" for word in words], rounding)
    words, _ = tensor_key(entry_seed(seeds, 0), 0)
    for row in vectors["lane_states"]:
        lanes = lane_states(words, int(row["block"], 16))
        yield "lane states", row["lanes"], [[f"{word:016x}" for word in lane] for lane in lanes]
    for row in vectors["signs"]["steps"]:
        yield "sign words", row["words"], [f"{word:016x}" for word in block_steps(words, row["block"])[row["step"]]]
    z = signs(words, 16384 + 700)
    for row in vectors["signs"]["elements_of_17084"]:
        yield "sign", row["sign"], z[row["element"]]
    for byte, unit, rounding, k in vectors["decode"]:
        yield "decode", k, decode(byte, unit, rounding)
    for unit, at, result in vectors["unit_at"]:
        yield "unit_at", result, unit_at(unit, at)
    for step, result in vectors["schedule"]["multipliers"]:
        yield "multiplier", result, multiplier(vectors["schedule"]["knots"], step)
    for row in vectors["adapters"]["values"]:
        spec = next(spec for spec in vectors["replay"]["tensors"] if spec["name"] == row["name"])
        quanta = adapter(vectors, spec)
        yield f"first values of {row['name']}", row["first_quanta"], quanta[:8]
        yield f"digest of the first values of {row['name']}", row["digest"], digest_of(quanta, spec).hex()
    for (sample, *_), group in zip(vectors["replay"]["entries"], vectors["replay"]["entries_groups"], strict=True):
        drawn = round_group(seeds, groups["weights"], sample // groups["round_samples"])
        yield f"group of the entry of sample {sample}", group, drawn
    files, last, root = base(vectors["base"])
    for file, recomputed in zip(vectors["base"]["files"], files):
        yield f"digest of {file['name']}", file["digest"], recomputed.hex()
    yield "bytes of the appendix", vectors["base"]["appendix_bytes"], len(last)
    yield "digest of the appendix", vectors["base"]["appendix_digest"], blake3(last).hex()
    yield "root of the chunks", vectors["base"]["chunks_root"], root.hex()
    encoded = manifest(vectors["manifest"]["fields"])
    yield "manifest", vectors["manifest"]["bytes"], encoded.hex()
    yield "run id", vectors["manifest"]["run"], blake3(encoded).hex()
    digests, digest = replay(vectors)
    for spec, recomputed in zip(vectors["replay"]["tensors"], digests):
        yield f"digest of tensor {spec['name']}", spec["digest"], recomputed.hex()
    yield "digest", vectors["replay"]["digest"], digest.hex()


# Members and the version vector (protocol/src/member.rs, version_vector.rs).
def merged(sets):
    """The lower floor of each incarnation; one that is not named has 0, and is left out."""
    named = set.intersection(*({incarnation for incarnation, _ in floors} for floors in sets))
    return sorted([name, min(floor for floors in sets for other, floor in floors if other == name)] for name in named)


def floor_bytes(floors):
    return b"".join(struct.pack("<QQ", *pair) for pair in floors)


def bucket_digest(row):
    members = b"".join(bytes.fromhex(key) + bytes([kind]) + bytes.fromhex(floors) for key, kind, floors in row["members"])
    ledgers = b"".join(bytes.fromhex(key) + struct.pack("<QBQ", incarnation, kind, height) + bytes.fromhex(head)
                       + struct.pack("<Q", floor) for key, incarnation, kind, height, head, floor in row["ledgers"])
    return derive_key("onebyte 2 version vector", struct.pack("<I", len(row["members"])) + members + ledgers)


def recompute_membership(vectors):
    """Yields (name, published, recomputed)."""
    run_and_key = bytes.fromhex(vectors["run"] + vectors["key"])
    yield "admission", vectors["admission"], (b"onebyte 2 admission" + run_and_key).hex()
    for row in vectors["withdrawals"]:
        for floors, message in zip(row["floors"], row["messages"]):
            body = b"onebyte 2 withdrawal" + run_and_key + struct.pack("<I", len(floors)) + floor_bytes(floors)
            yield "withdrawal", message, body.hex()
        yield "merged floors", row["merged"], merged(row["floors"])
        yield "digest of floors", row["digest"], derive_key("onebyte 2 floors", floor_bytes(row["merged"])).hex()
    digests = [bytes(32)] * 256
    for row in vectors["version_vector"]["buckets"]:
        digests[row["bucket"]] = bucket_digest(row)
        yield "bucket", row["digest"], digests[row["bucket"]].hex()
    yield "root", vectors["version_vector"]["root"], blake3(b"".join(digests)).hex()


def main():
    directory = pathlib.Path(__file__).parent.parent / "tests" / "vectors"
    read = lambda name: json.loads((directory / name).read_text())
    rows = [*recompute(read("protocol_2.json")), *recompute_membership(read("membership_2.json"))]
    checked = 0
    for name, published, recomputed in rows:
        if published != recomputed:
            sys.exit(f"{name}: published {published}, recomputed {recomputed}")
        checked += 1
    print(f"{checked} vectors agree with the formulas")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Curves of a run for TensorBoard, Weights & Biases or pandas, from `metrics.jsonl` in a node's state directory.

    scripts/watch_run.py onebyte-state --tensorboard runs/one   # then: tensorboard --logdir runs (needs tensorboardX)
    scripts/watch_run.py onebyte-state --wandb my-project       # needs wandb
    scripts/watch_run.py onebyte-state --csv run.csv            # needs pandas

Every ten seconds a node writes a line: `time_ms`, `gradients` (of all machines), `own`, `training_loss`,
`held_out_loss`, `held_out_bits_per_byte` or `held_out_accuracy` or `held_out_score`, rates and bytes; null if not known.
"""
import argparse
import json
import pathlib

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("state", type=pathlib.Path)
parser.add_argument("--tensorboard", metavar="DIR")
parser.add_argument("--wandb", metavar="PROJECT")
parser.add_argument("--csv", metavar="FILE")
args = parser.parse_args()

# A node may be writing the last line.
lines = (args.state / "metrics.jsonl").read_text().splitlines(keepends=True)
points = [json.loads(line) for line in lines if line.endswith("\n")]
curves = [{name: value for name, value in point.items() if isinstance(value, (int, float))} for point in points]

if args.tensorboard:
    from tensorboardX import SummaryWriter
    with SummaryWriter(args.tensorboard) as writer:
        for point in curves:
            for name, value in point.items():
                writer.add_scalar(name, value, point["gradients"], walltime=point["time_ms"] / 1000)
if args.wandb:
    import wandb
    run = wandb.init(project=args.wandb)
    for point in curves:
        run.log(point, step=point["gradients"])
    run.finish()
if args.csv:
    import pandas
    pandas.DataFrame(points).to_csv(args.csv, index=False)
print(f"{len(points)} points, to {points[-1]['gradients'] if points else 0} gradients")

"""Plot how a run's controller brought the share of kept tokens to its goal, from the run's metrics.jsonl.

python benchmarks/controller.py runs/sst2_skim docs/controller.png
"""

import argparse
import json
import pathlib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=pathlib.Path, help="of a run in budget mode")
    parser.add_argument("output", type=pathlib.Path, help="PNG or SVG")
    args = parser.parse_args()

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in (args.workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [line for line in lines if "share" in line]
    steps = [line["step"] for line in trained]
    figure, (upper, lower) = pyplot.subplots(2, figsize=(6, 5), sharex=True, layout="constrained", height_ratios=[2, 1])
    upper.plot(steps, [line["share"] for line in trained], color="0.6", linewidth=0.8, label="measured, means of the steps between records")
    upper.plot(steps, [line["target"] for line in trained], "r", label="goal")
    upper.set(ylabel="share of tokens kept, mean of layers", ylim=(0, 1.05), title=str(args.workdir))
    upper.legend()
    lower.plot(steps, [line["coefficient"] for line in trained], linewidth=0.8)
    lower.set(xlabel="step", ylabel="coefficient")
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main()

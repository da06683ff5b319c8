"""Draw the chart of docs/performance.md from the committed records: texts a second by batch size, a panel a workload.

    python benchmarks/charts.py

writes docs/performance.svg.
"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from tables import RECORDS, ROOT

# Colours that the colour-blind can tell apart (Okabe and Ito): dense ones cold, skimming ones warm.
_STYLES = {
    "dense:torch:float32": ("#999999", ":"),
    "dense:onnxruntime:float32": ("#56B4E9", ":"),
    "dense:onnxruntime:int8": ("#0072B2", ":"),
    "dense:openvino:float32": ("#009E73", ":"),
    "dense:openvino:int8": ("#000000", ":"),
    "compacted:onnxruntime:float32": ("#E69F00", "-"),
    "compacted:onnxruntime:int8": ("#D55E00", "-"),
    "compacted:openvino:float32": ("#CC79A7", "-"),
}


def main() -> None:
    paths = sorted((RECORDS / "performance").glob("*.json"))
    figure, panels = plt.subplots(1, len(paths), figsize=(4 * len(paths) + 3, 4), squeeze=False, layout="constrained")
    for axes, path in zip(panels[0], paths, strict=True):
        records = sorted(json.loads(path.read_text(encoding="utf-8")), key=lambda record: record["batch_size"])
        sizes = [record["batch_size"] for record in records]
        for name, (colour, line) in _STYLES.items():
            if all(name in record["contenders"] for record in records):
                speeds = [record["contenders"][name]["examples_per_second"] for record in records]
                axes.plot(sizes, speeds, line, color=colour, marker="o", markersize=4, label=name)
        axes.set(title=f"{records[0]['workload']}, {records[0]['length']} tokens at most", xlabel="texts a batch", xscale="log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xticks([], minor=True)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("texts a second")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    plt.rcParams["svg.hashsalt"] = "transkimmer_jax"  # the same records give the same file
    figure.savefig(ROOT / "docs" / "performance.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()

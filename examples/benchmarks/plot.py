"""The rates of a run as a picture: `python plot.py results.json picture.svg`.

A script of its own, because it runs in an environment that has matplotlib.
"""

# matplotlib lies in an environment of its own, which the type checker does not see:
# pyright: basic, reportMissingImports=false

import json
import sys
from pathlib import Path

from matplotlib import pyplot as plt


def main(source: str, target: str) -> None:
    results = json.loads(Path(source).read_text())
    rates = {title: measures for title, measures in results["rates"].items() if measures}
    figure, axes = plt.subplots(1, len(rates), figsize=(7 * len(rates), 6), squeeze=False)
    for axis, (title, measures) in zip(axes[0], rates.items(), strict=True):
        systems = list(results["versions"])
        height = 0.8 / max(1, len(measures))
        for index, (name, values) in enumerate(measures.items()):
            places = [row - 0.4 + height * (index + 0.5) for row in range(len(systems))]
            widths = [values[system] or 0 for system in systems]
            axis.barh(places, widths, height, label=name)
        axis.set_yticks(range(len(systems)), systems)
        axis.set_xscale("log")
        axis.set_xlabel("jobs per second, logarithmic")
        axis.set_title(title)
        axis.invert_yaxis()  # as in the tables, the first one on top
        axis.grid(axis="x", alpha=0.3)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)
    figure.suptitle(
        f"{results['server']}, {results['machine']}, medians of {results['rounds']} round(s)"
    )
    figure.tight_layout()
    figure.savefig(target)


main(*sys.argv[1:])

"""Differences in accuracy between arms of a study, paired by seed.

    python docs/results/cifar10/paired.py docs/results/cifar10/losses "mixkd:loss=dist - ce"

Prints the mean, its 95 % interval (Student's t; none of one seed) and the number of seeds, in
points, from what `results.json` of the study has.
"""

import argparse
import json
import pathlib

from mixkd_jax.report.intervals import interval


def main() -> None:
    """Prints a line for each pair."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=pathlib.Path, help="a folder with results.json")
    parser.add_argument("pairs", nargs="+", help='two arms, such as "mixkd - kd"')
    options = parser.parse_args()
    arms = json.loads((options.study / "results.json").read_text())["arms"]
    for pair in options.pairs:
        unknown = [arm for arm in map(str.strip, pair.split(" - ")) if arm not in arms]
        if unknown or pair.count(" - ") != 1:
            parser.error(f"expected two of {', '.join(arms)}, as in 'mixkd - kd', got {pair!r}")
        ours, theirs = (arms[arm.strip()]["accuracy"]["values"] for arm in pair.split(" - "))
        found = interval([100 * (a - b) for a, b in zip(ours, theirs, strict=True)])
        between = "" if found["low"] is None else f" [{found['low']:+.1f}, {found['high']:+.1f}]"
        print(f"{pair}: {found['mean']:+.1f}{between}, {len(ours)} seeds")


if __name__ == "__main__":
    main()

"""The forecast of `softdiamond compare --plan` against runs: one of each group is done, in this process.

``python benchmarks/forecast.py CARD [FOLDER]``. Times are processor seconds, so that other programs count little; of each group
the forecast's and the run's are printed, and at the end the sums over all runs of the card.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from softdiamond.experiments import card as cards
from softdiamond.experiments import plan
from softdiamond.experiments.data import load
from softdiamond.experiments.forecast import forecast
from softdiamond.experiments.runs import perform


def main() -> None:
    """Forecast, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("card")
    parser.add_argument("folder", nargs="?", type=Path, help="of the image files")
    given = parser.parse_args()
    card = cards.find(given.card)
    splits = load(card.data, given.folder)
    found = forecast(card, {}, splits, workers=1, clock=time.process_time)
    runs = {run.group: run for run in plan.tuning_runs(card, {})}  # the last of each, with the strongest setting
    division = card.removal.divisions[0]
    expected = true = 0.0
    for row in found.rows:
        run = runs[row.group._replace(phase="tune")]
        if row.group.phase == "final":
            run = replace(run, phase="final", seed=card.final.seeds[0], division=run.division or division)
        began = time.process_time()
        perform(run, card, splits)
        spent = time.process_time() - began
        print(f"{run}: forecast {row.seconds:.2f} s, true {spent:.2f} s", flush=True)
        expected, true = expected + row.certain * row.seconds, true + row.certain * spent
    print(f"all: forecast {expected:.0f} s, true {true:.0f} s, ratio {expected / true:.2f}")


if __name__ == "__main__":
    main()

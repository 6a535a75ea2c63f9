"""Where the spread of a score comes from, and which seeds the next hour of computing is best spent on. Torch-free."""

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sarsynth.evidence.chance import LEVEL, Scores, Variance
from sarsynth.evidence.design import FACTORS, GENERATOR, SAMPLE
from sarsynth.evidence.results import MEANS, figure_names

HOUR = 3600.0  # seconds
MOST = 10  # times the seeds that there are: what lies farther is not to be told from so few
CAUSES = (*FACTORS, "test_images", "together")


def causes(scores: Scores) -> dict[str, dict[str, float | None]]:
    """Split the variance of each F1 score and mean of a method by what it is due to, see `CAUSES`; by its name.

    None where one seed tells nothing, or there is none.
    """
    variance = Variance.of(scores)
    columns: dict[str, np.ndarray | None] = {factor: variance.due_to(factor) for factor in FACTORS}
    columns |= {"test_images": np.maximum(0.0, variance.of_images), "together": variance.together}
    return {
        name or figure: {cause: None if parts is None else float(parts[place]) for cause, parts in columns.items()}
        for place, (figure, name) in enumerate(figure_names(scores.classes))
        if (figure == "f1" or figure in MEANS) and not np.isnan(scores.mean[place])
    }


def next_hour(scores: Scores, base: Scores, seconds: Mapping[str, float | None]) -> dict[str, Any]:
    """Say what an hour more of computing makes of the interval of the study's gain, spent on each kind of seed.

    Args:
        scores: Of the method.
        base: Of the baseline, whose part costs nothing here.
        seconds: What one more seed of each factor takes, None if the cards do not tell; one is then had for an hour.
            More than `MOST` times as many are not looked at.

    Returns:
        `figure`, `half_width` of its interval as it is, and `options`, the best first: `spend_on`, seeds `now` and
        `then`, `seconds` of one more, `half_width` then. A factor of one seed is no option: how much of the spread is
        due to it is not known.
    """
    names = figure_names(scores.classes)
    minor = names.index(("minor_f1", None))
    place = names.index(("macro_f1", None)) if np.isnan(scores.mean[minor]) else minor
    variance = Variance.of(scores, base)

    def half_width(of: Variance) -> float:
        return float((of.quantile(1 - LEVEL / 2) * np.sqrt(of.total))[place])

    options: list[dict[str, Any]] = []
    for factor in FACTORS:
        now = scores.design.counts[factor]
        if now > 1:
            each = seconds.get(factor)
            then = min(MOST * now, now + max(1, int(HOUR / each))) if each else now + 1
            options.append(
                {
                    "spend_on": factor,
                    "now": now,
                    "then": then,
                    "seconds": each,
                    "half_width": half_width(variance.scaled(factor, then)),
                }
            )
    options.sort(key=lambda option: option["half_width"])
    return {"figure": names[place][0], "half_width": half_width(variance), "options": options}


class Costs:
    """What seeds cost, by the cards of a store.

    Args:
        store: Its root.
    """

    def __init__(self, store: Path) -> None:
        self.store = store

    @cached_property
    def _cards(self) -> dict[str, dict[str, Any]]:
        found = {}
        for file in self.store.glob("*/[!.]*/card.json"):
            with suppress(OSError, ValueError, RecursionError):
                card = json.loads(file.read_text(encoding="utf-8"))
                if isinstance(card, dict) and card.keys() >= {"fingerprint", "kind", "inputs", "seconds"}:
                    found[card["fingerprint"]] = card
        return found

    def of(self, result: Mapping[str, Any], classifiers: int) -> dict[str, float | None]:
        """Seconds that one more seed of each factor takes: what it has made anew, with all seeds of the others."""
        evaluations = [one["fingerprint"] for one in result.get("evaluations", ())]
        seconds = [self._seconds(one) for one in evaluations if one in self._cards]
        if not seconds:
            return dict.fromkeys(FACTORS)
        each = float(np.mean(seconds))
        lineage = self._lineage(evaluations[0])
        made = {
            GENERATOR: sum(card["seconds"] for card in lineage if card["kind"] in ("adapter", "partition", "base")),
            SAMPLE: sum(card["seconds"] for card in lineage if card["kind"] == "synthetic"),
        }
        generators, samples = (max(1, len(result.get(key, ()))) for key in ("generator_seeds", "sample_seeds"))
        per_cell = classifiers / generators / samples
        of_set = made[SAMPLE] + per_cell * each
        return {
            GENERATOR: made[GENERATOR] + samples * of_set,
            SAMPLE: generators * of_set,
            FACTORS[-1]: generators * samples * each,
        }

    def _seconds(self, evaluation: str) -> float:
        """What an evaluation took, with the training of its classifiers where they are another's."""
        card = self._cards[evaluation]
        trained = card["inputs"].get("classifiers")
        return card["seconds"] + (self._seconds(trained) if trained in self._cards else 0.0)

    def _lineage(self, fingerprint: str) -> list[dict[str, Any]]:
        """The cards of an artifact and of all that it was made from."""
        found: dict[str, dict[str, Any]] = {}
        waiting = [fingerprint]
        while waiting:
            one = waiting.pop()
            if one in self._cards and one not in found:
                found[one] = self._cards[one]
                waiting += self._cards[one]["inputs"].values()
        return list(found.values())

"""The jobs of a sweep against their baseline: significance.json. Torch-free.

`significance.json` holds, all figures in [0, 1] and gains in [-1, 1]:

    version: 4
    of: {<job>: what its comparison rests on: method, overrides, classes, minor, leaks, baseline, replicates, and of
        each classifier its seeds and the fingerprint of its predictions}
    level, power: 0.05, 0.8
    rows: a row a job that has scores
        job: its folder, in the sweep's
        method, overrides: as in results.csv
        seeds: how many {generator, sample, classifier} seeds, 0 where the method has none
        images: how many test images
        baseline: the job that it is compared with; null if none is
        leaks: what is wrong with how its checkpoints are chosen; null if nothing is
        note: why it is compared with none, or what else to know; null if nothing
        scores: {<class>, minor_f1, macro_f1, accuracy: {value, low, high}}; null if its predictions cannot be read;
            F1 of a class by its name, no minor_f1 without a minor class; balanced_accuracy, and pr_auc and ece where
            shares are known; pr_auc_per_class: {<class>: …} likewise
        variance: of each of these F1 scores and means, by name, what other seeds and test images would add to its
            variance: {generator, sample, classifier, test_images, together}, seeds and images alone and together; null
            where one seed tells nothing, or the method has none
        gains: null without a baseline, else {
            per_class: {<class>: gain in F1}, minor_f1 (or null), macro_f1, accuracy: gain,
            balanced_accuracy, pr_auc_per_class, pr_auc, ece: gain,
            mcnemar: {p, only_method: [images, a pair of classifiers each], only_baseline: […]}}
        where a gain is {delta, low, high, p, p_holm, significant, detectable, seeds, images, generator_seeds,
        sample_seeds}: see `sarsynth.evidence.significance.Gain`
        next_hour: null without a gain, else {figure, half_width, options: [{spend_on, now, then, seconds,
            half_width}]}: what an hour more of computing on each kind of seed would make of half the width of its
            interval
        worth: null unless data.minor_images parts the jobs and the baseline needs no generator, else {images, reaches,
            low, high, first, last}: see `sarsynth.evidence.worth.Worth`
    open: what would settle what is not significant, a line of text for each such row
    also: rows and open likewise, of the second test set (evaluate.also), for the jobs that have one: by the same code
        from the predictions of the same classifiers; its name is `also.name` in their result.json. Left out where no
        job has one
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from scipy.special import softmax

from sarsynth.errors import UserError
from sarsynth.evidence.chance import LEVEL, POWER, Scores
from sarsynth.evidence.design import CLASSIFIER, Design
from sarsynth.evidence.kept_scores import kept_or_scored
from sarsynth.evidence.predictions import Predictions
from sarsynth.evidence.results import AREA
from sarsynth.evidence.significance import Gain, compared, estimates, mcnemar, one_generator
from sarsynth.evidence.spending import Costs, causes, next_hour
from sarsynth.evidence.worth import worth
from sarsynth.files import write_json

SIGNIFICANCE = "significance.json"
VERSION = 4
ONE_SEED = "one seed each: intervals know of the images alone, and nothing is called significant of less than two seeds"
ONE_GENERATOR = (
    "one set of adapters: intervals do not know how far others would part, and speak of this one; "
    "generator_seeds=[0,1,2] tells"
)
GENERATORS = (
    "one set of adapters each: how far others would part is not known, and nothing is called significant of one "
    "generator against another with less than two generator seeds; say generator_seeds=[0,1,2]"
)
OF_SEED = ("generator", "sample", "classifier")  # what an evaluation of a result is of
SEED = 0  # of the bootstrap: the same results always have the same intervals


@dataclass(frozen=True)
class ScoredJob:
    """A job with scores."""

    job: str  # name of its folder
    overrides: str  # what sets it apart besides its method
    result: Mapping[str, Any]  # the content of its result.json

    @property
    def method(self) -> str:
        """Its method."""
        return self.result["method"]

    @property
    def name(self) -> str:
        """Its name in a line of text."""
        return f"{self.method} {self.overrides}".strip()

    @property
    def point(self) -> tuple[int | None, str]:
        """Where it stands on a learning curve: real images of each minor class, if it says so, and what else it is."""
        count, others = point_of("data.minor_images", self.overrides)
        return None if count is None else int(count), others

    @property
    def design(self) -> Design:
        """The seeds of its classifiers; a result of before there were several kinds has those of classifiers alone."""
        result = self.result
        kinds = (result.get(key, ()) for key in ("generator_seeds", "sample_seeds", "seeds"))
        return Design(*map(tuple, kinds))

    @property
    def predictions(self) -> dict[str, str]:
        """Fingerprints of its predictions, by their seeds, in the order of the design."""
        known = self.result.get("evaluations")
        if known is None:
            return {str(seed): self.result["inputs"][f"seed_{seed}"] for seed in self.result["seeds"]}
        return {" ".join(str(one[key]) for key in OF_SEED if one[key] is not None): one["fingerprint"] for one in known}

    @property
    def elsewhere(self) -> "ScoredJob | None":
        """The same job on its second test set; None if it has none."""
        found = of_second_set(self.result)
        return replace(self, result=found) if found else None

    @property
    def origin(self) -> dict[str, Any]:
        """Everything that its comparison rests on, beside the other jobs."""
        result, protocol = self.result, self.result["protocol"]
        return {
            "method": self.method,
            "overrides": self.overrides,
            **{key: list(result[key]) for key in ("classes", "minor")},
            **{key: protocol[key] for key in ("leaks", "baseline", "replicates")},
            "predictions": self.predictions,
        } | ({"also": self.elsewhere.origin} if self.elsewhere else {})


def of_second_set(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """A result as it would be if its second test set were its first one; None if it has no second one."""
    if not (also := result.get("also")):
        return None
    own = {key: also[key] for key in ("classes", "minor", "without_images", "unknown", "classifier", "evaluations")}
    protocol = {**result["protocol"], "leaks": also["leaks"]}
    return {**result, **own, "data": also["name"], "protocol": protocol, "also": None}


class Absent(UserError):
    """Predictions that are missing or damaged in this store; another store may have them."""


# The predictions and scores of each job, or why there are none.
Known = dict[str, tuple[Predictions, Scores] | UserError]


def read_or_compare(jobs: Sequence[ScoredJob], store: Path, file: Path) -> dict[str, Any]:
    """Compare each job with that of its baseline which has the same overrides: the content of significance.json.

    The `file` is read if it is of these jobs, else written anew; it is not written where the store lacks predictions,
    and one that is of other jobs is removed.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a damaged one is as good as none
        stored = None
    about = {"version": VERSION, "of": {job.job: job.origin for job in jobs}}
    if isinstance(stored, dict) and all(stored.get(key) == value for key, value in about.items()):
        return stored
    file.unlink(missing_ok=True)
    found, complete = _all_compared(jobs, store)
    content = about | {"level": LEVEL, "power": POWER, **found}
    if elsewhere := [other for job in jobs if (other := job.elsewhere)]:
        content["also"], of_them = _all_compared(elsewhere, store)
        complete = complete and of_them
    if complete:
        write_json(file, content)
    return content


def _all_compared(jobs: Sequence[ScoredJob], store: Path) -> tuple[dict[str, Any], bool]:
    """The parts `rows` and `open`, and whether the store had all predictions."""
    known: Known = {}
    for job in jobs:
        try:
            predictions = read_predictions(job, store)
            minor, replicates = job.result["minor"], job.result["protocol"]["replicates"]
            known[job.job] = predictions, kept_or_scored(predictions, minor, store, replicates=replicates, seed=SEED)
        except UserError as error:
            known[job.job] = error
    costs = Costs(store)
    entries = [_compared(job, jobs, known, costs) for job in jobs]
    lines = [line for job, entry in zip(jobs, entries, strict=True) if (line := _open(job, entry))]
    return {"rows": entries, "open": lines}, not any(isinstance(one, Absent) for one in known.values())


def read_predictions(job: ScoredJob, store: Path) -> Predictions:
    """Read what the classifiers of a job took the test images of its classes for.

    Raises:
        Absent: The predictions are missing in the store, or damaged there.
        UserError: There are too few test images to tell chance.
    """
    return read_stored(list(job.predictions.values()), job.result["classes"], job.design, store)


def read_stored(fingerprints: Sequence[str], classes: Sequence[str], design: Design, store: Path) -> Predictions:
    """Read the predictions of some classifiers for the images of these classes in one test set.

    The classifiers may know other classes too. Raises what `read_predictions` raises.
    """
    predicted: list[np.ndarray] = []
    shares: list[np.ndarray] = []
    labels, images, known = np.empty(0, dtype=int), None, list(classes)
    for fingerprint in fingerprints:
        file = next((store / "evaluation").glob(f"[!.]*-{fingerprint}/logits.safetensors"), None)
        if file is None:
            raise Absent(f"{store}/evaluation has no predictions -{fingerprint}; run the sweep again to make them")
        try:
            with safe_open(file, "np") as tensors:
                predicted.append(tensors.get_tensor("predicted"))
                labels = tensors.get_tensor("labels")
                if "logits" in tensors.keys():  # noqa: SIM118, for it is no mapping
                    shares.append(softmax(tensors.get_tensor("logits"), axis=-1))
                about = {key: json.loads(text) for key, text in (tensors.metadata() or {}).items()}
                known = about.get("classes", known)
                images = [" ".join(pair) for pair in zip(about["images"], about["digests"], strict=True)]
        except (SafetensorError, KeyError, ValueError) as error:
            raise Absent(f"{file}: cannot be read ({error}); delete its folder and run the sweep again") from error
    complete = len(shares) == len(predicted)
    own = np.stack(shares) if complete else None
    return Predictions.of_some(np.stack(predicted), labels, known, classes, images, own, design)


def _compared(job: ScoredJob, jobs: Sequence[ScoredJob], known: Known, costs: Costs) -> dict[str, Any]:
    """Compare one job: an entry of `rows`."""
    protocol, found = job.result["protocol"], known[job.job]
    entry: dict[str, Any] = {"job": job.job, "method": job.method, "overrides": job.overrides}
    entry |= {
        "seeds": {kind: len(seeds) for kind, seeds in job.design.seeds.items()},
        "images": None if isinstance(found, UserError) else len(found[0].labels),
    }
    entry |= {"baseline": None, "note": None, "leaks": protocol["leaks"], "scores": None, "variance": None}
    entry |= {"gains": None, "next_hour": None, "worth": None}
    if isinstance(found, UserError):
        return entry | {"note": str(found)}
    entry |= _of_scores(found[1])
    name = protocol["baseline"]
    if name in (None, job.method):
        return entry | {"note": ONE_GENERATOR if len(job.design.generators) == 1 else None}
    entry |= {"worth": _worth(job, jobs, known)}
    base = next((other for other in jobs if (other.method, other.overrides) == (name, job.overrides)), None)
    if base is None:
        return entry | {"note": f"nothing to compare with: add {name} to the sweep's methods"}
    of_base = known[base.job]
    if isinstance(of_base, UserError):
        return entry | {"note": str(of_base)}
    try:
        found[0].paired(of_base[0])
    except UserError as error:
        return entry | {"note": f"{job.name} and {base.name} cannot be compared: {error}"}
    gains = compared(found[1], of_base[1], bool(job.result["minor"]), mcnemar(found[0], of_base[0]), seed=SEED)
    spending = next_hour(found[1], of_base[1], costs.of(job.result, len(job.predictions)))
    note = _note(found[1], of_base[1])
    return entry | {"baseline": base.job, "note": note, "gains": asdict(gains), "next_hour": spending}


def _worth(job: ScoredJob, jobs: Sequence[ScoredJob], known: Known) -> dict[str, Any] | None:
    """Read the worth of a job off the curve of its baseline; None without one, or of a baseline with a generator."""
    (images, others), found, curve = job.point, known[job.job], dict[int, Scores]()
    if images is None or isinstance(found, UserError):
        return None
    for base in jobs:
        count, of_base, scored = *base.point, known[base.job]
        same = (base.method, of_base) == (job.result["protocol"]["baseline"], others)
        if not same or count is None or base.design.samples or isinstance(scored, UserError):
            continue
        with suppress(UserError):  # of other test images: no point of this curve
            found[0].paired(scored[0])
            curve[count] = scored[1]
    read = worth(found[1], images, curve, seed=SEED)
    return asdict(read) if read else None


def _of_scores(scores: Scores) -> dict[str, Any]:
    """What an entry says of the scores of a job by themselves."""
    found = {name: asdict(one) for name, one in estimates(scores, seed=SEED).items()}
    areas = {name: one for (figure, name), one in found.items() if figure == AREA and name is not None}
    by_name = {name or figure: one for (figure, name), one in found.items() if figure == "f1" or name is None}
    by_name |= {"pr_auc_per_class": areas} if areas else {}
    return {"scores": by_name, "variance": causes(scores)}


def _note(scores: Scores, base: Scores) -> str | None:
    """Say what else is to be known of a comparison."""
    if min(scores.design.counts[CLASSIFIER], base.design.counts[CLASSIFIER]) == 1:
        return ONE_SEED
    if not one_generator(scores, base):
        return None
    return GENERATORS if scores.design.generators and base.design.generators else ONE_GENERATOR


def _open(job: ScoredJob, entry: Mapping[str, Any]) -> str | None:
    """Say what would settle the question of the study: the gain in the minor mean, or in the macro one without it."""
    if entry["gains"] is None:
        return None
    figure = "minor_f1" if entry["gains"]["minor_f1"] else "macro_f1"
    gain = Gain(**entry["gains"][figure])
    if gain.significant or gain.detectable is None:
        return None
    opening = f"{job.name}: {figure} {100 * gain.delta:+.1f} is open"
    if entry["note"] == ONE_SEED:
        return f"{opening}: one seed does not tell how far seeds part; two or more do"
    if entry["note"] == GENERATORS:
        return f"{opening}: one generator seed does not tell how far generators part; two or more do"
    ways = " or ".join(settling(asdict(gain), "times the test images"))
    settled = f"would be settled by {ways}" if ways else "would not be settled by seeds or images alone"
    return (
        f"{opening} and, were it the truth, {settled}; what {shown(entry['seeds'])} and {entry['images']:,} images "
        f"show is {100 * gain.detectable:.1f} or more{_spent(entry['next_hour'])}"
    )


def _spent(spending: Mapping[str, Any] | None) -> str:
    """Say what the next hour is best spent on."""
    if not spending or not spending["options"]:
        return ""
    best = spending["options"][0]
    return (
        f"; an hour more is best spent on {best['spend_on']} seeds ({best['now']} to {best['then']}: "
        f"±{100 * best['half_width']:.1f} for ±{100 * spending['half_width']:.1f})"
    )


def point_of(key: str, overrides: str) -> tuple[float | None, str]:
    """What overrides say of a key that has numbers, None if they do not, and what else they say."""
    said = re.search(rf"(?:^| ){re.escape(key)}=([\d.]+)(?= |$)", overrides)
    if said is None:
        return None, overrides
    return float(said[1]), f"{overrides[: said.start()]}{overrides[said.end() :]}".strip()


def shown(seeds: Mapping[str, int]) -> str:
    """Say how many seeds of each kind there are."""
    kinds = {kind: count for kind, count in seeds.items() if count}
    if set(kinds) == {CLASSIFIER} or all(count == 1 for kind, count in kinds.items() if kind != CLASSIFIER):
        return f"{kinds[CLASSIFIER]} seeds"
    return " x ".join(f"{count} {kind}" for kind, count in kinds.items()) + " seeds"


def settling(gain: Mapping[str, Any], images: str) -> list[str]:
    """Say how many seeds, and how many times the `images`, would settle an open gain; none if it is settled."""
    kinds = {"generator_seeds": "generator seeds", "sample_seeds": "sample seeds", "seeds": "seeds"}
    ways = [f"{gain[key]:,} {kind}" for key, kind in kinds.items() if gain.get(key)]
    ways += [f"{gain['images']:,.1f} {images}"] if gain["images"] else []
    return ways

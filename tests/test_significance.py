"""Gains, their intervals and tests: against closed forms, references and the paper's own table; and what is refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from sarsynth.errors import UserError
from sarsynth.evidence.comparison import SIGNIFICANCE, ScoredJob, read_or_compare
from sarsynth.evidence.predictions import Predictions, figures
from sarsynth.evidence.published import PUBLISHED, from_counts, table3
from sarsynth.evidence.results import LEAKS, MEANS, RESULT_VERSION, read_result
from sarsynth.evidence.significance import compare, estimate, holm, mcnemar, mid_p
from sarsynth.report import terminal
from sarsynth.report.pieces import Table
from sarsynth.report.rows import Row, gains_table, scores_table

CLASSES = ["cargo", "tanker", "dredger"]
LABELS = np.repeat([0, 1, 2], [60, 30, 20])
MINOR = ["tanker", "dredger"]
FIGURE = {"mean": 0.5, "std": 0.0, "values": [0.5]}
UNSCORED = {  # what a result has beside that which its gains rest on
    **dict.fromkeys(("base", "data", "split"), "some"),
    "classifier": {"per_class": {"cargo": {"f1": FIGURE}}} | dict.fromkeys(MEANS, FIGURE),
    "fidelity": {"preprocess": "normalised", "width": None, "pooled": None, "per_class": {}},
}


def guesses(right: float, seeds: int = 5, checkpoints: int = 1, seed: int = 0) -> Predictions:
    """Predictions of which a share is right and the rest is anything."""
    rng = np.random.default_rng(seed)
    shape = (seeds, checkpoints, len(LABELS))
    said = np.where(rng.random(shape) < right, LABELS, rng.integers(3, size=shape))
    return Predictions(said, LABELS, CLASSES, [f"{row}.png" for row in range(len(LABELS))])


def printed(table: Table) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(terminal.render(table))
    return captured.get()


# --- Figures ----------------------------------------------------------------------------------------------------------


def test_values_are_those_of_scikit_learn():
    given = guesses(0.5, seeds=3, checkpoints=2)
    found = estimate(given, MINOR, replicates=200, seed=0)
    vectors = given.predicted.reshape(-1, len(LABELS))
    by_class = np.mean([f1_score(LABELS, said, average=None) for said in vectors], axis=0)
    assert [found[name].value for name in CLASSES] == pytest.approx(by_class)
    assert found["minor_f1"].value == pytest.approx(by_class[1:].mean())
    assert found["macro_f1"].value == pytest.approx(by_class.mean())
    assert found["accuracy"].value == pytest.approx(np.mean([accuracy_score(LABELS, said) for said in vectors]))
    assert all(0 <= one.low < one.value < one.high <= 1 for one in found.values())
    assert "minor_f1" not in estimate(given, [], replicates=200, seed=0)


def test_figures_of_counts_broadcast():
    hits, predicted = np.array([[3, 1], [4, 0]]), np.array([[4, 2], [6, 0]])
    found = figures(hits, predicted, np.array([4, 2]), [1])
    expected = [[6 / 8, 2 / 4, 2 / 4, 5 / 8, 4 / 6, 5 / 8], [8 / 10, 0, 0, 0.4, 4 / 6, 1 / 2]]
    assert found == pytest.approx(np.array(expected))


def test_without_seeds_the_interval_of_accuracy_is_the_binomial_one():
    """One classifier, images drawn within classes: the variance is the sum of the classes' binomial ones."""
    given = guesses(0.6, seeds=1)
    low, high = (getattr(estimate(given, MINOR, replicates=10_000, seed=0)["accuracy"], end) for end in ("low", "high"))
    right = (given.predicted[0, 0] == LABELS).astype(float)
    variance = sum(right[label == LABELS].var() * (label == LABELS).sum() for label in range(3)) / len(LABELS) ** 2
    width = 2 * stats.t.ppf(0.975, 19) * variance**0.5
    assert high - low == pytest.approx(width, rel=0.05)


def test_seeds_alone_give_students_interval():
    """Each classifier is right on exactly the images of one class and some more: images do not matter, seeds do."""
    classes, labels = ["a", "b"], np.repeat([0, 1], 1000)
    said = np.tile(labels, (5, 1))
    shares = [0.50, 0.56, 0.47, 0.61, 0.44]
    for row, share in zip(said, shares, strict=True):
        wrong = np.random.default_rng(1).permutation(2000)[: int(2000 * (1 - share))]
        row[wrong] = 1 - row[wrong]
    found = estimate(Predictions(said[:, None], labels, classes), [], replicates=4000, seed=0)["accuracy"]
    width = 2 * stats.t.ppf(0.975, 4) * np.std(shares, ddof=1) / 5**0.5
    assert found.value == pytest.approx(np.mean(shares), abs=1e-3)
    assert found.high - found.low == pytest.approx(width, rel=0.1)


# --- Gains ------------------------------------------------------------------------------------------------------------


def test_a_method_gains_nothing_over_itself():
    one = guesses(0.6)
    found = compare(one, one, MINOR, replicates=300, seed=0)
    for gain in (*found.per_class.values(), found.minor_f1, found.macro_f1, found.accuracy):
        assert gain is not None
        assert gain.delta == 0
        assert gain.low <= 0 <= gain.high
        assert not gain.significant
        assert (gain.seeds, gain.images) == (None, None), "nothing shows a gain that is not there"
    assert found.mcnemar is not None and found.mcnemar.p == 1


def test_gains_change_sign_with_the_order_and_a_large_one_is_found():
    better, worse = guesses(0.9), guesses(0.4, seed=1)
    there, back = (compare(*pair, MINOR, replicates=1000, seed=0) for pair in [(better, worse), (worse, better)])
    for gain, loss in zip(there.per_class.values(), back.per_class.values(), strict=True):
        assert gain.delta == pytest.approx(-loss.delta)
        assert gain.low == pytest.approx(-loss.high, abs=0.05)
        assert gain.significant and loss.significant and gain.low > 0 > loss.high
        assert (gain.seeds, gain.images) == (None, None), "settled"
    assert there.mcnemar is not None and there.mcnemar.p < 1e-6
    assert np.array(there.mcnemar.only_method).shape == (5,)


def test_pairing_tells_small_gains_that_images_apart_do_not():
    """Two methods alike but for a tenth of the images: on the same images that is seen, on unknown ones it is not."""
    worse = guesses(0.7, seeds=5)
    said = worse.predicted.copy()
    said[..., ::10] = LABELS[::10]
    better = replace(worse, predicted=said)
    paired = compare(better, worse, MINOR, replicates=1000, seed=0)
    apart = compare(replace(better, images=None), replace(worse, images=None), MINOR, replicates=1000, seed=0)
    assert paired.accuracy.high - paired.accuracy.low < 0.8 * (apart.accuracy.high - apart.accuracy.low)
    assert apart.mcnemar is None


def test_as_many_images_as_it_says_settle_a_question():
    """The detectable gain comes down to the one that is seen. Seeds agree here: all chance is that of images."""
    better, worse = (
        replace(one, predicted=np.repeat(one.predicted, 2, axis=0))
        for one in (guesses(0.68, seeds=1, seed=1), guesses(0.55, seeds=1, seed=2))
    )
    gain = compare(better, worse, MINOR, replicates=2000, seed=0).macro_f1
    assert not gain.significant and gain.images is not None
    times = round(gain.images)
    assert 2 <= times <= 9

    def larger(one: Predictions) -> Predictions:
        tiled = [np.tile(values, times) for values in (one.predicted, one.labels)]
        return Predictions(*tiled, one.classes, [str(row) for row in range(times * len(LABELS))])

    enough = compare(larger(better), larger(worse), MINOR, replicates=1000, seed=0).macro_f1
    assert enough.delta == pytest.approx(gain.delta)
    assert enough.detectable == pytest.approx(abs(gain.delta), rel=0.2)


def test_as_many_seeds_as_it_says_settle_a_question():
    """Here all chance is that of a seed and an image together, so that more seeds help as more images do."""
    gain = compare(guesses(0.62, seed=1), guesses(0.58, seed=2), MINOR, replicates=4000, seed=0).macro_f1
    assert not gain.significant and gain.seeds is not None
    more = [guesses(right, seeds=gain.seeds, seed=seed) for seed, right in [(1, 0.62), (2, 0.58)]]
    assert compare(*more, MINOR, replicates=2000, seed=0).macro_f1.detectable == pytest.approx(gain.delta, rel=0.3)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_what_is_open_takes_more_than_there_is(seeds: int):
    """Also where a normal quantile would say that the seeds at hand do; and as many as it says do."""
    asked = 0
    for seed in range(20):
        arms = guesses(0.66, seeds=seeds, seed=2 * seed), guesses(0.56, seeds=seeds, seed=2 * seed + 1)
        found = compare(*arms, MINOR, replicates=300, seed=seed)
        for gain in (*found.per_class.values(), found.minor_f1, found.macro_f1, found.accuracy):
            assert gain is not None and gain.detectable is not None
            if gain.significant:
                assert (gain.seeds, gain.images) == (None, None)
            else:
                assert abs(gain.delta) < gain.detectable, "what is open is less than what these seeds show"
                assert gain.seeds is None or gain.seeds > seeds
                assert gain.images is None or gain.images > 1
                asked += gain.seeds is not None
    assert asked > 20


def test_classes_take_more_seeds_than_a_figure_of_its_own():
    """Since there are as many of them, each of them is called significant less readily."""
    found = compare(guesses(0.62, seed=1), guesses(0.58, seed=2), MINOR, replicates=4000, seed=0)
    chance = stats.t.ppf(1 - 0.05 / 6, 19) + stats.t.ppf(0.8, 19)
    for gain in found.per_class.values():
        spread = (gain.high - gain.low) / 2 / stats.t.ppf(0.975, 19)
        assert gain.detectable is not None and gain.detectable > 0.95 * chance * spread


def test_of_one_seed_nothing_is_called_significant():
    """However far apart: another seed might be as far. Of more it may be."""
    for seeds in (1, 5):
        found = compare(guesses(0.95, seeds=seeds), guesses(0.3, seeds=seeds, seed=1), MINOR, replicates=300, seed=0)
        every = (*found.per_class.values(), found.minor_f1, found.macro_f1, found.accuracy)
        assert {gain.significant for gain in every if gain} == {seeds > 1}
        assert {(gain.seeds, gain.images) for gain in every if gain} == {(None, None)}


def test_a_class_that_nobody_names_tells_nothing_of_chance():
    said = np.zeros((3, 1, len(LABELS)), dtype=int)
    never = Predictions(said, LABELS, CLASSES, [str(row) for row in range(len(LABELS))])
    gain = compare(never, never, MINOR, replicates=200, seed=0).per_class["tanker"]
    assert (gain.delta, gain.low, gain.high, gain.p, gain.detectable) == (0, 0, 0, 1, None)


def test_holm_is_statsmodels_known_answer():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])


def test_mid_p_lies_between_the_exact_test_and_its_next_outcome():
    exact = stats.binomtest(3, 15, 0.5).pvalue
    assert 2 * mid_p(12, 3) == pytest.approx(exact - stats.binom.pmf(3, 15, 0.5))
    assert mid_p(3, 12) == pytest.approx(1 - mid_p(12, 3))
    assert [mid_p(0, 0), mid_p(7, 7)] == pytest.approx([0.5, 0.5])
    assert mid_p(1000, 1) < 1e-200


def test_mcnemar_pairs_classifiers():
    one, other = guesses(0.8, seeds=3), guesses(0.6, seeds=2, seed=1)
    found = mcnemar(one, other)
    right, wrong = one.predicted[1, 0] == LABELS, other.predicted[1, 0] != LABELS
    assert len(found.only_method) == 2
    assert found.only_method[1] == (right & wrong).sum()
    each = [mid_p(*pair) for pair in zip(found.only_method, found.only_baseline, strict=True)]
    assert found.p == pytest.approx(4 * np.median(each))
    alone = mcnemar(replace(one, predicted=one.predicted[:1]), other)
    assert alone.p == pytest.approx(2 * each[0]), "McNemar's own for a single pair"


def test_two_thousand_replicates_are_the_same_every_time():
    one, other = guesses(0.8), guesses(0.6, seed=1)
    assert compare(one, other, MINOR, replicates=200, seed=3) == compare(one, other, MINOR, replicates=200, seed=3)


# --- The paper's table ------------------------------------------------------------------------------------------------


def test_decoded_counts_give_the_published_digits():
    with PUBLISHED.open() as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == "3"]
    assert len(rows) == 9 * 5
    for row in rows:
        hits, predicted, support = (int(row[column]) for column in ("hits", "predicted", "support"))
        assert f"{hits / predicted:.4f}" == row["precision"]
        assert f"{hits / support:.4f}" == row["recall"]
        # The paper's F1 is that of unrounded or of rounded figures.
        assert 2 * hits / (predicted + support) == pytest.approx(float(row["f1"]), abs=1.01e-4)
    for given in table3().values():
        assert given.support.tolist() == [772, 216, 161, 59, 52]


def test_published_gains_are_open():
    """Intervals like those of independent binomials (own simulation from precision and recall, to two digits)."""
    known = table3()
    plora, resample = known["plora", "train"], known["resample", "train"]
    minor = ["fishing", "tanker", "dredger"]
    expected = {
        "resample": {"fishing": (0.592, 0.716), "tanker": (0.495, 0.713), "dredger": (0.722, 0.891)},
        "plora": {"fishing": (0.655, 0.771), "tanker": (0.536, 0.733), "dredger": (0.780, 0.909)},
    }
    for method, intervals in expected.items():
        found = estimate(known[method, "train"], minor, replicates=2000, seed=0)
        for name, ends in intervals.items():
            assert (found[name].low, found[name].high) == pytest.approx(ends, abs=0.012)
    gains = compare(plora, resample, minor, replicates=2000, seed=0)
    for name, delta, low, high, detectable in [
        ("fishing", 0.060, -0.025, 0.145, 0.12),
        ("tanker", 0.029, -0.117, 0.176, 0.21),
        ("dredger", 0.034, -0.070, 0.143, 0.15),
    ]:
        gain = gains.per_class[name]
        assert gain.delta == pytest.approx(delta, abs=2e-3)
        assert (gain.low, gain.high) == pytest.approx((low, high), abs=0.015)
        # Theirs is of one class alone, ours of one of five.
        five, one = (stats.t.ppf(1 - level / 2, 51) + stats.t.ppf(0.8, 51) for level in (0.01, 0.05))
        assert gain.detectable == pytest.approx(detectable * five / one, abs=0.0125)
        assert not gain.significant
    assert gains.mcnemar is None, "which images they are is not known"


def test_counts_that_no_predictions_have_are_refused():
    with pytest.raises(ValueError, match="errors cannot be shared out"):
        from_counts(["a", "b"], np.array([5, 5]), np.array([3, 5]), np.array([5, 5]))
    with pytest.raises(ValueError, match="9 predictions of 10 images"):
        from_counts(["a", "b"], np.array([5, 5]), np.array([3, 5]), np.array([4, 5]))


# --- A sweep's rows ---------------------------------------------------------------------------------------------------


def stored(store: Path, given: Predictions, method: str, job: int, overrides: str = "", **more: object) -> ScoredJob:
    """Put predictions into a store as an evaluation leaves them, and give the row that rests on them."""
    inputs = {}
    for seed, said in enumerate(given.predicted):
        folder = store / "evaluation" / f"{method}-seed-{seed}-{job:08x}{seed:08x}"
        folder.mkdir(parents=True)
        names = given.images or []
        metadata = {"images": json.dumps(list(names)), "digests": json.dumps([name[::-1] for name in names])}
        tensors = {"predicted": said, "labels": given.labels}
        save_file(tensors, folder / "logits.safetensors", metadata)
        inputs[f"seed_{seed}"] = folder.name.rpartition("-")[2]
    protocol = {"topk": "none", "leaks": None, "baseline": "none", "replicates": 200, **more}
    result = {
        "version": RESULT_VERSION,
        "method": method,
        "classes": CLASSES,
        "minor": MINOR,
        "seeds": list(range(len(inputs))),
        "inputs": inputs,
        "protocol": protocol,
    }
    return ScoredJob(str(job), overrides, result)


def test_rows_are_compared_with_the_baseline_of_their_own_overrides(tmp_path: Path):
    rows = [
        stored(tmp_path, guesses(0.5), "none", 0, "data.split=deci"),
        stored(tmp_path, guesses(0.9, seed=1), "lora", 1, "data.split=deci", leaks=LEAKS["release_vote"]),
        stored(tmp_path, guesses(0.85, seed=2), "none", 2, "data.split=train"),
        stored(tmp_path, guesses(0.85, seed=3), "control", 3, "data.split=train"),
        stored(tmp_path, guesses(0.85, seed=3), "lora", 4, "data.split=other"),
    ]
    found = read_or_compare(rows, tmp_path, tmp_path / SIGNIFICANCE)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [row["baseline"] for row in found["rows"]] == [None, "0", None, "2", None]
    none, lora, _, control, alone = found["rows"]
    assert none["note"] is None and none["gains"] is None and none["images"] == len(LABELS)
    assert list(none["scores"]) == [*CLASSES, *MEANS, "balanced_accuracy"]
    assert lora["gains"]["macro_f1"]["significant"]
    assert not any(gain["significant"] for gain in control["gains"]["per_class"].values())
    assert alone["note"] == "nothing to compare with: add none to the sweep's methods"
    (line,) = found["open"]
    assert line.startswith("control data.split=train: minor_f1 ")

    shown = [
        Row(row.name, UNSCORED | row.result, entry=entry, baseline=entry["baseline"] and "none")
        for row, entry in zip(rows, found["rows"], strict=True)
    ]
    flat = shown[1].values
    assert flat["gain_macro_f1"] == lora["gains"]["macro_f1"]["delta"]
    assert flat["gain_p_holm_f1_tanker"] == lora["gains"]["per_class"]["tanker"]["p_holm"]
    assert not any(column.startswith("gain_") for column in shown[0].values)
    table = gains_table(shown, "Gain in F1 over none")
    assert table is not None
    text = printed(table)
    assert "data.split=deci !" in text and "data.split=train !" not in text, "what leaks is marked"
    assert "▲" in text and "Gain in F1 over none" in text


def test_what_cannot_be_compared_is_said_in_a_line(tmp_path: Path):
    base = stored(tmp_path, guesses(0.5), "none", 0)
    others = guesses(0.6)
    others = replace(others, images=[f"other/{name}" for name in others.images or []])
    few = LABELS.copy()
    few[few == 2] = 1
    few[-1] = 2
    rows = [
        base,
        stored(tmp_path, others, "lora", 1),
        stored(tmp_path, guesses(0.6), "2lora", 2),
        stored(tmp_path, guesses(0.6), "clora", 3),
        stored(tmp_path, guesses(0.6), "plora", 4, baseline=None),
    ]
    gone = tmp_path / "evaluation" / f"2lora-seed-3-{2:08x}{3:08x}"
    (gone / "logits.safetensors").unlink()
    damaged = tmp_path / "evaluation" / f"clora-seed-0-{3:08x}{0:08x}" / "logits.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    notes = [row["note"] for row in read_or_compare(rows, tmp_path, tmp_path / SIGNIFICANCE)["rows"]]
    assert notes[0] is None and notes[4] is None
    assert notes[1] == "lora and none cannot be compared: the test images differ"
    assert "has no predictions -0000000200000003; run the sweep again" in notes[2]
    assert str(damaged) in notes[3] and "run the sweep again" in notes[3]
    with pytest.raises(UserError, match="the test set has 1 image of class dredger, .* add test images"):
        Predictions(others.predicted, few, CLASSES)
    with pytest.raises(UserError, match="the test set has no images of class boat"):
        Predictions(others.predicted, LABELS, [*CLASSES, "boat"])


def test_one_seed_is_said_to_know_nothing_of_seeds(tmp_path: Path):
    rows = [
        stored(tmp_path, guesses(right, seeds=1), name, job)
        for job, (name, right) in enumerate([("none", 0.5), ("lora", 0.6)])
    ]
    found = read_or_compare(rows, tmp_path, tmp_path / SIGNIFICANCE)["rows"][1]
    assert found["note"].startswith("one seed each: intervals know of the images alone, and nothing is called")
    assert found["gains"]["macro_f1"]["seeds"] is None
    (line,) = read_or_compare(rows, tmp_path, tmp_path / SIGNIFICANCE)["open"]
    assert line.endswith("is open: one seed does not tell how far seeds part; two or more do")


# --- result.json ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"method": "none"}', f"is of version 1, and this sarsynth reads {RESULT_VERSION}; run its command again"),
        ('{"version": 99}', "is of version 99"),
        ("{", "cannot be read .*; run its command again"),
        ("[]", "cannot be read"),
    ],
)
def test_a_result_of_another_version_or_a_damaged_one_is_refused(content: str, message: str, tmp_path: Path):
    file = tmp_path / "result.json"
    assert read_result(file) is None
    file.write_text(content)
    with pytest.raises(UserError, match=rf"result\.json.*{message}"):
        read_result(file)


def test_scores_that_leak_are_marked():
    result = UNSCORED | {"method": "lora", "classes": ["cargo"], "minor": [], "seeds": [0]}
    leaky, fine = ({"protocol": {"leaks": leaks}} for leaks in (LEAKS["release_vote"], None))
    table = scores_table([Row("lora", result | leaky), Row("2lora", result | fine)], "F1")
    lines = printed(table).splitlines()
    assert any(line.split()[:2] == ["lora", "!"] for line in lines)
    assert not any(line.split()[:2] == ["2lora", "!"] for line in lines)
    assert any("! checkpoints chosen on the test set" in line for line in lines)

"""A second test set: the same classifiers are scored on it as on the first, and nothing is trained for it."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.metrics import f1_score
from test_sweeps import TINY, here

from sarsynth.config.composition import settings_of
from sarsynth.config.image_sections import ImageSet
from sarsynth.errors import UserError
from sarsynth.evidence.design import Design
from sarsynth.evidence.predictions import Predictions, calibration_errors
from sarsynth.evidence.results import RESULT
from sarsynth.report.jobs import read_several
from sarsynth.sim import render

METHODS = ["-m", "method=none,resample", *TINY, "seeds=[0,1]", "data.test=6", "classifier.epochs=4"]
SAME = ["data@evaluate.also=sim", "evaluate.also.test=6"]  # the very images that the first test set has
TRAINING = re.compile(r"made +(adapter|classifier|partition|evaluation/\w+-seed-\d+-(?!on-))")


def sweeps(folder: Path) -> list[Path]:
    return sorted((folder / "logs/sweeps/evaluate").iterdir())


def results(sweep: Path) -> dict[str, Any]:
    return {one["method"]: one for one in (json.loads(file.read_text()) for file in sorted(sweep.glob(f"*/{RESULT}")))}


def significance(sweep: Path) -> dict[str, Any]:
    return json.loads((sweep / "significance.json").read_text())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A finished sweep, and the same again with other images of other classes as a second test set."""
    folder = tmp_path_factory.mktemp("second")
    first = here(folder, "evaluate", *METHODS)
    assert first.code == 0, first.err
    other = folder / "harbour"
    for name, drawn in (("cargo", "cargo"), ("fishing", "fishing"), ("tug", "other")):
        (other / name).mkdir(parents=True)
        for index in range(4):
            pixels = render(5, 100 + index, drawn, "sar", 32).pixels[..., 0]
            Image.fromarray(pixels).save(other / name / f"{index}.png")
    again = here(folder, "evaluate", *METHODS, f"evaluate.also={other}")
    assert again.code == 0, again.err
    before, after = sweeps(folder)
    return SimpleNamespace(folder=folder, other=other, again=again, before=before, after=after)


def test_a_finished_study_is_scored_on_it_without_training(study: SimpleNamespace) -> None:
    made = re.findall(r"^made +(\S+)", study.again.out, re.MULTILINE)
    assert not TRAINING.search(study.again.out)
    assert sum("-on-harbour-" in name for name in made) == 4, "two methods with two seeds"
    first, second = results(study.before), results(study.after)
    for method, result in second.items():
        assert result["classifier"] == first[method]["classifier"]
        assert result["evaluations"] == first[method]["evaluations"]
        assert first[method]["also"] is None
    assert significance(study.after)["rows"] == significance(study.before)["rows"]
    assert "also" not in significance(study.before)


def test_classes_are_matched_by_name_and_the_others_are_named(study: SimpleNamespace) -> None:
    assert "evaluate.also: cargo, fishing are scored on harbour too" in study.again.out
    without = "only the classifiers know other, tanker, dredger: harbour has no test image"
    unknown = "only harbour has tug (4 images): not scored, since the classifiers know no such class"
    page = (study.after / "report.html").read_text()
    for line in (without, unknown):
        assert study.again.out.count(line) == 3, "at each job, and in the end"
        assert line in page
    also = results(study.after)["resample"]["also"]
    assert (also["classes"], also["minor"]) == (["cargo", "fishing"], ["fishing"])
    assert (also["without_images"], also["unknown"]) == (["other", "tanker", "dredger"], {"tug": 4})
    evaluations = [one["fingerprint"] for one in also["evaluations"]]
    files = [next((study.folder / "logs/store/evaluation").glob(f"*-{one}/logits.safetensors")) for one in evaluations]
    values = []
    for tensors in map(load_file, files):
        assert sorted(np.unique(tensors["labels"])) == [0, 2] and len(tensors["labels"]) == 8
        assert (tensors["logits"].argmax(axis=-1) == tensors["predicted"]).all() and tensors["logits"].shape[-1] == 5
        values.append(f1_score(tensors["labels"], tensors["predicted"][0], labels=[0, 2], average=None))
    for name, known in zip(also["classes"], np.transpose(values), strict=True):
        assert also["classifier"]["per_class"][name]["f1"]["values"] == pytest.approx(known)
    row = next(row for row in significance(study.after)["also"]["rows"] if row["method"] == "resample")
    assert row["images"] == 8 and set(row["gains"]["per_class"]) == {"cargo", "fishing"}
    assert row["scores"]["macro_f1"]["value"] == pytest.approx(np.mean(values))
    assert row["gains"]["macro_f1"]["low"] <= row["gains"]["macro_f1"]["delta"] <= row["gains"]["macro_f1"]["high"]


def test_the_closing_table_and_the_csv_have_both(study: SimpleNamespace) -> None:
    assert "of the same classifiers on both test sets" in study.again.out
    assert re.search(r"resample +harbour +[\d.]+±[\d.]+ +- +[\d.]+±[\d.]+ +- +- ", study.again.out)
    assert "Gain in F1 on harbour, in points" in study.again.out
    _, line = csv.DictReader((study.after / "results.csv").read_text().splitlines())
    gain = significance(study.after)["also"]["rows"][1]["gains"]["minor_f1"]
    assert float(line["also_gain_minor_f1"]) == pytest.approx(gain["delta"])
    assert float(line["also_gain_low_minor_f1"]) == pytest.approx(gain["low"])
    assert "also_f1_tanker" not in line


def test_of_two_sweeps_in_one_report_the_rows_with_a_second_set_are_read(study: SimpleNamespace) -> None:
    for folders in ([study.before, study.after], [study.after, study.before]):
        jobs = read_several(folders)
        assert [job.heading for job in jobs] == ["none", "resample"]
        assert all(job.result and job.result["also"]["name"] == "harbour" for job in jobs)


@pytest.mark.parametrize(
    "more",
    [[], ["evaluate.topk=release_vote"], ["evaluate.topk=mean", "evaluate.k=2", "evaluate.thresholds=validation"]],
)
def test_the_very_same_images_have_the_very_same_figures(study: SimpleNamespace, more: list[str]) -> None:
    """By the checkpoints and thresholds that were chosen."""
    counts = "data.train={cargo: 12, other: 6, fishing: 4, tanker: 4, dredger: 4}"
    run = here(
        study.folder, "evaluate", "method=none", *TINY, "data.test=6", "classifier.epochs=4", counts, *SAME, *more
    )
    assert run.code == 0, run.err
    assert "30 of its 30 test images are test images of data too" in run.out
    result = json.loads(sorted(study.folder.glob("logs/runs/evaluate/*/result.json"))[-1].read_text())
    assert result["also"]["classifier"] == result["classifier"]
    assert result["also"]["name"] == "sim (also)" and result["also"]["leaks"] is None
    first, second = (
        load_file(next((study.folder / "logs/store/evaluation").glob(f"*-{one['fingerprint']}")) / "logits.safetensors")
        for one in (result["evaluations"][0], result["also"]["evaluations"][0])
    )
    for tensor, values in first.items():
        assert np.array_equal(values, second[tensor]), tensor


def test_what_cannot_be_scored_is_refused_before_anything_is_trained(study: SimpleNamespace, tmp_path: Path) -> None:
    def refused(*overrides: str) -> str:
        run = here(tmp_path, "evaluate", "method=none", *TINY, *overrides)
        assert run.code == 1 and not TRAINING.search(run.out) and not list(tmp_path.glob("logs/store/evaluation/*"))
        return run.err

    (tmp_path / "buoys/buoy").mkdir(parents=True)
    Image.fromarray(render(5, 1, "cargo", "sar", 32).pixels[..., 0]).save(tmp_path / "buoys/buoy/0.png")
    assert "evaluate.also: none of its classes (buoy) is one of the classifiers' (cargo, other," in refused(
        "evaluate.also=buoys"
    )
    colours = ["data@evaluate.also=imagefolder", f"evaluate.also.root={study.other}", "evaluate.also.channels=3"]
    assert "evaluate.also.channels=3: the classifiers see images of 1" in refused(
        *colours, "evaluate.also.train=null", "evaluate.also.test=."
    )
    (tmp_path / "deep/cargo").mkdir(parents=True)
    Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 60).save(tmp_path / "deep/cargo/0.png")
    assert "evaluate.also: 1 of its images have uint16 pixels (cargo/0.png)" in refused("evaluate.also=deep")
    (tmp_path / "learnt/cargo").mkdir(parents=True)
    Image.fromarray(render(0, 3, "cargo", "sar", 32).pixels[..., 0]).save(tmp_path / "learnt/cargo/a.png")
    told = refused("evaluate.also=learnt")
    assert "1 of its 1 test images are learnt from: cargo/a.png is train image cargo/3" in told


def test_a_word_or_a_section_says_which_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*overrides: str) -> ImageSet:
        found = settings_of("evaluate", list(overrides)).evaluate.also
        assert found is not None
        return found

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a/test").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    assert settings_of("evaluate", []).evaluate.also is None
    assert said("evaluate.also=sim_rare") == said("data@evaluate.also=sim_rare")
    assert said("data@evaluate.also=sim", "evaluate.also.seed=7").reader.options["seed"] == 7
    for folder, test in (("a", "test"), ("b", ".")):
        found = said(f"evaluate.also={folder}", "data.max_bad=0.5")
        wanted = {"root": folder, "train": None, "test": test}
        assert (found.name, found.max_bad) == (folder, 0.5) and found.reader.options | wanted == found.reader.options
    for overrides, told in (
        (["evaluate.also=c"], "evaluate.also=c is neither a folder nor an option of data; the nearest is "),
        (["evaluate.also=imagefolder"], "evaluate.also.root is not set; say evaluate.also.root=..."),
        (["data@evaluate.also=imagefolder", "evaluate.also.root=c"], "evaluate.also.root=c: no such folder"),
        (["evaluate.also=sim", "evaluate.also.seed=7"], "a key of a section: say data@evaluate.also=NAME"),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            said(*overrides)


def test_another_class_is_wrong_and_its_share_is_what_is_left() -> None:
    """Known: b, which the second set has no image of, is taken for an image of a with confidence 0.7."""
    shares = np.array([[[[0.6, 0.1, 0.3], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9], [0.1, 0.1, 0.8]]]])
    labels = np.array([0, 0, 2, 2])
    predicted = shares.argmax(axis=-1)
    some = Predictions.of_some(predicted, labels, "abc", ["a", "c"], None, shares, Design())
    assert some.predicted.tolist() == [[[0, -1, 1, 1]]] and some.labels.tolist() == [0, 0, 1, 1]
    assert some.shares is not None and some.shares[0, 0, 1].tolist() == [0.2, 0.1]
    error = calibration_errors(some.shares[0, 0], some.predicted[0, 0], some.labels, np.ones((1, 4)))
    assert error[0] == pytest.approx((0.4 + 0.7 + 0.1 + 0.2) / 4), "four images in four bins"

"""The benchmark of a card: its arithmetic, its record, and all of it in miniature on a CPU."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import agreement
import gpu
import measuring
import pytest
import recording
import table3
import torch
from measuring import Effort, Figure, TooLongError, time_limit
from tiny import tiny_base

ROOT = Path(__file__).parents[1]
NONE = "No GPU run has been made"


@pytest.fixture(scope="module")
def works() -> dict[str, table3.Work]:
    return {work.name: work for work in table3.works(table3.jobs_of(*table3.OVERRIDES))}


# --- What Table 3 costs


def test_each_artifact_of_table3_counts_once(works: dict[str, table3.Work]):
    """Five methods on two splits; one ORS adapter for all, five classifiers a job and one of each split's own."""
    assert {name: work.times for name, work in works.items()} == {
        "latents of SAR images": 1,
        "latents of ORS images": 1,
        "ORS adapter": 1,
        "U-Net of finetune": 2,
        "SAR adapters of lora": 2,
        "SAR adapters of 2lora": 2,
        "SAR adapters of plora": 2,
        "synthetic sets": 8,
        "classifiers on deci": 26,
        "classifiers on train": 26,
    }


def test_what_each_takes_is_what_the_settings_say(works: dict[str, table3.Work]):
    settings = table3.jobs_of(*table3.OVERRIDES)[0]
    recipes, images = settings.train, table3.PUBLISHED
    expected = {
        "latents of SAR images": 2 * (images["sar"] + round(images["sar"] / 10)),  # and mirrored
        "latents of ORS images": images["ors"],
        "ORS adapter": recipes.ors.max_steps * recipes.ors.batch_size,
        "U-Net of finetune": recipes.finetune.max_steps * recipes.finetune.batch_size,
        **{f"SAR adapters of {name}": recipes.sar.max_steps * recipes.sar.batch_size for name in ("lora", "plora")},
        "synthetic sets": 5 * settings.generate.per_class,
    }
    assert {name: works[name].each for name in expected} == expected
    passes = works["classifiers on train"].each / images["sar"]
    assert passes == pytest.approx(settings.classifier.epochs, rel=0.001), "the last batch is a whole one"


def test_what_is_asked_for_otherwise_costs_otherwise():
    """Nothing is said twice: an override of any of these settings moves the arithmetic."""
    overrides = ["seeds=[0,1]", "generate.per_class=10", "train.sar.batch_size=8", "train.finetune.max_steps=7"]
    jobs = table3.jobs_of(*table3.OVERRIDES, *overrides, "method=finetune,lora,none")
    works = {work.name: work for work in table3.works(jobs, {"sar": 100, "ors": 50})}
    assert "ORS adapter" not in works and "latents of ORS images" not in works, "nothing is below a plain LoRA"
    assert works["classifiers on deci"].times == 3 * 2 + 1
    assert (works["synthetic sets"].times, works["synthetic sets"].each) == (4, 50)
    assert works["SAR adapters of lora"].each == 8 * jobs[0].train.sar.max_steps
    assert works["U-Net of finetune"].each == 7 * jobs[0].train.finetune.batch_size
    assert works["latents of SAR images"].each == 2 * (100 + 10)


def test_hours_are_work_by_rate():
    work = table3.Work("a", 3, 7200, "", "lora")
    assert work.hours({"lora": 2.0}) == 3.0
    assert work.hours({}) is None, "what was not measured has no cost"


# --- What is recorded


def found() -> dict:
    figure = Figure.of("samples a second", "1/s", [10.0, 30.0, 20.0])
    case = gpu.Outcome("lora", "LoRA", "measured", precision="bf16-mixed", figures=[figure])
    missed = gpu.Outcome("plora", "plora", "does not fit", note="memory ran out")
    row = {"name": "SAR adapters", "times": 2, "each": 72000, "keys": "train.sar", "case": "lora"}
    rows = [row | {"rate": 20.0, "hours": 2.0}, row | {"rate": None, "hours": None}]
    return {
        "created": "2026-01-02T03:04:05+00:00",
        "sarsynth": "1",
        "size": "sd15",
        "machine": {"card": "Some card"},
        "cases": [case.as_dict(), missed.as_dict()],
        "table3": {"command": "python evaluate.py", "rows": rows},
    }


def test_a_figure_is_a_median_with_its_spread():
    figure = Figure.of("rate", "1/s", [10.0, 30.0, 20.0])
    assert (figure.value, figure.low, figure.high, figure.repeats) == (20.0, 10.0, 30.0, 3)
    assert list(figure.as_dict()) == ["what", "unit", "value", "low", "high", "repeats"]


def test_one_command_records_a_run(tmp_path: Path):
    """In copies of the pages as they are here: figures take the place of what is between the marks, nothing else."""
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "docs/gpu.md"):
        (tmp_path / page).write_text((ROOT / page).read_text())
    for _ in range(2):  # a second run takes the place of the first
        recording.record(found(), tmp_path / "docs")
    assert json.loads((tmp_path / "docs/gpu.json").read_text()) == found()
    page, readme = (tmp_path / "docs/gpu.md").read_text(), (tmp_path / "README.md").read_text()
    assert NONE not in page and NONE not in readme
    assert "| LoRA | bf16-mixed | samples a second | 20 | 10 to 30 (3) |" in page
    assert "| plora |  | does not fit |  |  |  | memory ran out |" in page
    assert page.count("2 + 1 unknown") == readme.count("2 + 1 unknown") == 1
    assert "Some card (2026-01-02)" in readme
    begin, end = recording.MARKS
    for name in ("README.md", "docs/gpu.md"):
        ours, theirs = (ROOT / name).read_text(), (tmp_path / name).read_text()
        assert ours.partition(begin)[0] == theirs.partition(begin)[0]
        assert ours.partition(end)[2] == theirs.partition(end)[2]


def test_pages_say_so_as_long_as_there_is_no_run():
    """And no longer: figures and this sentence exclude each other."""
    measured = (ROOT / "docs/gpu.json").exists()
    for page in ("README.md", "docs/gpu.md"):
        assert (NONE in (ROOT / page).read_text()) != measured, page


# --- How it runs


def test_without_a_card_it_says_in_one_line_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for arguments in (["--check"], []):
        assert gpu.main(arguments) == 1
        written = capsys.readouterr()
        assert not written.out
        (line,) = written.err.splitlines()
        assert line.startswith("error: ")


def test_what_takes_too_long_is_interrupted():
    with pytest.raises(TooLongError, match="more than 0 s"), time_limit(0.1):
        time.sleep(30)


def test_what_is_no_whole_run_on_a_card_is_not_recorded_unasked(monkeypatch):
    recorded = []
    monkeypatch.setattr(gpu, "record", lambda found, folder: recorded.append(folder))
    monkeypatch.setattr(gpu, "missing_cuda", lambda: None)
    monkeypatch.setattr(gpu, "save_random", lambda folder: folder)
    monkeypatch.setattr(gpu, "run", lambda *_: found())
    gpu.main(["--device", "cpu"])
    gpu.main(["--size", "sd-nano"])
    gpu.main(["--only", "lora"])
    assert recorded == []
    gpu.main([])
    assert recorded == [ROOT / "docs"]


def test_every_case_composes_for_a_card_at_its_true_size():
    """What has never run on a card is at least asked for by keys that there are."""
    bench = gpu.Bench("cuda", "sd15", Path("scratch"), Path("base"), Effort(5, 10, 3, 40.0))
    for case in gpu.cases(256, 512):
        stage = [] if any("stage=" in one for one in case.overrides) else ["stage=sar"]
        settings = bench.settings("train", [*stage, *case.overrides, *case.lower])
        assert settings.trainer.accelerator == "gpu"
        assert settings.base.path == "base"
        assert settings.classifier.pretrained is False, "nothing is fetched"


def test_a_card_is_described(monkeypatch):
    card = SimpleNamespace(name="Some card", major=9, minor=0, total_memory=80_000_000_000)
    there = {"is_available": lambda: True, "device_count": lambda: 2, "get_device_properties": lambda _: card}
    for name, stand_in in there.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    told = measuring.machine()
    assert {key: told[key] for key in ("card", "cards", "capability", "memory_gb")} == {
        "card": "Some card",
        "cards": 2,
        "capability": "9.0",
        "memory_gb": 80.0,
    }
    assert told["driver"] and told["torch"] == torch.__version__


def outcome(error: Exception, **case) -> gpu.Outcome:
    """What becomes of a case that raises this."""

    def fail(bench, overrides):
        raise error

    bench = gpu.Bench("cpu", "sd-nano", Path(), None, Effort(1, 1, 1, 1.0))
    return gpu.measure(bench, gpu.Case("key", "name", fail, **case), float("inf"))


def test_what_does_not_fit_is_a_row_and_what_fails_another(capsys):
    assert outcome(torch.OutOfMemoryError("CUDA out of memory")).status == "does not fit"
    assert outcome(TooLongError("more than 5 s")).status == "skipped"
    defect = outcome(KeyError("lost"))
    assert (defect.status, defect.note) == ("failed", "KeyError: 'lost'")
    assert "Traceback" in capsys.readouterr().err


def test_what_does_not_fit_is_tried_with_less():
    tried = []

    def fit(bench, overrides):
        tried.append(overrides)
        if "less" not in overrides:
            raise torch.OutOfMemoryError
        return [Figure.of("rate", "1/s", [1.0])]

    bench = gpu.Bench("cpu", "sd-nano", Path(), None, Effort(1, 1, 1, 1.0))
    done = gpu.measure(bench, gpu.Case("key", "name", fit, ("much",), lower=("less",)), float("inf"))
    assert (done.status, done.overrides, done.note) == ("measured", ("much", "less"), "only with less.")
    assert tried == [("much",), ("much", "less")]


@pytest.mark.parametrize("precision", gpu.PRECISIONS)
def test_a_card_is_compared_with_a_cpu_in_float32_whatever_it_computes_in(monkeypatch, precision: str):
    """And with one classifier: what is asked of the CPU does not depend on the precision of the card."""
    asked = []

    def study(bench, settings):
        asked.append((settings.trainer.accelerator, settings.trainer.precision))
        return asked[-1]

    def compute(study, classifier, shown):
        assert classifier == ("cpu", "32-true")
        (image, update) = torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.ones(1)
        return agreement.Computed({"layer": update}, image, torch.zeros(1, 2))

    monkeypatch.setattr(gpu.Bench, "study", study)
    monkeypatch.setattr(agreement, "classifier", lambda study: SimpleNamespace(path=study))
    monkeypatch.setattr(agreement, "labelled", lambda study, split: SimpleNamespace(images=torch.zeros(1)))
    monkeypatch.setattr(agreement, "_compute", compute)
    bench = gpu.Bench("cuda", "sd15", Path("scratch"), Path("base"), Effort(1, 1, 1, 1.0))
    (case,) = [case for case in gpu.cases(256, 512) if case.key == f"agreement, {precision}"]
    figures = case.run(bench, case.overrides)
    assert asked == [("cpu", "32-true"), ("gpu", precision)]
    assert [figure.value for figure in figures] == [0, 0, 0]


def test_all_of_it_in_miniature(tmp_path: Path):
    """Every case that makes sense without a card is measured, but for those that differ from others in size alone."""
    tiny_base().save(tmp_path / "base")
    asked = ["--base", str(tmp_path / "base"), "--record", str(tmp_path), "--minutes", "30"]
    cases = [case for case in gpu.cases(32, 64) if "large" not in case.key]
    asked += ["--only", *(case.key for case in cases)]
    assert gpu.main(["--device", "cpu", "--size", "sd-nano", *asked]) == 0
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert {case["key"]: case["status"] for case in written["cases"]} == {
        case.key: "skipped" if case.lacks is not gpu.Case.lacks else "measured" for case in cases
    }
    assert all(figure["value"] >= 0 for case in written["cases"] for figure in case["figures"])
    assert all(row["hours"] > 0 for row in written["table3"]["rows"])

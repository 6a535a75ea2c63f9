"""The report: what stored results say stands in it, without torch; a real browser opens it, sorts and enlarges."""

import csv
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from sklearn.metrics import confusion_matrix, f1_score
from test_sweeps import here

from sarsynth.errors import UserError
from sarsynth.evidence.results import LEAKS, RESULT, RESULT_VERSION
from sarsynth.report import plots, writing
from sarsynth.report.across import across
from sarsynth.report.chips import tone_of
from sarsynth.report.distances import MODELS, OVERLAPS, rank_correlation
from sarsynth.report.images import evenly_by_class
from sarsynth.report.jobs import read_jobs
from sarsynth.report.pieces import Cell, Forest, duration, points
from sarsynth.report.provenance import remake
from sarsynth.report.rows import Row
from sarsynth.report.side_by_side import side_by_side
from sarsynth.report.sweep import Sweep
from sarsynth.report.writing import write

CLASSES = ["cargo", "tanker", "<b>buoy & co</b>"]
MINOR = CLASSES[1:]
SEEDS = [0, 1]
SKILL = {"none": 0.5, "resample": 0.7, "plora": 0.95}
EACH = 20  # test images a class


def card(folder: Path, kind: str, seconds: float, **inputs: str) -> str:
    """Make an artifact of what lies in a folder; return its fingerprint."""
    fingerprint = folder.name.rpartition("-")[2]
    content = {"kind": kind, "label": folder.name, "fingerprint": fingerprint, "settings": {}, "inputs": inputs}
    folder.mkdir(parents=True, exist_ok=True)
    content |= {"device": "cpu", "seconds": seconds, "peak_memory_bytes": 2**30}
    (folder / "card.json").write_text(json.dumps(content))
    return fingerprint


KEPT = {"made": 9, "kept": 8, "planned": 7, "joined": 7}
APART = {"synthetic": 0.9, "halves": 0.1, "autoencoder": 0.4}
REALISM = {
    "note": "relative use only",
    "measures": {
        "texture": {"unit": "deviations", "median": None, "distance": APART},
        "looks": {
            "unit": "1",
            "median": dict.fromkeys(("real", "synthetic", "autoencoder"), math.log(3)),
            "distance": APART,
        },
    },
    "fits": {
        key: {model: {"ks": 0.2} for model in MODELS} | {"k": {"ks": 0.2, "looks": 3.0, "shape": 7.5}}
        for key in ("real", "synthetic", "autoencoder")
    },
    "shortcut": {"accuracy": 0.8, "masked_accuracy": 0.3, "chance": 0.33, "interval": [0.2, 0.4], "meaning": "…"},
}
MEMORISATION = {
    "spaces": {"pixels": {"threshold": 1.0, "near_copies": 0.25, "real": 2.0, "synthetic": 3.0}},
    "per_class": {"tanker": {"n": 2, "pixels": 0.25, "diversity": {"real": 1.0, "synthetic": 0.5}}},
    "pairs": [
        {"class": "tanker", "space": "pixels", "synthetic": "images/1/000000.png", "real": "r", "real_row": row}
        for row in (3, 4)
    ],
}


def spread(values: list[float]) -> dict:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "values": values}


def fabricate(folder: Path) -> Path:
    """Lay a sweep of three methods and its store down, as runs leave them; return the sweep's folder."""
    rng, store, sweep = np.random.default_rng(0), folder / "logs/store", folder / "logs/sweeps/evaluate/then"
    labels = np.repeat(np.arange(len(CLASSES)), EACH)
    train = store / "cache/sim-train-images-aa01"
    train.mkdir(parents=True)
    images = rng.integers(0, 256, (len(labels), 1, 16, 16), dtype=np.uint8)
    save_file({"images": images, "labels": labels}, train / "images.safetensors")
    card(train, "cache", 1.0)
    partition = store / "partition/prototypes-2-bb01"
    partition.mkdir(parents=True)
    counts = {name: [5 + index, 2 * index] for index, name in enumerate(CLASSES)}
    (partition / "partition.json").write_text(
        json.dumps({"classes": CLASSES, "names": ["p_0", "p_1"], "nmi": 0.5, "counts": counts, "assignments": [0, 1]})
    )
    card(partition, "partition", 2.0, images="aa01")
    adapter = card(store / "adapter/prototype_0-cc01", "adapter", 100.0, partition="bb01")
    synthetic = store / "synthetic/plora-dd01"
    lines = []
    for label, name in enumerate(CLASSES):
        (synthetic / f"images/{label}").mkdir(parents=True)
        for index in range(2):
            file = f"images/{label}/{index:06d}.png"
            Image.fromarray(images[label, 0]).save(synthetic / file)
            lines.append(json.dumps({"file_name": file, "text": name, "class_name": name}))
    (synthetic / "metadata.jsonl").write_text("\n".join(lines))
    card(synthetic, "synthetic", 30.0, sar=adapter)

    for name, size in (("real", len(labels)), ("synthetic", 6)):
        folder_of = store / f"cache/{name}-features-ff{size}"
        folder_of.mkdir()
        features = rng.normal(size=(size, 8)).astype(np.float32)
        save_file({"features": features, "labels": np.arange(size) % len(CLASSES)}, folder_of / "features.safetensors")
        card(folder_of, "cache", 4.0)
    card(store / "evaluation/plora-fidelity-ab99", "evaluation", 5.0, real="ff60", synthetic="ff6")

    for job, (method, skill) in enumerate(SKILL.items()):
        made = method == "plora"
        inputs: dict[str, str] = {"synthetic": "dd01", "fidelity": "ab99"} if made else {}
        said = []
        for seed in SEEDS:
            wrong = rng.random(len(labels)) > skill
            said.append(np.where(wrong, (labels + 1) % len(CLASSES), labels))
            artifact = store / f"evaluation/{method}-seed-{seed}-ee{job}{seed}"
            artifact.mkdir(parents=True)
            about = {"images": [str(row) for row in range(len(labels))], "digests": ["x"] * len(labels)}
            tensors = {
                "predicted": said[-1][None],
                "labels": labels,
                "logits": np.eye(3, dtype=np.float32)[said[-1]][None],
            }
            save_file(
                tensors, artifact / "logits.safetensors", {key: json.dumps(value) for key, value in about.items()}
            )
            inputs[f"seed_{seed}"] = card(
                artifact, "evaluation", 10.0, train="aa01", **({"synthetic": "dd01"} if made else {})
            )
        f1 = np.array([f1_score(labels, one, average=None) for one in said])
        confusion = [confusion_matrix(labels, one).tolist() for one in said]
        distances = {"fid": 3.0, "fid_reliable": True, "kid": 0.02, "n_real": EACH, "n_synthetic": 2}
        distances |= dict.fromkeys(OVERLAPS, 0.5) | {"intervals": {"kid": [0.01, 0.03]}}
        few = distances | {"fid_reliable": False}
        result = {
            "version": RESULT_VERSION,
            "method": method,
            "base": "sd-nano",
            "data": "sim",
            "split": "train",
            "minor": MINOR,
            "classes": CLASSES,
            "counts": dict.fromkeys(CLASSES, EACH),
            "seeds": SEEDS,
            "protocol": {"topk": "none", "leaks": None, "baseline": "none", "replicates": 200},
            "training": {
                "trainable_parameters": 1234,
                "samples_seen": 567,
                "contours": "frozen",
                "sampling": "balanced",
            }
            if made
            else {},
            "learning": {
                "samples": dict.fromkeys(CLASSES, 2 * EACH),
                "synthetic": dict.fromkeys(CLASSES, EACH // 2 if made else 0),
                "steps": 8642,
            },
            "classifier": {
                "per_class": {
                    name: {
                        "precision": spread([0.25, 0.35]),
                        "recall": spread([0.5, 0.7]),
                        "f1": spread(f1[:, label].tolist()),
                        "support": spread([EACH, EACH]),
                    }
                    for label, name in enumerate(CLASSES)
                },
                "macro_f1": spread(f1.mean(axis=1).tolist()),
                "minor_f1": spread(f1[:, 1:].mean(axis=1).tolist()),
                "accuracy": spread([float((one == labels).mean()) for one in said]),
                "confusion": {"mean": np.mean(confusion, axis=0).tolist(), "values": confusion},
            },
            "fidelity": {
                "preprocess": "normalised",
                "width": 8,
                "pooled": distances if made else None,
                "per_class": {CLASSES[0]: distances, CLASSES[1]: few} if made else {},
            },
            "realism": REALISM if made else None,
            "memorisation": MEMORISATION if made else None,
            "filter": {"name": "none", "per_class": {"tanker": KEPT}} if made else None,
            "inputs": inputs,
        }
        place = sweep / str(job)
        (place / ".hydra").mkdir(parents=True)
        (place / ".hydra/overrides.yaml").write_text(f"- method={method}\n- experiment=demo\n- 'data.root=a b'\n")
        (place / ".hydra/config.yaml").write_text(f"method: {{name: {method}, rank: {job}}}\nseed: 0\n")
        (place / RESULT).write_text(json.dumps(result))
        (place / "lightning_logs/version_0").mkdir(parents=True)
        (place / "lightning_logs/version_0/metrics.csv").write_text(
            "sar/loss,seed_0/loss,sar/lr,step\n" + "".join(f"{1 / (n + 1)},{n},0.1,{n}\n" for n in range(5))
        )
        if made:
            Image.fromarray(images[0, 0]).resize((2000, 500)).save(place / "strip_tanker.png")
    return sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    made = fabricate(folder)
    run = here(folder, "evaluate", "report=logs/sweeps/evaluate/then")
    assert run.code == 0, run.err
    assert f"logs/sweeps/evaluate/then/{writing.REPORT}" in run.out
    return made


def read(sweep: Path) -> Sweep:
    return Sweep.read(sweep, sweep.parents[2] / "store")


def texts(table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.cells]


def piece(sweep: Path, section, kind: str, index: int = 0):
    return [one for one in section(read(sweep)) if one.kind == kind][index]


def test_everything_lies_beside_it_and_is_small(sweep: Path):
    assert {"report.html", "results.csv", "results.tex", "significance.json"} <= {file.name for file in sweep.iterdir()}
    drawn = {file.name for file in (sweep / writing.PLOTS).iterdir()}
    names = {"f1", "gains", "confusion_0", "fid", "kid", "clusters_bb01", "learning", "features"}
    assert {f"{name}.{ending}" for name in names for ending in ("png", "svg")} <= drawn
    html = (sweep / "report.html").read_text()
    assert len(html) < 2e6
    shown = [anchor for anchor, _, pieces in writing.SECTIONS if pieces(read(sweep))]
    assert {anchor for anchor, *_ in writing.SECTIONS} - set(shown) == {"paper", "worth", "dose"}, "of other sweeps"
    assert html.count('<p class="why">') == len(shown), "each says how to read it"
    assert "<b>buoy" not in html and "&lt;b&gt;buoy &amp; co&lt;/b&gt;" in html
    assert str(sweep) not in html, "no path of this machine"


def test_it_says_what_classifiers_learn_from_and_how_adapters_learned(sweep: Path):
    table = piece(sweep, writing.learned_from, "table")
    assert list(table.columns)[-3:] == ["steps", "contours in the loop", "order of adapters"]
    assert [row[4:] for row in texts(table)] == [["8,642", "", ""], ["8,642", "", ""], ["8,642", "frozen", "balanced"]]
    assert [[(cell.text, cell.detail) for cell in row[1:4]] for row in table.cells] == [
        [("40", "20 repeated")] * 3,
        [("40", "20 repeated")] * 3,
        [("40", "10 repeated, 10 synthetic")] * 3,
    ]


def test_the_table_says_what_the_results_say(sweep: Path):
    table = piece(sweep, writing.scores, "table")
    assert list(table.columns) == [
        *("method", "cargo", "tanker*", "<b>buoy & co</b>*", "minor*", "macro", "accuracy", "FID", "KID")
    ]
    for row, method in zip(texts(table), SKILL, strict=True):
        assert row[0] == method
    results = [json.loads((sweep / str(job) / RESULT).read_text()) for job in range(3)]
    for row, result in zip(table.cells, results, strict=True):
        assert row[1].value == result["classifier"]["per_class"]["cargo"]["f1"]["mean"]
        assert row[1].spread == f"{100 * result['classifier']['per_class']['cargo']['f1']['std']:.1f}"
        low, high = map(float, row[1].ends)
        assert low <= 100 * row[1].value <= high
    assert [row[7:] for row in texts(table)] == [["", ""], ["", ""], ["3.00", "0.0200"]]
    marks = [row[6].mark for row in table.cells]
    assert marks[0] == "" and marks[2] == "▲", "95 % right against 50 % is no chance"
    with (sweep / "results.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["method"] for row in rows] == list(SKILL)
    assert float(rows[2]["gain_macro_f1"]) > 0.2


def test_a_cheap_row_that_wins_is_told_beside_the_results(sweep: Path):
    def notes(of: Sweep) -> list[str]:
        return [one.text for one in writing.scores(of) if one.kind == "note"]

    assert notes(read(sweep))[0].startswith("plora is ahead")
    assert not any("no generator is needed" in line for line in notes(read(sweep)))
    of = read(sweep)
    of.results[1]["classifier"]["minor_f1"] = {"mean": 0.99, "std": 0.0, "values": [0.99, 0.99]}
    ahead, line = notes(of)
    assert ahead.startswith("resample is ahead")
    assert line.startswith("no generator is needed here: minor-class F1 of resample is 99.0")


def test_gains_are_told_with_what_would_settle_them(sweep: Path):
    table = piece(sweep, writing.gains, "table")
    assert [row[0] for row in texts(table)] == ["resample", "plora"]
    assert table.cells[0][0].detail == "over none"
    assert all("≥" in cell.detail for cell in table.cells[1][1:7])
    found = read(sweep).rows[1].entry["gains"]
    for cell, gain in zip(table.cells[0][1:4], found["per_class"].values(), strict=True):
        assert (f"{gain['seeds']} seeds" in cell.detail) == bool(gain["seeds"])
        assert (f"{gain['images']} x images" in cell.detail) == bool(gain["images"])
    assert any(gain["seeds"] for gain in found["per_class"].values())
    with (sweep / "results.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows[1]["gain_seeds_f1_tanker"] == str(found["per_class"]["tanker"]["seeds"] or "")


def test_cost_counts_everything_below_a_row_and_shared_parts_once(sweep: Path):
    table = piece(sweep, writing.costs, "table")
    seconds = {row[0].text: row[1].value for row in table.cells}
    assert seconds["none"] == 1 + 2 * 10
    quality = 4 + 4 + 5
    assert seconds["plora"] == 1 + 2 + 100 + 30 + quality + 2 * 10
    assert seconds["all rows, shared parts once"] == 1 + 2 + 100 + 30 + quality + 6 * 10
    assert [cell.text for cell in table.cells[2][7:]] == ["1,234", "567"]


def test_fid_of_fewer_images_than_features_is_not_shown(sweep: Path):
    result = read(sweep).results[2]
    row = Row("plora", result)
    assert row["fid_cargo"].value == 3.0
    assert row["fid_tanker"].value is None and row["kid_tanker"].value == 0.02
    result["fidelity"]["pooled"]["fid_reliable"] = False
    assert [cell.text for cell in Row("plora", result).distances] == ["n < 8", "0.0200"]


def three_sets(sweep: Path, folder: Path, **pooled) -> Path:
    """Copy a sweep; every row has the synthetic set of the last."""
    shutil.copytree(sweep, folder / "then")
    made = json.loads((sweep / "2" / RESULT).read_text())["fidelity"]
    for job in range(3):
        told = {**made, "pooled": made["pooled"] | pooled | {"kid": 0.01 * (job + 1)}}
        spoiled(folder / "then", job, fidelity=told)
    return folder / "then"


def test_kid_is_set_against_f1_where_there_is_no_fid(sweep: Path, tmp_path: Path):
    assert piece(sweep, writing.decoupling, "note").text == "Needs three rows with synthetic images; there are 1."
    few = Sweep.read(three_sets(sweep, tmp_path, fid_reliable=False), tmp_path)
    shown = writing.decoupling(few)
    assert [one.alt for one in shown if one.kind == "picture"] == ["Distances against F1, a point a row"]
    assert [axes.get_xlabel() for axes in shown[0].figure.axes] == ["KID, all classes"] * 2
    assert "as many images as features, 8, of both kinds" in shown[2].text
    both = Sweep.read(three_sets(sweep, tmp_path / "both"), tmp_path)
    assert len(writing.decoupling(both)[0].figure.axes) == 4


def test_bars_of_kinds_stand_beside_the_name_of_their_row():
    """Of row 0 the first kind is unknown: no bar; what is drawn are the values, scaled, each kind in its colour."""
    panels = {
        "tanker": {"seeds": [Cell(), Cell(0.02)], "images": [Cell(0.01), Cell(0.03)]},
        "dredger": {"seeds": [Cell(), Cell()], "images": [Cell(0.04), Cell()]},
    }
    figure = plots.grouped_bars(panels, ["resample", "lora"], "points", scale=100)
    tanker, dredger = figure.axes
    assert [bar.get_width() for bar in tanker.patches] == pytest.approx([2, 1, 3])
    assert [bar.get_width() for bar in dredger.patches] == pytest.approx([4])
    rows = [bar.get_y() + bar.get_height() / 2 for bar in tanker.patches]
    assert rows == pytest.approx([0.8, 0.2, 1.2]), "row 0 is centred on 0, row 1 on 1, the first kind above the second"
    colours = [bar.get_facecolor() for bar in (*tanker.patches, *dredger.patches)]
    assert colours[0] != colours[1] == colours[2] == colours[3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["seeds", "images"]


def test_where_nothing_of_the_spread_is_known_there_is_no_figure_of_it(sweep: Path, tmp_path: Path):
    """Of one seed each, as `missing` says; a figure without bars would be drawn otherwise."""
    shutil.copytree(sweep, tmp_path / "then")
    known = Sweep.read(tmp_path / "then", sweep.parents[2] / "store")
    (figure,) = [one.figure for one in writing.spread(known) if one.kind == "picture"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == known.names
    for entry in known.significance["rows"]:
        for parts in entry["variance"].values():
            parts |= dict.fromkeys(parts)
    assert "picture" not in {one.kind for one in writing.spread(known)}


def test_labels_of_a_scatter_are_inside_and_apart():
    """Numbers with a decimal, which take more room than without."""
    x, y = np.array([7.6, 5.9, 12.0]), np.array([28.7, 32.5, 36.6])
    names = ["lora", "2lora", "plora"]
    figure = plots.scatter({f"{n}": (x, y) for n in range(4)}, names, ["FID"] * 4, "F1 in %", names)
    boxes = [place.get_tightbbox() for place in figure.axes]
    assert boxes[0].x0 >= 0
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))


def test_plots_of_an_earlier_report_go(sweep: Path, tmp_path: Path):
    shutil.copytree(sweep, tmp_path / "then")
    shutil.rmtree(tmp_path / "then/2")
    (tmp_path / "then" / writing.PLOTS / "fidelity_f1.png").touch()
    write(Sweep.read(tmp_path / "then", sweep.parents[2] / "store"))
    left = {file.name for file in (tmp_path / "then" / writing.PLOTS).iterdir()}
    assert "f1.png" in left and not left & {"fidelity_f1.png", "kid.svg", "confusion_2.png"}


def test_realism_stands_beside_its_floors_and_copies_beside_their_originals(sweep: Path):
    assert texts(piece(sweep, writing.realism, "table")) == [
        *(["plora", "0.9", "0.9"], ["real halves", "0.1", "0.1"], ["real, autoencoder", "0.4", "0.4"])
    ]
    clutter = ["3", "", "7.5", "0.2", "0.2", "0.2"]
    assert texts(piece(sweep, writing.realism, "table", 1)) == [
        [name, *clutter] for name in ("plora", "real", "autoencoder")
    ]
    assert "30.0 % [20.0, 40.0]" in piece(sweep, writing.realism, "note", 1).text
    copies = [texts(piece(sweep, writing.memorisation, "table", index))[0] for index in range(3)]
    assert copies == [["plora", "25.0 %", "3", "2"], ["plora", "", "0.5", ""], ["plora", "", "7", ""]]
    (pair,) = piece(sweep, writing.memorisation, "gallery").pictures
    assert pair.content.count('width="32" height="16"') == 2, "two pairs of 16 px"


def test_a_floor_of_other_class_shares_is_said_to_be_one(sweep: Path, tmp_path: Path):
    shutil.copytree(sweep, tmp_path / "then")
    for through, told in ((30, True), (60, False)):
        spoiled(tmp_path / "then", 2, realism=REALISM | {"n": {"real": 60, "autoencoder": through}})
        notes = [one.text for one in writing.realism(Sweep.read(tmp_path / "then", tmp_path)) if one.kind == "note"]
        assert any("an older result" in note for note in notes) == told


def test_what_a_filter_does_to_the_numbers_stands_there(sweep: Path, tmp_path: Path):
    shutil.copytree(sweep.parents[2], tmp_path / "logs")
    again, store = tmp_path / "logs/sweeps/evaluate/then", tmp_path / "logs/store"
    result = json.loads((again / "2" / RESULT).read_text())
    card(store / "cache/plora-filter-density-fa01", "cache", 1.0)
    told = {"name": "density", "per_class": {"tanker": KEPT}}
    spoiled(again, 2, filter=told, inputs=result["inputs"] | {"filter": "fa01"})
    notes = [one.text for one in writing.memorisation(Sweep.read(again, store)) if one.kind == "note"]
    assert notes[0].endswith("cache/plora-filter-density-fa01/filter.jsonl.")
    assert "older and has no numbers of all images" in notes[1]

    whole = result["fidelity"] | {"pooled": result["fidelity"]["pooled"] | {"kid": 0.5}}
    near = {"spaces": {"pixels": {"near_copies": 0.75}, "features": {"near_copies": 0.5}}}
    spoiled(again, 2, filter=told | {"before": {"fidelity": whole, "memorisation": near}})
    assert texts(piece(again, writing.memorisation, "table", 3)) == [
        *(["plora", "9", "3.00", "0.5000", "50.0 %", "75.0 %"], ["plora", "8", "3.00", "0.0200", "", "25.0 %"])
    ]


def test_the_map_of_features_shows_small_classes():
    labels = np.array([0] * 600 + [1] * 24 + [2] * 3)
    chosen = labels[evenly_by_class(labels, 40)]
    assert np.bincount(chosen).tolist() == [40, 24, 3]


def test_the_command_of_the_report_names_another_store(sweep: Path, monkeypatch):
    line = writing.commands(read(sweep))[-1].line
    assert line == f"python evaluate.py report={sweep} paths.store={sweep.parents[2] / 'store'}"
    monkeypatch.chdir(sweep.parents[3])
    usual = Sweep.read(Path("logs/sweeps/evaluate/then"), Path("logs/store"))
    assert writing.commands(usual)[-1].line == "python evaluate.py report=logs/sweeps/evaluate/then"


def test_only_settings_that_differ_are_shown(sweep: Path):
    table = piece(sweep, writing.settings, "table")
    assert list(table.columns) == ["method", "method.rank"]
    assert texts(table) == [["none", "0"], ["resample", "1"], ["plora", "2"]]


def test_a_row_is_made_again_by_its_own_command(sweep: Path):
    line = remake(read_jobs(sweep)[2])
    assert line == "python evaluate.py method=plora experiment=demo 'data.root=a b' hydra.mode=RUN"


def test_latex_has_a_line_a_row_and_no_special_sign(sweep: Path):
    table = (sweep / "results.tex").read_text()
    body = table[table.index(r"\midrule") : table.index(r"\bottomrule")].splitlines()[1:]
    assert [line.split(" & ")[0] for line in body[::2]] == list(SKILL)
    assert all(line.replace(r"\&", "").count("&") == 8 for line in body)
    assert all(line.count(r"\pm") == 6 for line in body[::2]) and all(line.count("[") == 6 for line in body[1::2])
    assert r"^{\uparrow}" in body[4] and body[4].endswith(r"$3.00$ & $0.0200$ \\")
    assert r"buoy \& co" in table


def test_latex_has_the_papers_form_too(sweep: Path):
    table = (sweep / "results.tex").read_text().split(r"\begin{tabular}")[2]
    assert "method & P & R & F & P & R & F & P & R & F & minor* & macro & accuracy" in table
    assert "\nplora & $30.0$ & $60.0$ & " in table
    assert rf"test images & \multicolumn{{3}}{{c}}{{${EACH}$}}" in table


def test_every_class_has_precision_recall_and_test_images(sweep: Path):
    table = piece(sweep, writing.f1_by_class, "table")
    assert table.folded
    assert [row[:3] for row in texts(table)[:4]] == [
        *(["none", "precision", "30.0"], ["none", "recall", "60.0"]),
        *(["none", "F1", texts(table)[2][2]], ["none", "test images", str(EACH)]),
    ]
    with (sweep / "results.csv").open(newline="") as handle:
        row = list(csv.DictReader(handle))[2]
    assert (row["precision_cargo"], row["recall_cargo"], row["support_cargo"]) == ("0.3", "0.6", "20.0")
    assert (row["n_real_tanker"], row["n_synthetic_tanker"], row["fid_tanker"], row["features"]) == ("20", "2", "", "8")


def test_figures_that_compare_with_nothing_are_marked_everywhere(sweep: Path, tmp_path: Path):
    """A vote on the test set, held-out images that are learnt from, the release's input."""
    shutil.copytree(sweep, tmp_path / "then")
    result = json.loads((sweep / "2" / RESULT).read_text())
    protocol = result["protocol"] | {"topk": "release_vote", "leaks": LEAKS["release_vote"]}
    few = result["fidelity"]["pooled"] | {"fid_reliable": False}
    fidelity = result["fidelity"] | {"preprocess": "release", "pooled": few}
    data = {"ors": {"count": 3, "samples": []}}
    spoiled(tmp_path / "then", 2, protocol=protocol, fidelity=fidelity, leaks=data)
    write(Sweep.read(tmp_path / "then", sweep.parents[2] / "store"))
    marked = Sweep.read(tmp_path / "then", tmp_path)
    notes = [one.text for one in writing.scores(marked) if one.kind == "note"]
    assert notes[0].startswith("! checkpoints chosen on the test set") and len(notes) == 6, (
        "three marks, and a verdict that names them"
    )
    table = next(one for one in writing.scores(marked) if one.kind == "table")
    assert [row[0].mark for row in table.cells] == ["", "", "!"]
    assert [cell.mark for cell in table.cells[2][7:]] == ["!", "!"] and table.cells[2][7].text == "n < 8"
    text = (tmp_path / "then/results.tex").read_text()
    assert r"plora$^{\dagger}$" in text and r"$n < 8^{\ddagger}$" in text
    assert text.count(r"\footnotesize $^{\dagger}$ checkpoints chosen on the test set") == 2
    with (tmp_path / "then/results.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["topk"] for row in rows] == ["none", "none", "release_vote"]
    assert rows[2]["leaks"].endswith("ors: 3 held-out images are learnt from") and rows[0]["leaks"] == ""


def test_labels_by_thresholds_of_validation_images_are_said_so(sweep: Path, tmp_path: Path):
    shutil.copytree(sweep, tmp_path / "then")
    protocol = json.loads((sweep / "2" / RESULT).read_text())["protocol"] | {"thresholds": "validation"}
    spoiled(tmp_path / "then", 2, protocol=protocol)
    write(Sweep.read(tmp_path / "then", sweep.parents[2] / "store"))
    table = next(one for one in writing.scores(Sweep.read(tmp_path / "then", tmp_path)) if one.kind == "table")
    assert ["thresholds of validation images" in row[0].detail for row in table.cells] == [False, False, True]
    with (tmp_path / "then/results.csv").open(newline="") as handle:
        assert [row["thresholds"] for row in csv.DictReader(handle)] == ["", "", "validation"]


def test_numbers_of_images_stand_by_class_and_why_there_is_no_fid(sweep: Path):
    table = piece(sweep, writing.fidelity, "table")
    assert [cell.detail for cell in table.cells[0]] == ["", "FID 3.00\n20 / 2", "n < 8\n20 / 2", ""]
    assert "as many images as features, 8, of both kinds. KID" in piece(sweep, writing.fidelity, "note").text


def test_without_the_store_what_is_in_it_is_said_to_be_missing(sweep: Path, tmp_path: Path):
    alone = tmp_path / "then"
    shutil.copytree(sweep, alone)
    (alone / "significance.json").unlink()
    write(Sweep.read(alone, tmp_path / "nowhere"))
    html = (alone / "report.html").read_text()
    assert "name the sweep&#39;s own with paths.store" in html
    assert "has no predictions" in html


def spoiled(sweep: Path, job: int, **changes) -> None:
    """Change parts of a job's result; None takes one away."""
    result = json.loads((sweep / str(job) / RESULT).read_text()) | changes
    kept = {key: value for key, value in result.items() if value is not None or key not in changes}
    (sweep / str(job) / RESULT).write_text(json.dumps(kept))


def not_finite(store: Path) -> None:
    (file,) = store.glob("cache/synthetic-features-*/features.safetensors")
    save_file({"features": np.full((6, 8), np.nan, np.float32), "labels": np.arange(6) % 3}, file)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda sweep, store: spoiled(sweep, 0, version=1), "Not shown: none. * is of version 1"),
        (lambda sweep, store: spoiled(sweep, 2, fidelity=[]), "Not shown: plora. *result.json lacks fidelity; run"),
        (lambda sweep, store: spoiled(sweep, 2, realism=None), "Not shown: plora. *result.json lacks realism; run"),
        (
            lambda sweep, store: shutil.rmtree(store / "synthetic/plora-dd01/images"),
            "Without plora: *000000.png is missing; remove *plora-dd01 and run the sweep again",
        ),
        (
            lambda sweep, store: (store / "cache/real-features-ff60/features.safetensors").write_bytes(b""),
            "Without plora: *features.safetensors cannot be read *; remove",
        ),
        (lambda sweep, store: not_finite(store), "Without plora: *features of 6 of 6 images are not finite); remove"),
        (
            lambda sweep, store: (store / "cache/sim-train-images-aa01/images.safetensors").write_bytes(b""),
            "Without real images: *images.safetensors cannot be read",
        ),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_is_shown(spoil, told: str, sweep: Path, tmp_path: Path):
    shutil.copytree(sweep.parents[2], tmp_path / "logs")
    again = tmp_path / "logs/sweeps/evaluate/then"
    spoil(again, tmp_path / "logs/store")
    run = here(tmp_path, "evaluate", "report=logs/sweeps/evaluate/then")
    assert (run.code, run.err) == (0, "")
    html = " ".join((again / "report.html").read_text().split())
    notes = re.findall(r'<p class="note">(.*?)</p>', html)
    assert any(fnmatch(note, f"*{told}*") for note in notes), notes
    assert "F1 by class" in html


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda result: result["classifier"].pop("macro_f1"), "lost .*KeyError: .*macro_f1"),
        (lambda result: result["fidelity"].clear(), "lost or of another kind"),
        (lambda result: result["classifier"].update(per_class=[]), "lost or of another kind"),
    ],
)
def test_a_result_that_cannot_be_shown_is_named_by_its_file(spoil, told: str, sweep: Path, tmp_path: Path):
    shutil.copytree(sweep.parents[2], tmp_path / "logs")
    file = tmp_path / "logs/sweeps/evaluate/then/1" / RESULT
    result = json.loads(file.read_text())
    spoil(result)
    file.write_text(json.dumps(result))
    run = here(tmp_path, "evaluate", "report=logs/sweeps/evaluate/then")
    assert run.code == 1 and len(run.err.splitlines()) == 1
    assert re.match(f"error: .*then/1/{RESULT}: something in it is {told}.*; run its command again", run.err)


def test_a_result_that_is_broken_is_told_on_the_screen_too(sweep: Path, tmp_path: Path):
    shutil.copytree(sweep.parents[2], tmp_path / "logs")
    (tmp_path / "logs/sweeps/evaluate/then/2" / RESULT).write_text("{")
    run = here(tmp_path, "evaluate", "report=logs/sweeps/evaluate/then")
    assert (run.code, run.err) == (0, "")
    assert re.search(rf"not shown: .*then/2/{RESULT}: cannot be read", run.out)


def test_pictures_of_a_set_that_is_gone_are_left_out_at_the_end_of_a_sweep(sweep: Path, tmp_path: Path, capsys):
    (tmp_path / "synthetic/plora-dd01").mkdir(parents=True)
    assert side_by_side(read_jobs(sweep), tmp_path, tmp_path) == []
    assert "metadata.jsonl is missing" in "".join(capsys.readouterr().out.split("\n"))


def found_again(folder: Path, store: Path) -> dict:
    return Sweep.read(folder, store).significance


def test_gains_are_those_of_the_rows_that_lie_there(sweep: Path, tmp_path: Path):
    """A job replaced, removed, with another baseline or other replicates, and a damaged file: compared again."""
    store, here_now = sweep.parents[2] / "store", tmp_path / "then"
    shutil.copytree(sweep, here_now)
    file = here_now / "significance.json"
    first = found_again(here_now, store)
    assert first == json.loads(file.read_text()) and [row["job"] for row in first["rows"]] == ["0", "1", "2"]
    written = file.stat().st_mtime_ns
    assert found_again(here_now, tmp_path / "nowhere") == first and file.stat().st_mtime_ns == written, "nothing to do"

    replaced = json.loads((here_now / "2" / RESULT).read_text())
    other = json.loads((here_now / "1" / RESULT).read_text())
    (here_now / "2" / RESULT).write_text(json.dumps(replaced | {"inputs": other["inputs"]}))
    macro = [row["gains"]["macro_f1"] for row in found_again(here_now, store)["rows"][1:]]
    assert macro[0] == macro[1] != first["rows"][2]["gains"]["macro_f1"]
    shutil.rmtree(here_now / "1")
    assert [row["job"] for row in found_again(here_now, store)["rows"]] == ["0", "2"]
    write(Sweep.read(here_now, store))
    shutil.copytree(sweep / "1", here_now / "3")
    write(Sweep.read(here_now, store))
    rows = [row["job"] for row in json.loads(file.read_text())["rows"]]
    assert rows == ["0", "3", "2"], "those without a generator first"
    for change in ({"baseline": None}, {"replicates": 150}):
        result = json.loads((here_now / "3" / RESULT).read_text())
        result["protocol"] |= change
        (here_now / "3" / RESULT).write_text(json.dumps(result))
        assert found_again(here_now, store)["of"]["3"].items() >= change.items()
    whole = file.read_text()
    for damaged in (whole[:100], "[]", '{"version": 1, "rows": []}'):
        file.write_text(damaged)
        found_again(here_now, store)
        assert file.read_text() == whole


def test_a_wrong_store_leaves_nothing_behind(sweep: Path, tmp_path: Path):
    alone = tmp_path / "then"
    shutil.copytree(sweep, alone)
    (alone / "significance.json").unlink()
    assert found_again(alone, tmp_path / "nowhere")["rows"][2]["gains"] is None
    assert not (alone / "significance.json").exists()
    assert found_again(alone, sweep.parents[2] / "store")["rows"][2]["gains"]["macro_f1"]["significant"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda sweep: sweep / "nowhere", "is not a folder; give one of logs/sweeps/evaluate"),
        (lambda sweep: sweep.parents[2] / "store", "holds no result.json of evaluate.py"),
        (lambda sweep: old_version(sweep), "is of version 1, and this sarsynth reads"),
    ],
)
def test_a_wrong_folder_is_one_clear_line(spoil, message: str, sweep: Path, tmp_path: Path):
    chosen = spoil(sweep)
    run = here(tmp_path, "evaluate", f"report={chosen}")
    assert run.code == 1
    assert run.err.startswith("error: ") and run.err.count("\n") == 1
    assert message in run.err


def old_version(sweep: Path) -> Path:
    old = sweep.parent / "old"
    (old / "0/.hydra").mkdir(parents=True)
    (old / "0/.hydra/overrides.yaml").write_text("[]")
    (old / "0/result.json").write_text(json.dumps({"method": "none", "classifier": {}}))
    return old


def test_a_single_run_is_a_sweep_of_one(sweep: Path):
    (job,) = read_jobs(sweep / "0")
    assert job.name == "none" and job.result is not None
    with pytest.raises(UserError, match="not a folder"):
        Sweep.read(sweep / "9", sweep)


def test_torch_is_not_needed(sweep: Path):
    code = f"""
import sys
from pathlib import Path
from sarsynth.report import writing
writing.Sweep.read(Path({str(sweep)!r}), Path("x")).significance
sys.exit("torch" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rank_correlation_is_scipys_and_its_interval_holds_the_truth():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    rho, low, high = rank_correlation(x, y)
    assert rho == pytest.approx(spearmanr(x, y).statistic)
    assert low < rho < high
    assert rank_correlation(x, x)[0] == pytest.approx(1)
    assert np.isnan(rank_correlation(x[:5], y[:5])[1]), "too few for an interval"
    assert rank_correlation(x[:2], y[:2]) is None
    assert rank_correlation(np.ones(9), x[:9]) is None
    assert rank_correlation(np.full(4, np.nan), x[:4]) is None


def test_durations():
    assert [duration(seconds) for seconds in (0.4, 59, 61, 3600 * 25 + 60)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "25 h 01 min",
    ]


def test_chips_are_brightened_alike_if_they_are_dark_and_it_is_said():
    dark = np.full((2, 1, 8, 8), 5, np.uint8)
    dark[:, :, 4, 4] = 200
    bright = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8), dtype=np.uint8)
    tone = tone_of([dark, dark + 1])
    shown = tone.apply(dark)
    assert shown.max() >= 254 and shown.min() > 3 * dark.min(), "the target stays white, the clutter is seen"
    assert tone.said.startswith("brightened for the screen, all rows alike: ") and "gamma 0.5" in tone.said
    assert tone_of([bright]).said == "" and np.array_equal(tone_of([bright]).apply(bright), bright)
    assert tone_of([np.zeros((1, 8, 8), np.uint8)]) == tone_of([])


@pytest.mark.parametrize("ends", [(-0.02, 0.31), (-0.6, -0.1), (0.001, 0.0042), (0, 0), (-40, 900)])
def test_the_axis_of_a_forest_holds_zero_and_all_intervals(ends):
    cell = Cell(sum(ends) / 2, points, None, ends)
    forest = Forest("gains", "points", {"minor": [("plora", cell)]}, 100)
    assert 0 in forest.ticks and 2 <= len(forest.ticks) <= 9
    places = [forest.place(value) for value in (ends[0], cell.value, ends[1])]
    assert places == sorted(places) and places[0] >= 0 and places[2] <= 100
    assert forest.place(forest.ticks[0] / 100) == 0 and forest.place(forest.ticks[-1] / 100) == 100


def split_in_two(sweep: Path, folder: Path) -> tuple[Path, Path, Path]:
    """Copy a sweep as two: without its last row, and that row with one of the others; and their store."""
    shutil.copytree(sweep.parents[2], folder / "logs")
    one = folder / "logs/sweeps/evaluate/then"
    other = one.parent / "later"
    shutil.copytree(one, other)
    shutil.rmtree(one / "2")
    shutil.rmtree(other / "0")
    return one, other, folder / "logs/store"


def test_two_sweeps_are_one_report_whose_rows_are_compared(sweep: Path, tmp_path: Path):
    one, other, store = split_in_two(sweep, tmp_path)
    run = here(tmp_path, "evaluate", "report=[logs/sweeps/evaluate/then,logs/sweeps/evaluate/later]")
    assert (run.code, run.err) == (0, "")
    (page,) = (tmp_path / "logs/runs/evaluate").glob("*/report.html")
    assert str(page.relative_to(tmp_path)) in "".join(run.out.split())
    text = page.read_text()
    assert "report=[logs/sweeps/evaluate/then,logs/sweeps/evaluate/later]" in text
    both = Sweep.read_several([one, other], store, tmp_path)
    assert both.names == list(SKILL), "what is in both is shown once"
    assert [row.baseline for row in both.rows] == ["", "none", "none"]
    before = read(sweep).rows[2].entry["gains"]["macro_f1"]
    assert both.rows[2].entry["gains"]["macro_f1"] == before, "as if they had been one"


def test_the_same_methods_on_two_data_sets_are_set_beside_each_other(sweep: Path, tmp_path: Path):
    one, other, store = split_in_two(sweep, tmp_path)
    shutil.copytree(sweep / "0", other / "0")
    for job in range(3):
        spoiled(other, job, data="harbour")
    both = Sweep.read_several([one, other], store, tmp_path / "both")
    assert {label: part.names for label, part in both.parts.items()} == {
        "sim": ["none", "resample"],
        "harbour": ["none", "resample", "plora"],
    }
    (tmp_path / "both").mkdir()
    forest, table, *_ = across(both)
    assert {name: [label for label, _ in rows] for name, rows in forest.groups.items()} == {
        "resample": ["sim (over none)", "harbour (over none)"],
        "plora": ["harbour (over none)"],
    }
    assert list(table.columns) == ["method", "sim", "harbour"]
    assert texts(table)[2][1] == "" and texts(table)[0][1] == texts(table)[0][2] != ""
    page = writing.write(both)[0].read_text()
    assert 'href="#across"' in page and "sim: Results" in page and "harbour: Gains" in page
    assert {file.name for file in (tmp_path / "both/plots").iterdir()} == {"set0", "set1"}


# --- In a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements-dev.txt)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on the PATH: apt-get install chromium")
    with sync.sync_playwright() as playwright:
        # Without its sandbox, as root in a container has to: the page is our own and loads nothing.
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_browser_opens_it_from_disk(browser, sweep: Path, width: int, scheme: str):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page, errors, asked = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((sweep / "report.html").as_uri())

    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing overflows"
    if width < 640:
        beyond = f"[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > {width})"
        assert page.evaluate(f"{beyond}.length") == 0, "no column is cut, none has to be scrolled to"
    rows = page.locator("#results tbody tr")
    assert rows.count() == len(SKILL)
    first = page.locator("#results tbody th > span")
    heading = page.locator("#results thead th").nth(5)
    heading.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert first.all_inner_texts() == ["plora", "resample", "none"], "the best macro F1 first"
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert first.all_inner_texts() == ["none", "resample", "plora"]
    page.locator("#results thead th").nth(7).get_by_role("button").click()
    assert first.all_inner_texts()[0] == "plora", "rows without FID come last"
    assert heading.get_attribute("aria-sort") is None

    dialog = page.locator("dialog")
    picture = page.locator("#samples .zoomer").first
    picture.focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    shown = dialog.locator("img")
    assert shown.first.get_attribute("alt") == "cargo: real, 1 of 6" and shown.count() == 6
    assert shown.first.bounding_box()["width"] > picture.locator("img").first.bounding_box()["width"]
    page.keyboard.press("ArrowRight")
    assert dialog.locator("img").first.get_attribute("alt") == "cargo: plora, 1 of 2"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()

    backs = {page.evaluate("getComputedStyle(document.body).backgroundColor")}
    assert backs == {"rgb(17, 22, 27)" if scheme == "dark" else "rgb(245, 246, 244)"}
    unnamed = (
        "[...document.querySelectorAll('img, svg[role=img]')].filter(e => !(e.alt || e.getAttribute('aria-label')))"
    )
    assert page.evaluate(f"{unnamed}.length") == 0
    page.set_viewport_size({"width": 700, "height": 1000})  # of A4 within its margins
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 700, "paper holds it"
    cut = (
        "[...document.querySelectorAll('.scroll, td')].filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1)"
    )
    assert page.evaluate(f"{cut}.map(e => e.textContent)") == [], "and cuts no table"
    assert page.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor") == "rgb(255, 255, 255)"
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()

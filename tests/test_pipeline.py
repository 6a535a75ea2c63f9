"""The study end to end, through the command line, on the shipped base: tiny sets, a few steps, 32 px."""

import csv
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from huggingface_hub import ModelCard
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from processes import run_script
from safetensors.torch import load_file, save_file
from test_tracking import captions, logged, records
from tiny import tiny_base

from sarsynth import cli
from sarsynth.data.readers.imagefolder import ImageFolder
from sarsynth.data.seeds import step_seed
from sarsynth.diffusion import adapter_files, adapters
from sarsynth.diffusion.adapter_files import WEIGHTS
from sarsynth.diffusion.adapters import AdapterSpec
from sarsynth.diffusion.base import NANO, Base
from sarsynth.sim import CLASSES, render

ROOT = Path(__file__).parents[1]
UNTRAINED, TUNED = ("none", "resample", "frozen"), ("scratch", "finetune")
STACKS = ("lora", "2lora", "clora", "plora_uniform", "plora")
METHODS = (*UNTRAINED, *TUNED, *STACKS)
MINOR = ("fishing", "tanker", "dredger")
COUNTS = {"cargo": 16, "other": 8, "fishing": 5, "tanker": 4, "dredger": 3}
SIZES = [
    "base.image_size=32",
    "train.micro_batch=64",  # more than any step has: to estimate what memory holds takes a third of a study
    "evaluate.replicates=100",
    "train.ors.max_steps=3",
    "train.ors.warmup_steps=1",
    "train.ors.batch_size=4",
    "train.sar.max_steps=6",
    "train.sar.warmup_steps=1",
    "train.sar.batch_size=4",
    *(
        f"train.{one}.{key}"
        for one in ("finetune", "scratch")
        for key in ("max_steps=2", "warmup_steps=0", "batch_size=4")
    ),
    "prototypes.k=2",
    "generate.per_class=3",
    "generate.num_inference_steps=2",
    "classifier.epochs=2",
    "seeds=[0,1]",
]
WORLD = ["data.train={" + ", ".join(f"{k}: {v}" for k, v in COUNTS.items()) + "}", "data.test=4", "ors.train=3"]
TINY = [*SIZES, *WORLD]
# Prototype adapters of two generators, each on an ORS adapter of its own, as many in a pass as memory holds.
OF_SEVERAL_SEEDS = ("stage=sar", "method=plora", *TINY, "generator_seeds=[0,1]", "train.micro_batch=auto")

Command = Callable[..., SimpleNamespace]


@pytest.fixture
def command(tmp_path: Path, monkeypatch, capsys) -> Command:
    """Run a script inside this process, which saves imports; `folder` is the working directory."""

    def run(script: str, *overrides: str, folder: Path = tmp_path) -> SimpleNamespace:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *overrides])
        capsys.readouterr()
        try:
            cli.main(script)
            code = 0
        except SystemExit as stop:
            code = stop.code
        written = capsys.readouterr()
        return SimpleNamespace(code=code, out=written.out, err=written.err)

    return run


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> SimpleNamespace:
    """A sweep over all methods in a folder of its own. Tests leave it as it is, or copy it."""
    folder = tmp_path_factory.mktemp("study")
    run = run_script("evaluate", folder, "-m", f"method={','.join(METHODS)}", *TINY)
    assert run.returncode == 0, run.stderr + run.stdout
    (sweep,) = (folder / "logs/sweeps/evaluate").iterdir()
    results = {}
    for job in sorted(sweep.glob("*/result.json")):
        content = json.loads(job.read_text())
        results[content["method"]] = content | {"folder": job.parent}
    return SimpleNamespace(folder=folder, sweep=sweep, run=run, results=results, store=folder / "logs/store")


@pytest.fixture
def copied(study: SimpleNamespace, tmp_path: Path) -> Path:
    """A store with all of the study in it, to be tampered with: tmp_path/logs/store."""
    shutil.copytree(study.store, tmp_path / "logs/store")
    return tmp_path / "logs/store"


def artifact(store: Path, kind: str, label: str) -> Path:
    (found,) = (store / kind).glob(f"{label}-*")
    return found


def cards(store: Path) -> dict[str, float]:
    """When each artifact of a store was made."""
    return {str(card.relative_to(store)): card.stat().st_mtime_ns for card in sorted(store.glob("*/*/card.json"))}


def inputs(folder: Path) -> dict[str, str]:
    return json.loads((folder / "card.json").read_text())["inputs"]


# --- What a sweep leaves ----------------------------------------------------------------------------------------------


def test_every_method_of_the_sweep_has_a_result(study: SimpleNamespace):
    assert tuple(study.results) == METHODS
    assert "Traceback" not in study.run.stderr
    for content in study.results.values():
        assert set(content) >= {
            *("method", "base", "data", "split", "minor", "classes", "seeds", "classifier", "fidelity", "inputs"),
            *("training", "captions", "version", "protocol", "learning"),
        }
        assert (content["base"], content["data"], content["split"]) == ("sd-nano", "sim", "train")
        assert content["classes"] == list(CLASSES)
        assert (content["captions"] == {}) == (content["method"] in ("none", "resample"))
        assert content["captions"].get("synthetic", {}).get("tanker") in (None, "a SAR image of tanker ship")
        assert content["minor"] == ["fishing", "tanker", "dredger"]
        assert content["seeds"] == [0, 1]
        scores = content["classifier"]
        assert set(scores) == {"per_class", "macro_f1", "minor_f1", "accuracy", "confusion"}
        assert list(scores["per_class"]) == content["classes"]
        for figures in scores["per_class"].values():
            assert list(figures) == ["precision", "recall", "f1", "support"]
            assert figures["support"]["values"] == [4, 4], "the test set is untouched"
        every = [figure for one in scores["per_class"].values() for figure in one.values()]
        for figure in [*every, scores["macro_f1"], scores["minor_f1"], scores["accuracy"]]:
            assert set(figure) == {"mean", "std", "values"}
            assert figure["mean"] == pytest.approx(np.mean(figure["values"]))
            assert figure["std"] == pytest.approx(np.std(figure["values"], ddof=1))
        confusion = np.array(scores["confusion"]["values"])
        assert (confusion.sum(axis=2) == 4).all(), "each row is a class's images"
        assert confusion.mean(axis=0) == pytest.approx(np.array(scores["confusion"]["mean"]))
        assert confusion.trace(axis1=1, axis2=2) / 20 == pytest.approx(scores["accuracy"]["values"])
        f1 = [one["f1"]["mean"] for one in scores["per_class"].values()]
        assert scores["macro_f1"]["mean"] == pytest.approx(np.mean(f1))
        assert scores["minor_f1"]["mean"] == pytest.approx(np.mean(f1[2:]))


def test_fidelity_is_of_synthetic_methods(study: SimpleNamespace):
    for method, content in study.results.items():
        figures = content["fidelity"]["per_class"]
        assert list(figures) == ([] if method in ("none", "resample") else list(CLASSES))
        for name, one in figures.items():
            assert set(one) >= {"fid", "kid", "n_real", "n_synthetic", "precision", "coverage", "intervals"}
            assert one["fid"] >= 0 and not one["fid_reliable"], "three images, 192 features"
            # As many as asked for, or as doubling the class needs.
            wanted = max(3, COUNTS[name] if name in content["minor"] else 0)
            assert (one["n_real"], one["n_synthetic"]) == (COUNTS[name], wanted)


def test_quality_is_of_synthetic_methods(study: SimpleNamespace):
    for method, content in study.results.items():
        if method in ("none", "resample"):
            assert (content["realism"], content["memorisation"], content["filter"]) == (None, None, None)
            continue
        sizes = {name: max(3, COUNTS[name] if name in content["minor"] else 0) for name in CLASSES}
        assert content["fidelity"]["width"] == 192
        assert content["realism"]["n"]["synthetic"] == sum(min(sizes[name], COUNTS[name]) for name in CLASSES)
        assert content["realism"]["shortcut"] is None or content["realism"]["shortcut"]["n"] == 20
        assert content["memorisation"]["n"] == {"real": sum(COUNTS.values()), "synthetic": sum(sizes.values())}
        for pair in content["memorisation"]["pairs"]:
            assert (artifact(study.store, "synthetic", method) / pair["synthetic"]).is_file()
        for name, one in content["filter"]["per_class"].items():
            planned = COUNTS[name] if name in content["minor"] else 0
            assert one == {"made": sizes[name], "kept": sizes[name], "planned": planned, "joined": planned}


def test_a_filter_drops_images_gives_reasons_and_leaves_the_set_alone(
    study: SimpleNamespace, command: Command, copied: Path
):
    """What joins are the next images that are kept; `filter=none` has its results as before."""
    before = set(cards(copied))
    run = command("evaluate", "method=lora", *TINY, "seeds=[0]", "filter=memorised", "fid.preprocess=release")
    assert run.code == 0, run.err
    new = {name.split("/")[1].rpartition("-")[0] for name in set(cards(copied)) - before}
    assert new == {
        *("lora-filter-memorised", "lora-seed-0", "lora-fidelity", "lora-realism", "lora-memorisation"),
        *("lora-features", "sim-features"),  # of the release's input
    }
    reasons = artifact(copied, "cache", "lora-filter-memorised") / "filter.jsonl"
    rows = [json.loads(line) for line in reasons.read_text().splitlines()]
    assert all((row["reason"] is None) == row["kept"] for row in rows)
    (file,) = copied.parent.rglob("runs/**/result.json")
    content = json.loads(file.read_text())
    for name, one in content["filter"]["per_class"].items():
        ours = [row for row in rows if row["class_name"] == name]
        assert (len(ours), sum(row["kept"] for row in ours)) == (one["made"], one["kept"])
        assert one["joined"] == min(one["planned"], one["kept"])
    before = content["filter"]["before"]
    assert before["memorisation"]["n"]["synthetic"] == sum(
        one["made"] for one in content["filter"]["per_class"].values()
    )
    assert before["memorisation"]["spaces"] == study.results["lora"]["memorisation"]["spaces"], "as without a filter"
    assert before["fidelity"]["preprocess"] == "release" and before["fidelity"]["pooled"]["kid"] is not None
    lacking = [name for name, one in content["filter"]["per_class"].items() if one["joined"] < one["planned"]]
    told = " ".join(run.out.split())
    assert [name for name in CLASSES if f"images that were to join class {name};" in told] == lacking
    assert content["fidelity"]["preprocess"] == "release"
    assert "filter" in content["inputs"]
    strict = command("evaluate", "method=lora", *TINY, "seeds=[0]", "filter=density")
    assert strict.code == 1 and "lora-filter-density keeps none of 18 images" in strict.err
    assert strict.err.count("error: ") == 1


def test_features_that_are_not_finite_or_damaged_are_named(study: SimpleNamespace, command: Command, copied: Path):
    """Read from the store; a filter does not take them for bad images."""
    file = artifact(copied, "cache", "lora-features") / "features.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"features": torch.full_like(tensors["features"], torch.nan)}, file)
    ask = ("evaluate", "method=lora", *TINY, "seeds=[0]", "filter=density")
    told = command(*ask).err
    assert told.count("error: ") == 1 and "features of 18 of 18 images are not finite; remove" in told
    file.write_bytes(b"")
    assert "is not whole (0 bytes of" in command(*ask).err


def test_a_classifier_that_diverged_is_named_when_it_looks_at_images(
    study: SimpleNamespace, command: Command, copied: Path
):
    """Nothing is stored of what it sees."""
    weights = artifact(copied, "classifier", "resnet18") / "classifier.safetensors"
    known = load_file(weights)
    save_file({key: value * torch.nan if value.is_floating_point() else value for key, value in known.items()}, weights)
    shutil.rmtree(artifact(copied, "cache", "lora-features"))
    shutil.rmtree(artifact(copied, "evaluation", "lora-fidelity"))
    told = command("evaluate", "method=lora", *TINY).err
    assert told.count("error: ") == 1 and "images of lora are not finite; classifier" in told
    assert not list((copied / "cache").glob("lora-features-*"))


def test_what_a_result_rests_on_is_in_the_store(study: SimpleNamespace):
    known = {path.parent.name.rpartition("-")[2] for path in study.store.glob("*/*/card.json")}
    for method, content in study.results.items():
        measured = {"synthetic", "fidelity", "realism", "shortcut", "memorisation"}
        roles = {"seed_0", "seed_1"} | (set() if method in ("none", "resample") else measured)
        assert set(content["inputs"]) == roles
        assert set(content["inputs"].values()) <= known


def test_the_sweep_ends_in_a_table_and_the_places_of_the_pictures(study: SimpleNamespace):
    rows = list(csv.DictReader((study.sweep / "results.csv").open()))
    assert [row["method"] for row in rows] == list(METHODS)
    for row, content in zip(rows, study.results.values(), strict=True):
        means = [value for key, value in row.items() if "macro_f1" in key and "std" not in key]
        assert float(means[0]) == pytest.approx(content["classifier"]["macro_f1"]["mean"])
        assert (row["kid"] == "") == (content["method"] in ("none", "resample"))
        assert row["fid"] == "", "no bare FID of fewer images than features"
    table = study.run.stdout[study.run.stdout.rindex("results") :]
    assert "± " in study.run.stdout
    for method, content in study.results.items():
        pictures = {file.name for file in content["folder"].glob("*.png")}
        if method in ("none", "resample"):
            assert pictures == set()
            continue
        assert pictures == {
            "real_vs_synthetic.png",
            "nearest_neighbours.png",
            *(f"strip_{name}.png" for name in CLASSES if method in STACKS),
            *(["prototypes.png"] if method.startswith("plora") else []),
        }
        for file in content["folder"].glob("*.png"):
            with Image.open(file) as picture:
                assert min(picture.size) > 32
        assert str(content["folder"].relative_to(study.folder)) in study.run.stdout, table


def test_methods_share_what_they_have_in_common(study: SimpleNamespace):
    names = [path.parent.name.rpartition("-")[0] for path in study.store.glob("adapter/*/card.json")]
    groups = ["sar_dredger", "sar_fishing", "sar_rest", "sar_tanker"]
    known = ["ors", "prototype_0", "prototype_1", "sar", "sar", *groups]
    assert sorted(names) == known, "one ORS adapter for four methods, two prototypes for two"
    assert len(list(study.store.glob("classifier/*/card.json"))) == 1
    assert len(list(study.store.glob("partition/*/card.json"))) == 1
    ors = artifact(study.store, "adapter", "ors").name.rpartition("-")[2]
    below = [inputs(path).get("ors") for path in study.store.glob("adapter/*") if not path.name.startswith("ors-")]
    assert below.count(ors) == 1 + 2 + 4
    assert below.count(None) == 1
    assert study.run.stdout.count("made   adapter/ors-") == 1
    assert study.run.stdout.count("made   classifier/") == 1
    bases = sorted(path.parent.name.rpartition("-")[0] for path in study.store.glob("base/*/card.json"))
    assert bases == ["sd-nano-finetune", "sd-nano-scratch"]


def test_budgets_are_equal_and_stated(study: SimpleNamespace):
    """All stacks have rank 16 and see six steps of four samples, however many adapters share them."""
    training = {method: content["training"] for method, content in study.results.items()}
    for method in STACKS:
        assert training[method]["samples_seen"] == 24
        assert training[method]["trainable_parameters"] == training["lora"]["trainable_parameters"] > 0
    for method in UNTRAINED:
        assert training[method] == {"trainable_parameters": 0, "samples_seen": 0}
    unet = sum(p.numel() for p in Base.load(NANO).unet.parameters())
    for method in TUNED:
        assert training[method] == {"trainable_parameters": unet, "samples_seen": 8}


def test_a_tuned_base_is_a_base(study: SimpleNamespace):
    """From random weights or from the base's own, and only the U-Net has moved."""
    nano = Base.load(NANO)
    for method in TUNED:
        base = Base.load(artifact(study.store, "base", f"sd-nano-{method}"))
        for part in ("vae", "text_encoder"):
            ours, known = getattr(base, part).state_dict(), getattr(nano, part).state_dict()
            assert all(torch.equal(ours[name], weight) for name, weight in known.items())
        # Not those of normalisation, which begin at one.
        ours, known = (torch.cat([p.flatten() for p in one.unet.parameters() if p.dim() > 1]) for one in (base, nano))
        near = torch.nn.functional.cosine_similarity(ours, known, dim=0).item()
        assert near > 0.99 if method == "finetune" else abs(near) < 0.1
        assert not torch.equal(ours, known)


@pytest.mark.parametrize("kind", ["diffusers", "kohya"])
def test_an_exported_class_makes_the_same_images_elsewhere(
    study: SimpleNamespace, copied: Path, command: Command, tmp_path: Path, kind: str
):
    """In a plain pipeline of diffusers, from the same noise, within one grey level of ours; its card has its scores."""
    asked = [f"export={tmp_path}/out", "class_name=tanker", f"export_format={kind}", f"results={study.sweep}"]
    run = command("generate", "method=plora", *TINY, *asked)
    assert run.code == 0, run.err
    card = ModelCard((tmp_path / "out/README.md").read_text())
    scores = {one.metric_name: one.metric_value for one in card.data.eval_results}
    known = study.results["plora"]["classifier"]
    assert scores["F1, mean of all classes"] == pytest.approx(known["macro_f1"]["mean"], abs=1e-6)
    assert scores["F1 of tanker"] == pytest.approx(known["per_class"]["tanker"]["f1"]["mean"], abs=1e-6)
    assert "interval_95" in card.data.eval_results[0].metric_args
    if kind == "kohya":  # other adapters than those that were scored
        other = command("generate", "method=plora", *TINY, *asked, "seed=1")
        assert other.code == 1 and "no result there rests on these" in other.err
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"plora-tanker.safetensors", "README.md"}
    use = 'strength 1, prompt "a SAR image of tanker ship", negative prompt "a SAR image of cargo ship", guidance 3'
    assert use in " ".join(run.out.split())
    pipe = StableDiffusionPipeline.from_pretrained(NANO, safety_checker=None, dtype=torch.float32)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(tmp_path / "out", weight_name="plora-tanker.safetensors")
    pipe.set_progress_bar_config(disable=True)
    side = 32 // 4
    noise = torch.randn(1, 16, side, side, generator=torch.Generator().manual_seed(step_seed(0, 3, 0)))
    made = pipe(
        "a SAR image of tanker ship", height=32, width=32, num_inference_steps=2, guidance_scale=3.0,
        negative_prompt="a SAR image of cargo ship", latents=noise, output_type="np",
    ).images[0]  # fmt: skip
    theirs = made.mean(axis=2) * 255
    with Image.open(artifact(copied, "synthetic", "plora") / "images/tanker/000000.png") as picture:
        ours = np.asarray(picture, dtype=float)
    assert np.abs(ours - theirs).max() <= 1


def test_an_adapter_from_elsewhere_takes_the_place_of_the_methods_own(copied: Path, command: Command, tmp_path: Path):
    """Ours by its path gives our images; one of another base, or that is not there, is one line."""
    known = artifact(copied, "synthetic", "lora")
    sar = next(path for path in (copied / "adapter").glob("sar-*") if "ors" not in inputs(path))
    own = adapter_files.load(Base.load(NANO).unet, sar / WEIGHTS)
    adapter_files.export(own, tmp_path / "own.safetensors", form="kohya")
    run = command("generate", "method=lora", *TINY, f"adapter.path={tmp_path}/own.safetensors")
    assert run.code == 0, run.err
    (made,) = (path for path in (copied / "synthetic").glob("lora-*") if path.name != known.name)
    for file in sorted(known.rglob("*.png")):
        with Image.open(file) as one, Image.open(made / file.relative_to(known)) as other:
            assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1
    adapter_files.save(adapters.fresh(tiny_base().unet, AdapterSpec(2, r".*\.to_q"), 0), tmp_path / "other.safetensors")
    for name, said in {"other": "no adapter for this base", "none": "cannot be read"}.items():
        refusal = command("generate", "method=lora", *TINY, f"adapter.path={tmp_path}/{name}.safetensors")
        assert (refusal.code, refusal.err.count("error: ")) == (1, 1)
        assert f"{name}.safetensors: {said}" in refusal.err
    # A card beside the file tells what it was made on.
    misplaced = command("generate", "method=2lora", *TINY, f"adapter.path={sar}/{WEIGHTS}")
    assert (misplaced.code, misplaced.err.count("error: ")) == (1, 1)
    assert "made on ors none, but this study has" in misplaced.err
    several = command("generate", "method=plora", *TINY, f"adapter.path={tmp_path}/own.safetensors")
    assert "adapter.path is one adapter, and method=plora has several" in several.err


def test_packed_jobs_find_their_adapters_made_together(study: SimpleNamespace, command: Command, tmp_path: Path):
    """Ranks and rates in one run; each adapter is, within rounding, the one that its job makes alone."""
    asked = ["stage=sar", "method=lora", *TINY]
    run = command("train", "-m", *asked, "method.rank=2,16", "train.sar.learning_rate=1e-3,1e-2", "pack=true")
    assert run.code == 0, run.err
    assert run.out.index("adapters of all jobs") < run.out.index("method.rank=2")
    assert run.out.count("made   adapter/") == 4
    assert run.out[run.out.index("method.rank=2") :].count("made   adapter/") == 0
    known = next(path for path in (study.store / "adapter").glob("sar-*") if "ors" not in inputs(path))
    one, other = (load_file(root / WEIGHTS) for root in (known, tmp_path / "logs/store/adapter" / known.name))
    a, b = (torch.cat([weights[name].flatten() for name in one]) for weights in (one, other))
    assert (a - b).norm() <= 1e-4 * a.norm()


def test_a_card_says_what_an_artifact_is(study: SimpleNamespace):
    for file in study.store.glob("*/*/card.json"):
        card = json.loads(file.read_text())
        keys = {"kind", "label", "fingerprint", "settings", "inputs", "sarsynth", "git", "device", "seconds"}
        keys |= {"version", "precision", "samples", "work", "processes", "peak_memory_bytes", "disk_bytes", "created"}
        assert set(card) == keys
        seen = {one["split"] for one in card["samples"].values()}
        if card["kind"] in ("classifier", "adapter", "partition"):
            assert seen == {"train"}
        assert ("test" in card["inputs"]) <= ("test" in seen)
        assert file.parent.name == f"{card['label']}-{card['fingerprint']}"
        text = json.dumps(card["settings"])
        assert str(study.folder) not in text, "no paths"
    assert not list(study.store.glob("*/.*.partial"))


def test_adapters_learn_in_a_precision_of_their_own(command: Command, tmp_path: Path):
    """Both views, one on top of the other and under contours; what they learn from is encoded as ever."""
    done = command("train", "stage=sar", "method=2lora", "adapter.precision=bf16-mixed", "contours=real", *TINY)
    assert done.code == 0, done.err
    assert done.out.count("adapters learn in bfloat16") == 1
    store = tmp_path / "logs/store"
    cards = {name: json.loads((artifact(store, "adapter", name) / "card.json").read_text()) for name in ("ors", "sar")}
    assert {card["precision"] for card in cards.values()} == {"bf16-mixed"}
    latents = json.loads((artifact(store, "cache", "sim-sar-latents") / "card.json").read_text())
    assert latents["precision"] == "32-true"


def test_the_studys_own_classifier_learns_as_its_key_says(study: SimpleNamespace):
    (folder,) = (study.store / "classifier").iterdir()
    assert json.loads((folder / "card.json").read_text())["settings"]["recipe"]["sampling"] == "balanced"


def test_guidance_leads_away_from_the_largest_class(study: SimpleNamespace):
    """All but itself, which passes for no larger one."""
    card = json.loads((artifact(study.store, "synthetic", "2lora") / "card.json").read_text())
    largest = "a SAR image of cargo ship"
    assert card["settings"]["negative_prompts"] == {name: "" if name == "cargo" else largest for name in CLASSES}


def test_a_synthetic_set_is_an_imagefolder(study: SimpleNamespace):
    for method in ("lora", "2lora", "plora"):
        folder = artifact(study.store, "synthetic", method)
        rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        per_class = {name: max(3, COUNTS[name] if COUNTS[name] <= 5 else 0) for name in CLASSES}
        assert [row["file_name"] for row in rows] == [
            f"images/{name}/{index:06d}.png" for name in CLASSES for index in range(per_class[name])
        ]
        for row in rows:
            assert list(row) == ["file_name", "text", "label", "class_name", "seed", "method", "scales", "contour"]
            assert row["text"] == f"a SAR image of {row['class_name']} ship"
            assert CLASSES[row["label"]] == row["class_name"]
            assert (row["seed"], row["method"], row["contour"]) == (0, method, None)
            sar = {name: scale for name, scale in row["scales"].items() if name != "ors"}
            assert sum(sar.values()) == pytest.approx(1.0), "w2, shared out over the class's adapters"
            assert ("ors" in row["scales"]) == (method != "lora")
        pictures = sorted(folder.rglob("*.png"))
        assert len(pictures) == len(rows)
        for file in pictures:
            with Image.open(file) as picture:
                assert (picture.mode, picture.size) == ("L", (32, 32))
        assert len({file.read_bytes() for file in pictures}) == len(pictures), "no image twice"
        # It reads as a data set of our own too.
        source = ImageFolder(folder, train="images", val=None, test=None, unnamed=None, crop=None, channels=1)
        assert source.classes == sorted(CLASSES)
        assert {record.text for record in source.records("train")} == {row["text"] for row in rows}


def test_plora_mixes_by_bias_scores(study: SimpleNamespace):
    partition = json.loads((artifact(study.store, "partition", "prototypes-2") / "partition.json").read_text())
    counts = np.array([partition["counts"][name] for name in CLASSES], dtype=float)
    assert counts.sum() == sum(COUNTS.values())
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    weights = shares / shares.sum(axis=1, keepdims=True)
    rows = [json.loads(line) for line in (artifact(study.store, "synthetic", "plora") / "metadata.jsonl").open()]
    for row in rows:
        got = [row["scales"].get(f"prototype_{part}", 0.0) for part in range(2)]
        assert got == pytest.approx(weights[row["label"]])


def test_cheap_rivals_say_what_they_learn_from(study: SimpleNamespace, command: Command, copied: Path, tmp_path: Path):
    """At the steps of every other row, and those that add images with as many; none generates any."""
    rivals = ("weighted", "focal", "balanced", "augmented", "copy_paste", "oversampled")
    run = command("evaluate", "-m", f"method={','.join(rivals)}", *TINY, "seeds=[0]")
    assert run.code == 0, run.err
    results = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("logs/sweeps/evaluate/*/*/result.json"))]
    assert tuple(content["method"] for content in results) == rivals
    pictures = {file.parent.name for file in tmp_path.glob("logs/sweeps/evaluate/*/*/real_vs_added.png")}
    assert pictures == {str(rivals.index(name)) for name in ("augmented", "copy_paste")}
    doubled = {name: size if name in MINOR else 0 for name, size in COUNTS.items()}
    for content in results:
        learning, ours = content["learning"], content["method"] in ("augmented", "copy_paste", "oversampled")
        assert learning["steps"] == study.results["resample"]["learning"]["steps"] == 3
        assert content["added"] == (doubled if ours else dict.fromkeys(COUNTS, 0))
        assert learning["samples"] == {name: size + content["added"][name] for name, size in COUNTS.items()}
        assert learning["sampling"] == ("balanced" if content["method"] == "balanced" else "uniform")
        assert learning["loss"]["gamma"] == (2.0 if content["method"] == "focal" else 0.0)
        assert (learning["steps_of_last_layer_alone"] > 0) == (content["method"] == "oversampled")
        weights = learning["loss"]["class_weights"]
        assert weights["dredger"] == pytest.approx(36 / 5 / 3 if content["method"] == "weighted" else 1)
        assert content["fidelity"]["per_class"] == {}


def test_synthetic_images_join_repeated_ones_at_equal_numbers(command: Command, copied: Path, tmp_path: Path):
    """At equal steps too: half of the images of a minor class is synthetic, or none, as share 0 is `resample`."""
    mixed = ["augment=mixed", "augment.share=0.0,0.5"]
    run = command("evaluate", "-m", "method=resample,lora", *mixed, *TINY, "seeds=[0]")
    assert run.code == 0, run.err
    results = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("logs/sweeps/evaluate/*/*/result.json"))]
    assert [content["method"] for content in results] == ["resample", "resample", "lora", "lora"]
    learning = [content["learning"] for content in results]
    assert [of_row["samples"] for of_row in learning] == [COUNTS | dict.fromkeys(MINOR, 16)] * 4
    assert len({of_row["steps"] for of_row in learning}) == 1
    none = dict.fromkeys(COUNTS, 0)
    assert [of_row["synthetic"] for of_row in learning] == [none, none, none, none | dict.fromkeys(MINOR, 8)]
    scores = [content["classifier"] for content in results]
    assert scores[0] == scores[1] == scores[2] != scores[3]


# --- Once -------------------------------------------------------------------------------------------------------------


def test_a_second_run_makes_nothing(study: SimpleNamespace, command: Command):
    before = cards(study.store)
    again = command("evaluate", "-m", "method=none,finetune,plora", *TINY, folder=study.folder)
    assert again.code == 0
    assert "made   " not in again.out
    assert again.out.count("reused ") >= 3
    assert cards(study.store) == before
    newest = max((study.folder / "logs/sweeps/evaluate").iterdir(), key=lambda path: path.name)
    assert newest != study.sweep
    rows, all_rows = ((sweep / "results.csv").read_text().splitlines() for sweep in (newest, study.sweep))
    assert len(rows) == 4 and set(rows) <= set(all_rows)


def test_what_changes_no_content_makes_nothing(study: SimpleNamespace, command: Command, copied: Path):
    before = cards(copied)
    again = command("evaluate", "method=2lora", *TINY, "generate.batch_size=2", "train.sar.checkpoint_every=7")
    assert again.code == 0
    assert cards(copied) == before


def test_what_changes_content_makes_that_and_what_rests_on_it(study: SimpleNamespace, command: Command, copied: Path):
    before = set(cards(copied))
    again = command("evaluate", "method=2lora", *TINY, "generate.guidance_scale=2", "seeds=[0]")
    assert again.code == 0, again.err
    new = sorted(name.split("/")[1].rpartition("-")[0] for name in set(cards(copied)) - before)
    measured = ["2lora-features", "2lora-fidelity", "2lora-memorisation", "2lora-realism"]
    shown = ["2lora-strips", "sd-nano-unadapted"]
    assert new == ["2lora", *measured, "2lora-seed-0", *shown], "no training but the last classifier"


def test_other_words_encode_texts_anew_and_no_image(study: SimpleNamespace, command: Command, copied: Path):
    before = set(cards(copied))
    again = command("train", "stage=sar", "method=lora", *TINY, 'data.prompt="radar: {class_name}"')
    assert again.code == 0, again.err
    new = sorted(name.split("/")[1].rpartition("-")[0] for name in set(cards(copied)) - before)
    assert new == ["sar", "sim-sar-texts"]


def test_images_do_not_depend_on_interruption_or_batch(study: SimpleNamespace, command: Command, copied: Path):
    """A set killed half-way is gone on with: what is there stays, what is missing is what it would have been."""
    whole = artifact(copied, "synthetic", "2lora")
    known = {file.relative_to(whole): file.read_bytes() for file in sorted(whole.rglob("*.png"))}
    partial = whole.with_name(f".{whole.name}.partial")
    whole.rename(partial)
    (partial / "card.json").unlink()
    (partial / "metadata.jsonl").unlink()
    kept = [file for file in known if file.parent.name in CLASSES[:2]][:-1]
    for file in known:
        if file not in kept:
            (partial / file).unlink()
    (partial / kept[-1]).with_name("000009.part").write_bytes(b"half a file")
    stamps = {file: (partial / file).stat().st_mtime_ns for file in kept}

    again = command("generate", "method=2lora", *TINY, "generate.batch_size=2")
    assert again.code == 0, again.err
    assert str(whole.relative_to(copied.parent.parent)) in again.out
    assert {file.relative_to(whole) for file in whole.rglob("*.png")} == set(known)
    assert {file: (whole / file).stat().st_mtime_ns for file in kept} == stamps
    for file, content in known.items():
        (whole / "old.png").write_bytes(content)
        with Image.open(whole / file) as new, Image.open(whole / "old.png") as old:
            assert np.abs(np.asarray(new, dtype=int) - np.asarray(old, dtype=int)).max() <= 1
    metadata = artifact(study.store, "synthetic", "2lora") / "metadata.jsonl"
    assert (whole / "metadata.jsonl").read_bytes() == metadata.read_bytes()


def test_speckle_is_put_on_a_copy_of_the_set_and_on_it_once(study: SimpleNamespace, command: Command, copied: Path):
    """Real chips lose their speckle here: a set of smooth ones stands for what an autoencoder makes of them."""
    made = artifact(copied, "synthetic", "lora")
    smooth = {
        file.relative_to(made): np.full((32, 32), 60, np.uint8)
        + np.random.default_rng(i).integers(0, 9, (32, 32), "u1")
        for i, file in enumerate(sorted(made.rglob("*.png")))
    }
    for file, pixels in smooth.items():
        Image.fromarray(pixels).save(made / file)
    keys = ["method=lora", *TINY, "generate.speckle=matched"]
    run = command("generate", *keys)
    assert run.code == 0, run.err
    matched = artifact(copied, "synthetic", "lora-matched")
    assert str(matched.relative_to(copied.parent.parent)) in run.out
    said = json.loads((matched / "speckle.json").read_text())
    assert said["made"]["variance"] < said["real"]["variance"]
    assert said["matched"]["variance"] == pytest.approx(said["real"]["variance"], rel=0.35), "of 18 images of 32 px"
    assert said["factor"]["looks"] < 20
    assert (matched / "metadata.jsonl").read_bytes() == (made / "metadata.jsonl").read_bytes()
    known = {}
    for file, pixels in smooth.items():
        with Image.open(made / file) as old, Image.open(matched / file) as new:
            np.testing.assert_array_equal(np.asarray(old), pixels, err_msg="the set itself stays as it is")
            known[file] = np.asarray(new)
        assert known[file].std() > 2 * pixels.std()
    card = json.loads((matched / "card.json").read_text())
    assert card["inputs"] == {"synthetic": made.name.rpartition("-")[2]}
    assert "train" in json.dumps(card["samples"])

    partial = matched.with_name(f".{matched.name}.partial")  # a run that was cut off
    matched.rename(partial)
    (partial / "card.json").unlink()
    assert command("generate", *keys).code == 0
    for file, pixels in known.items():
        with Image.open(matched / file) as again:
            np.testing.assert_array_equal(np.asarray(again), pixels)


def test_one_stage_makes_what_it_lacks(command: Command, tmp_path: Path):
    made = command("train", "stage=sar", "method=plora", *TINY, "train.micro_batch=auto")
    assert made.code == 0, made.err
    kinds = {name.split("/")[0] for name in cards(tmp_path / "logs/store")}
    assert kinds == {"adapter", "cache", "classifier", "partition"}
    for part in range(2):
        folder = artifact(tmp_path / "logs/store", "adapter", f"prototype_{part}")
        assert str(folder.relative_to(tmp_path)) in made.out
        assert [file.name for file in folder.iterdir() if file.name != "card.json"] == [WEIGHTS]
    assert "normalised mutual information" in made.out.lower()


def test_require_names_the_command_that_makes_what_is_missing(command: Command, tmp_path: Path):
    """Following it to the letter, again and again, ends with the result."""
    asked = ["method=frozen", *TINY, "seeds=[0]"]
    store = tmp_path / "logs/store"
    followed = []
    for _ in range(10):
        before = cards(store)
        run = command("evaluate", *asked, "build=require")
        assert cards(store) == before
        if run.code == 0:
            break
        refused(run, "build=require; make it with: python ", root=tmp_path / "nothing")
        missing, line = re.search(r"error: (\S+) is missing in .* make it with: python (.*)", run.err).groups()
        script, *overrides = shlex.split(line)
        made = command(script.removesuffix(".py"), *overrides)
        assert made.code == 0, made.err
        assert f"made   {missing}" in made.out, "and that makes it"
        followed.append(line)
    assert run.code == 0
    assert 2 <= len(followed) == len(set(followed))


# --- Two processes ----------------------------------------------------------------------------------------------------


def test_two_processes_leave_the_same(study: SimpleNamespace, tmp_path: Path):
    """A sweep with `trainer=ddp` on the CPU: each job once, same names in the store, same weights up to rounding."""
    ddp = "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"
    run = run_script("generate", tmp_path, "-m", "method=frozen,lora", *TINY, *ddp)
    assert run.returncode == 0, run.stderr
    (sweep,) = (tmp_path / "logs/sweeps/generate").iterdir()
    assert {job.name for job in sweep.iterdir() if job.is_dir()} == {"0", "1"}, "each job once"
    assert len(list(sweep.rglob("result.json"))) == 2 and not (tmp_path / "logs/runs").exists()
    store = tmp_path / "logs/store"
    assert run.stdout.count("made   adapter/") == 1, "rank 0 alone speaks"
    for folder in (store / "adapter").iterdir():
        one, two = (load_file(root / "adapter" / folder.name / WEIGHTS) for root in (study.store, store))
        assert one.keys() == two.keys()
        a, b = (torch.cat([weights[name].flatten() for name in one]) for weights in (one, two))
        assert (a - b).norm() <= 1e-5 * a.norm()
    (folder,) = (store / "synthetic").glob("frozen-*")
    images = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.png")}
    alone = study.store / "synthetic" / folder.name
    assert images == {file.relative_to(alone): file.read_bytes() for file in alone.rglob("*.png")}
    assert not list(store.glob("*/.*.partial"))


# --- One's own images -------------------------------------------------------------------------------------------------


def write_images(root: Path, counts: dict[str, int], domain: str, first: int = 0) -> None:
    """A folder per class with PNGs of the embedded world, 40 px."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(first, first + count):
            pixels = render(0, index, name, domain, 40).pixels
            Image.fromarray(pixels.squeeze()).save(root / name / f"{index}.png")


@pytest.fixture
def own(tmp_path: Path) -> SimpleNamespace:
    """SAR and ORS images as a user has them, and the overrides that name them."""
    counts = {"cargo": 8, "tanker": 3}
    write_images(tmp_path / "sar/train", counts, "sar")
    write_images(tmp_path / "sar/test", dict.fromkeys(counts, 3), "sar", first=100)
    write_images(tmp_path / "ors/train", dict.fromkeys(counts, 2), "ors")
    named = ["data=imagefolder", "data.root=sar", "ors=imagefolder", "ors.root=ors"]
    return SimpleNamespace(root=tmp_path, overrides=[*named, *SIZES, "data.minor=[tanker]", "seeds=[0]"])


def test_a_study_of_ones_own_images(own: SimpleNamespace, command: Command):
    """By folders and by list file, in one go: the list leaves two images out."""
    listed = [*(f"train/cargo/{i}.png" for i in range(6)), *(f"train/tanker/{i}.png" for i in range(3))]
    (own.root / "sar/some.txt").write_text("\n".join(listed))
    run = command("evaluate", "method=2lora", *own.overrides, "data.train=some.txt")
    assert run.code == 0, run.err
    (file,) = own.root.rglob("result.json")
    content = json.loads(file.read_text())
    assert (content["data"], content["classes"], content["minor"]) == ("imagefolder", ["cargo", "tanker"], ["tanker"])
    assert content["classifier"]["per_class"]["cargo"]["support"]["values"] == [3]
    assert content["fidelity"]["per_class"]["cargo"]["n_real"] == 6
    assert {file.name for file in file.parent.glob("*.png")} >= {"strip_cargo.png", "strip_tanker.png"}


# --- A base of one's own ----------------------------------------------------------------------------------------------


def test_a_base_is_made_from_photographs_and_used(command: Command, tmp_path: Path):
    """Two steps teach nothing; but what they leave is a base like any other."""
    write_images(tmp_path / "photos/train", {"cargo": 3, "tanker": 3}, "regular")
    loops = [
        f"train.base.{part}.{key}={value}"
        for part in ("autoencoder", "unet")
        for key, value in {"max_steps": 2, "warmup_steps": 1, "batch_size": 2}.items()
    ]
    photos = ["regular=imagefolder", "regular.root=photos", "train.base.generic_pictures=10"]
    run = command("train", "stage=base", *TINY, *photos, *loops)
    assert run.code == 0, run.err
    folder = artifact(tmp_path / "logs/store", "base", "sd-nano")
    assert str(folder.relative_to(tmp_path)) in run.out
    assert Base.load(folder).encode_text(["a photo of a cargo"]).isfinite().all()
    used = command("train", "stage=ors", *TINY, f"base.path={folder}")
    assert used.code == 0, used.err
    shipped = command("train", "stage=ors", *TINY)
    assert shipped.code == 0
    made = [inputs(path)["base"] for path in (tmp_path / "logs/store/adapter").glob("ors-*")]
    assert len(made) == len(set(made)) == 2, "an adapter belongs to its base"


# --- Bad input --------------------------------------------------------------------------------------------------------


def refused(run: SimpleNamespace, *said: str, root: Path, allowed: Sequence[str] = ()) -> None:
    """One clear line, exit code 1, nothing half-written, and nothing expensive done before."""
    assert run.code == 1, run.out
    errors = [line for line in run.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, run.err
    assert run.err.rstrip().endswith(errors[0])
    assert "Traceback" not in run.err + run.out
    for words in said:
        assert re.search(words, errors[0]), errors[0]
    store = root / "logs/store"
    for folder in store.glob("[!.]*/[!.]*"):
        assert (folder / "card.json").is_file(), folder
    expensive = {"classifier", "adapter", "partition", "synthetic", "evaluation"} - set(allowed)
    assert not expensive & {folder.name for folder in store.glob("[!.]*") if any(folder.glob("*/card.json"))}
    assert not list(root.rglob("result.json"))


def break_class(root: Path) -> None:
    (root / "sar/train/dredger").mkdir()


def break_image(root: Path) -> None:
    (root / "sar/train/tanker/1.png").write_bytes(b"\x89PNG no image")


def break_mode(root: Path) -> None:
    Image.new("CMYK", (40, 40)).save(root / "sar/train/tanker/0.tif")


def break_colour(root: Path) -> None:
    Image.new("RGB", (40, 40), (200, 10, 10)).save(root / "sar/train/tanker/0.png")


def break_list(root: Path) -> None:
    (root / "sar/list.txt").write_text("train/cargo/0.png\ntrain/cargo/77.png\n")


@pytest.mark.parametrize(
    ("damage", "overrides", "said"),
    [
        (None, ["data.root=nowhere"], ["data.root=nowhere: no such folder"]),
        (None, ["ors.root=nowhere"], ["ors.root=nowhere: no such folder"]),
        (None, ["data.train=trian"], [r"data\.train=trian: no such folder or list file", "there: test/, train/"]),
        (break_class, [], ["sar/train/dredger: class folder of train without images", "fill it or remove it"]),
        (break_image, [], [r"data.max_bad=0.01: 1 of \d+ .*tanker/1.png: cannot be read as an image", "raise it"]),
        (break_mode, [], ["sar/train/tanker/0.tif: image mode CMYK", "convert it to 8-bit grey"]),
        (break_colour, [], ["sar/train/tanker/0.png: a colour image", "channels=3"]),
        (break_list, ["data.train=list.txt"], [r"sar/list.txt, line 2: no file train/cargo/77\.png"]),
        (None, ["data.test=null"], ["data: no test images; set data.test to"]),
        (None, ["data.minor=[tankr]"], ["data.minor", "tankr", "tanker"]),
        (None, ["augment.plan={tankr: 3}"], ["augment.plan", "tankr", "cargo, tanker"]),
        (None, ["data.prompt='a {klass}'"], ["data.prompt='a {klass}'", "{class_name} and {text}"]),
        (None, ["method=plora", "prototypes.k=12"], ["prototypes.k=12: must be between 1 and .* 11"]),
        (None, ["base.path=no/such/base"], ["base.path=no/such/base: no such folder", "set base.path"]),
        (None, ["method=plora", "base.path=no/such/base"], ["base.path=no/such/base: no such folder", "set base.path"]),
        (None, ["method=plora", "data.prompt='a {klass}'"], ["data.prompt='a {klass}'"]),
        (None, ["base.path=someone/something"], ["base.path=someone/something", "set base.path"]),
        (None, ["base.path=sar"], ["base.path=sar: no model_index.json", "set base.path"]),
        (None, ["base=sd15", "base.image_size=32"], ["stable-diffusion-v1-5", "download", "set base.path"]),
        (None, ["paths.store=sar/train/cargo/0.png"], ["paths.store=.* cannot be written", "choose another"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_line(own: SimpleNamespace, command: Command, damage, overrides: list[str], said: list[str]):
    if damage:
        damage(own.root)
    method = [] if any(one.startswith("method=") for one in overrides) else ["method=2lora"]
    refused(command("evaluate", *own.overrides, *method, *overrides), *said, root=own.root)


@pytest.mark.parametrize("name", ["augment.plan={tankr: 3}", "data.minor=[tankr]"])
def test_names_of_classes_are_checked_before_any_image_is_opened(own: SimpleNamespace, command: Command, name: str):
    assert command("evaluate", *own.overrides, "method=none", name).code == 1
    assert not (own.root / "logs/store").exists()


def test_an_adapter_of_another_size_than_its_card_says_is_one_line(copied: Path, command: Command, tmp_path: Path):
    other = tiny_base()
    folder = artifact(copied, "adapter", "ors")
    adapter_files.save(adapters.fresh(other.unet, AdapterSpec(16, r".*\.attn1\.to_q"), 0), folder / WEIGHTS)
    run = command("generate", "method=2lora", *TINY, "seed=0", "generate.guidance_scale=1")
    made_before = ["classifier", "adapter", "partition", "synthetic", "evaluation"]
    refused(run, f"{folder.name} is not whole", "makes it anew", root=tmp_path, allowed=made_before)


def test_a_damaged_adapter_file_is_refused_before_anything_is_trained(command: Command, tmp_path: Path):
    file = tmp_path / "elsewhere.safetensors"
    file.write_bytes(b"no adapter")
    run = command("generate", "method=2lora", *TINY, f"adapter.path={file}")
    assert run.code == 1
    assert run.err.count("error: ") == 1
    assert file.name in run.err
    left = {entry.parent.name for entry in (tmp_path / "logs/store").glob("*/*")}
    assert left <= {"cache", ".locks"}, "no ORS adapter, and no half of a set"


def test_a_method_without_synthetic_images_generates_none(command: Command, tmp_path: Path):
    refused(command("generate", "method=resample", *TINY), "method=resample makes no synthetic images", root=tmp_path)


def test_a_refusal_of_a_script_is_exit_code_one(own: SimpleNamespace):
    run = run_script("evaluate", own.root, *own.overrides, "method=2lora", "base.path=no/such/base")
    refused(SimpleNamespace(code=run.returncode, out=run.stdout, err=run.stderr), "base.path", root=own.root)


def test_scales_outside_the_range_warn_and_go_on(copied: Path, command: Command):
    few = ["generate.per_class=1", "augment.plan={}"]
    run = command("generate", "method=2lora", *TINY, *few, "generate.scales=[1.2,1.0]")
    assert run.code == 0, run.err
    assert "warning: " in run.out
    assert "2.2 lies outside (0.5, 2)" in run.out


def test_prototypes_of_the_base_need_no_classifier(command: Command, tmp_path: Path):
    run = command("train", "stage=prototypes", "prototypes.features=base", *TINY)
    assert run.code == 0, run.err
    store = tmp_path / "logs/store"
    assert not (store / "classifier").exists()
    made = artifact(store, "partition", "prototypes-2")
    assert inputs(made) == {"latents": artifact(store, "cache", "sim-sar-latents").name.rpartition("-")[2]}
    counts = np.array(list(json.loads((made / "partition.json").read_text())["counts"].values()))
    assert counts.sum(axis=1).tolist() == list(COUNTS.values())
    assert (counts.sum(axis=0) > 0).all()


# --- Logging ----------------------------------------------------------------------------------------------------------


def test_csv_is_the_logger_by_default(study: SimpleNamespace):
    """A training of three steps logs no loss yet; the final figures are there, and the configuration."""
    files = list(study.sweep.rglob("metrics.csv"))
    assert len(files) == len(METHODS)
    assert len(list(study.sweep.rglob("hparams.yaml"))) == len(METHODS)


def test_wandb_has_a_run_a_job_and_one_of_the_sweep(copied: Path, command: Command, tmp_path: Path):
    run = command(
        "evaluate", "-m", "method=lora,2lora", *TINY, "train.sar.max_steps=10", "evaluate.baseline=lora",
        "logger=wandb", "logger.offline=true", "logger.artifacts=files", "preview.every=5", "preview.prompts=2",
    )  # fmt: skip
    assert run.code == 0, run.err
    (sweep,) = (tmp_path / "logs/sweeps/evaluate").iterdir()
    runs, results = [], {"result-lora-sim", "result-2lora-sim"}
    for job in ("0", "1", "wandb"):
        found = records(sweep / job)
        about = next(record.run for record in found if record.WhichOneof("record_type") == "run")
        runs.append((about.run_group, about.display_name, about.job_type))
        keys, summary = logged(found, "history"), logged(found, "summary")
        artifacts = [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
        artifacts = {one.name: one for one in artifacts if one.type != "run_table"}
        kinds = {one.type: one for one in artifacts.values()}
        assert summary.keys() >= {"macro_f1", "minor_f1", "accuracy"} and "macro_f1" not in keys
        if job == "wandb":
            assert {"sweep/1_gains", "sweep/2_results", "sweep/3_report"} <= set(keys)
            assert "report.html" in {entry.path for entry in kinds["report"].manifest.contents}
            assert {name for name, one in artifacts.items() if one.use_after_commit} == results
            continue
        shown = {"sar/samples", "images/1_real_vs_synthetic", "images/2_strip_tanker"}
        assert {"sar/loss", "sar/step", "scores/1_results", "scores/2_per_class", "scores/3_confusion_table"} <= set(
            keys
        )
        assert shown <= set(keys)
        assert any("lr" in key for key in keys)
        drawn = captions(found, "sar/samples")
        assert len(drawn) == 2 and set(drawn) < {f"a SAR image of {name} ship" for name in COUNTS}, "not `paper`"
        assert len(list((sweep / job / "previews/sar").glob("*.png"))) == 4, "two captions, at two steps"
        assert kinds["base"].use_after_commit and not kinds["result"].use_after_commit
        content = {entry.path for entry in kinds["synthetic"].manifest.contents}
        assert {"metadata.jsonl", "images/tanker/000000.png"} <= content
        assert WEIGHTS in {entry.path for entry in kinds["adapter"].manifest.contents}
        assert [entry.path for entry in kinds["evaluation"].manifest.contents] == ["card.json"]
        fingerprints = {name.rpartition("-")[2] for name in artifacts}
        assert set(json.loads(kinds["synthetic"].metadata)["inputs"].values()) <= fingerprints, "down to the base"
        assert {"method", "seed", "base"} <= set(logged(found, "config"))
    (group,) = {group for group, _, _ in runs}
    assert re.fullmatch("sim method [0-9a-f]{6}", group)
    names = [(f"{name}-sim", "evaluate") for name in ("lora", "2lora")] + [(f"sweep {group}", "sweep")]
    assert [about for _, *about in runs] == [list(name) for name in names]


def test_a_logger_that_raises_stops_nothing(study: SimpleNamespace, command: Command, copied: Path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(CSVLogger, "log_metrics", fail)
    run = command("evaluate", "method=lora", *TINY, "train.sar.max_steps=10", "seeds=[0]")
    assert run.code == 0, run.err
    assert run.out.count("logging stopped: OSError: disk full") == 1
    assert "method" in run.out and "lora" in run.out

"""Bad inputs and broken machines: one line that names file or key and a remedy, exit code 1, nothing half-made."""

import errno
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image
from processes import run, run_script
from safetensors.torch import save_file
from test_conf import compose, settings
from test_denoising import fit
from test_store import make

from sarsynth import cli, files, tracking
from sarsynth.captions.templates import caption
from sarsynth.commands.faults import told
from sarsynth.commands.summary import Summary
from sarsynth.config.checks import check
from sarsynth.config.composition import check_jobs
from sarsynth.config.hydra_internals import parse_arguments, parse_override, quoted
from sarsynth.config.schema import Paths
from sarsynth.data.class_names import check_name, file_names
from sarsynth.data.readers.manifest import Manifest
from sarsynth.errors import ERROR_FILE, UserError
from sarsynth.evidence.results import RESULT, RESULT_VERSION
from sarsynth.files import staged
from sarsynth.report.jobs import read_jobs
from sarsynth.report.pictures import strip
from sarsynth.report.style import styled
from sarsynth.stages.open_images import built
from sarsynth.stages.score_classifiers import check_tested
from sarsynth.store.building import Store
from sarsynth.training.fitting import CHECKPOINT

ODD = ("ZSU-23/4", "[/]", "x" * 250, "$x_1^$", "Cargo", "cargo", "a:b", "e\u0301tage", "li\nne")

# --- The command line -------------------------------------------------------------------------------------------------

REFUSED: list[tuple[list[str], str]] = [
    (["--help", "foo"], "--help foo: no group of options; the nearest is contours"),
    (["--help", "method=foo"], "method=foo is not an option of method; the nearest is "),
    (["--cfg", "job", "data=foo"], "data=foo is not an option of data"),
    (["--cfg", "job", "seed=1,2"], "seed=1,2 is a sweep"),
    (["-m", "--cfg", "hydra"], "--multirun and --cfg do not go together"),
    (["--resolve"], "--resolve goes with --cfg"),
    (["--config-name", "nowhere"], "--config-name nowhere: evaluate.py has one configuration"),
    (["--config-path", "nowhere"], "--config-path nowhere: evaluate.py has one configuration"),
    (["seed=glob(*)"], r"seed=glob\(\*\) is a sweep"),
    (["-m", "seed=glob(*)"], r"seed=glob\(\*\) gives no values to sweep over: there is no such value"),
    (["-m", "seed=interval(0,1)"], r"seed=interval\(0,1\) gives no values to sweep over"),
    (["method=null"], "method=null names no option of method; the nearest is "),
    (["data=3"], "data=3 names no option of data; the nearest is "),
    (["data=/tmp/foo"], "data=/tmp/foo is not an option of data.*: data=imagefolder data.root=/tmp/foo$"),
    (["seeds=3"], r"seeds=3 should be a list: 'seeds=\[3\]'"),
    (["trainer.max_epochs=3"], "unknown key trainer.max_epochs; the nearest is trainer.*train.STAGE.max_steps"),
    (["data=imagefolder", "data.root=/no where"], "data.root=/no where: no such folder"),
    (["data=imagefolder", "data.root="], "data.root is empty"),
    (["data=imagefolder", "data.root=2024"], "data.root=2024: no such folder"),
    (["data=imagefolder", "data.root=nan"], "data.root=nan: no such folder"),
    (["data=imagefolder", "data.root=[a]"], r"data.root=\['a'\] should be a text; .* is quoted: 'data.root="),
    (["data=imagefolder", "data.root=true"], "data.root=True should be a text"),
    (["data=imagefolder", "data.root=.", "data.crop=wide"], "data.crop=wide should be a whole number"),
    (["data=imagefolder", "data.root=/a(b"], r"data.root=/a\(b cannot be read .*is quoted: 'data.root=\"/a\(b\"'"),
    (["evaluate.baseline=nonee"], "evaluate.baseline=nonee is not an option of method; the nearest is none"),
    (["data.prompt='a {klass}'"], r"data.prompt='a {klass}': {klass} is none of ours; only {class_name} and {text}"),
    (["data.prompt='{class_name.__class__}'"], "data.prompt='{class_name.__class__}': "),
    (["data.prompt='{class_name:>99999999}'"], "data.prompt=.*with a form is none of ours"),
    (["data.prompt='{class_name'"], "data.prompt='{class_name': .*only {class_name} and {text} can stand in braces"),
    (["data.prompt={cargo: '{x}', default: a}"], "data.prompt.cargo='{x}'"),
    (["adapter.patterns.release='*('"], r"adapter.patterns: release='\*\(' is no regular expression"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_a_command_line_is_refused_in_one_line(words, message: str, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main("evaluate")
    output = capsys.readouterr()
    assert (stop.value.code, output.out) == (1, "")
    assert len(output.err.splitlines()) == 1
    assert re.match(f"error: .*{message}", output.err), output.err


def test_a_quoted_text_is_taken_as_it_is():
    for text in ("/a(b", "/a b, c", "[x", 'say "a"', "it's", "a=b", "back\\slash", "end\\"):
        (word,) = shlex.split(quoted(f"data.root={text}"))
        assert parse_override(word).value() == text


def test_numbers_are_texts_where_texts_are_due(tmp_path: Path):
    table = tmp_path / "2024"
    table.mkdir()
    own = settings(
        "data=manifest", f"data.root={table}", "paths.store=7", "data.minor=[1]", "+prompt.wordings.data.a=3"
    )
    assert (own.paths.store, own.data.minor) == ("7", ("1",))
    assert settings("data=manifest", "data.root=2024").data.reader.arguments["root"] == "2024"


def test_a_baseline_may_be_a_method_of_ones_own(tmp_path: Path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mine.yaml").write_text("defaults: [lora, _self_]\nname: mine\n")
    words = ["--config-dir", str(tmp_path), "method=lora", "evaluate.baseline=mine"]
    ((own, _),) = check_jobs("evaluate", parse_arguments(words))
    assert own.evaluate.baseline == "mine"


def test_a_file_of_options_that_is_not_utf8_is_named(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mine.yaml").write_bytes("name: tä".encode("latin-1"))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--config-dir", str(tmp_path), "method=mine"])
    with pytest.raises(SystemExit):
        cli.main("evaluate")
    assert f"{tmp_path}/method/mine.yaml: not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["torch.nn.Identity", "sarsynth.store.building.Store"])
def test_a_class_of_another_kind_is_not_called(target: str):
    composed = compose("evaluate", "data=manifest", "data.root=.")
    named = check(composed).data.reader.model_copy(update={"target": target, "options": {}})
    with pytest.raises(UserError, match=f"^data._target_={target}, without `records`: it is no reader of images"):
        built("data", named)


@pytest.mark.parametrize("keys", [["hydra.run.dir=/proc/nowhere"], ["paths.logs=/proc/nowhere"]])
@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_folder_for_logs_that_cannot_be_made_is_named(keys, mode, monkeypatch, capsys):
    if mode:
        keys = [key.replace("run", "sweep") for key in keys]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *mode, "method=none", *keys])
    with pytest.raises(SystemExit) as stop:
        cli.main("evaluate")
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1
    assert line.startswith(f"error: {keys[0]}") and "choose another folder" in line


# --- Names of classes -------------------------------------------------------------------------------------------------


def test_files_of_classes_have_names_that_any_file_system_takes():
    names = file_names(ODD)
    assert list(names) == list(ODD) and len({name.casefold() for name in names.values()}) == len(ODD)
    for name in names.values():
        assert re.fullmatch(r"[\w$^ ().+-]{1,70}", name) and name not in (".", "..")
    plain = ["cargo", "T72", "roll on", "Ölschiff", "[red]tug", "a.b"]
    assert file_names(plain) == dict(zip(plain, plain, strict=True)), "what is fine stays as it is"


@pytest.mark.parametrize("name", ["../../outside", "/abs", ".", "..", "a/../b", "\\\\host", "x\0y", "bell\a", "  "])
def test_a_class_that_is_a_path_or_no_text_is_refused(name: str):
    with pytest.raises(UserError, match=r"^table, line 3: .* is no name of a class: .*; give it another$"):
        check_name(name, "table, line 3")


def table(folder: Path, names: tuple[str, ...]) -> Path:
    rng = np.random.default_rng(0)
    rows = ["path,class,split"]
    for label, name in enumerate(names):
        for split, count in (("train", 3), ("test", 1)):
            for index in range(count):
                file = f"{split}-{label}-{index}.png"
                Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(folder / file)
                quoted_name = name.replace('"', '""')
                rows.append(f'{file},"{quoted_name}",{split}')
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


def test_a_table_names_the_line_of_a_class_that_is_refused(tmp_path: Path):
    about = {"manifest": None, "val": None, "test": None, "split_seed": 0, "size": None, "crop": None}
    about |= {"margin": 0, "rotate": False}
    with pytest.raises(UserError, match=r"manifest.csv, line 6: '\.\./x' is no name of a class: it is a path"):
        Manifest(table(tmp_path, ("cargo", "../x")), channels=1, **about)


def test_images_of_classes_of_any_name(tmp_path: Path):
    few = ("base.image_size=32", "train.sar.max_steps=1", "train.ors.max_steps=1", "ors.train=1", "prototypes.k=2")
    few += ("train.sar.batch_size=2", "train.ors.batch_size=2", "generate.per_class=1", "train.micro_batch=64")
    few += ("generate.num_inference_steps=1", "generate.guidance_scale=1")
    where = ("data=manifest", f"data.root={table(tmp_path, ODD)}")
    done = run_script("generate", tmp_path, "method=lora", *where, *few)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("ZSU-23/4", "[/]", "$x_1^$", "Cargo", "cargo", "a:b"):
        assert name in done.stdout, "in the table of counts, in full"
    (made,) = (tmp_path / "logs/store/synthetic").iterdir()
    rows = [json.loads(line) for line in (made / "metadata.jsonl").read_text().splitlines()]
    assert sorted({row["class_name"] for row in rows}) == sorted(ODD)
    assert all((made / row["file_name"]).is_file() for row in rows)
    assert not [file for file in made.rglob("*.png") if file.parents[2] != made], "one folder a class"
    (result,) = (tmp_path / "logs/runs/generate").iterdir()
    assert len(list(result.glob("strip_*.png"))) == len(ODD)
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "logs").rglob("*") if file.is_file()}
    assert modes == {0o666 & ~files.UMASK}, "safetensors' own is 0600, which shuts others out"


def test_pictures_and_plots_take_such_names():
    images = np.zeros((1, 2, 1, 8, 8), np.uint8)
    for name in ODD:
        strip(images, [0, 1], title=f"lora: {name}")

    @styled
    def draw():
        figure = Figure()
        figure.subplots().set_title("$x_1^$")
        return figure

    draw()


def test_one_class_alone_is_not_scored(monkeypatch):
    monkeypatch.setattr("sarsynth.stages.score_classifiers.classes", lambda _: ["ship"])
    with pytest.raises(UserError, match="^data: ship is the only class"):
        check_tested(SimpleNamespace())


# --- The store --------------------------------------------------------------------------------------------------------


def fill(folder: Path) -> None:
    save_file({"a": torch.zeros(9)}, folder / "a.safetensors")
    (folder / "rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n')


@pytest.mark.parametrize("name", ["a.safetensors", "rows.jsonl", "card.json"])
@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_an_artifact_that_is_not_whole_is_named_when_it_is_reused(name: str, content, tmp_path: Path):
    made = make(Store(tmp_path), fill)
    (made.path / name).write_bytes((made.path / name).read_bytes()[:-5] if content is None else content)
    with pytest.raises(UserError, match=rf"{made.path}.*; remove {made.path} and run again"):
        make(Store(tmp_path), fill)
    shutil.rmtree(made.path)
    assert make(Store(tmp_path), fill).complete


def test_a_file_that_is_as_long_and_still_damaged_is_found_where_reading_fails(tmp_path: Path):
    store = Store(tmp_path)
    made = make(Store(tmp_path), fill)
    make(store, fill)
    size = (made.path / "a.safetensors").stat().st_size
    (made.path / "a.safetensors").write_bytes(b"\0" * size)
    paths = Paths(logs=str(tmp_path), store=str(tmp_path))
    with (
        pytest.raises(UserError, match=r"a.safetensors cannot be read \(.*; remove .* and run again"),
        told(paths, store),
    ):
        raise KeyError("what a reader of it fails of")
    with pytest.raises(ZeroDivisionError), told(paths, Store(tmp_path / "other")):
        _ = 1 / 0


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/3"),
        RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),
    ],
)
def test_a_full_disk_names_the_keys_and_the_room(error: Exception, tmp_path: Path):
    with pytest.raises(UserError) as one, told(Paths(logs=str(tmp_path), store=str(tmp_path / "not yet"))):
        raise ValueError("around it") from error
    assert re.match(rf"paths.store={tmp_path}/not yet has [\d.]+ \wB free and paths.logs=", str(one.value))
    assert "make room or choose another" in str(one.value)


def _limited(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    with pytest.raises(UserError, match="File too large|no space left"), told(Paths(logs="/", store=str(folder))):
        make(Store(folder), lambda place: save_file({"a": torch.zeros(9000)}, place / "a.safetensors"))
    with pytest.raises(OSError), staged(folder / "draft") as draft:
        draft.write_bytes(bytes(9000))
    left = [path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    assert set(left) <= {"a.safetensors", ".attempts.json"}, left


def test_a_disk_that_is_full_leaves_no_draft(tmp_path: Path):
    assert run(_limited, tmp_path) == 0
    assert make(Store(tmp_path), fill).complete, "once there is room"


def _as_nobody(folder: Path) -> None:
    if os.getuid() == 0:
        os.setuid(65534)
    with pytest.raises(UserError, match=r"paths.store=.* cannot be written \(Permission denied\), and adapter/ors"):
        make(Store(folder))


def test_a_store_that_may_only_be_read_is_named(tmp_path: Path):
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_uid == os.getuid() and place != Path("/tmp") and "pytest" in str(place):
            place.chmod(0o755)
    for name in (".locks", "adapter"):
        (tmp_path / name).mkdir(mode=0o555)
    assert run(_as_nobody, tmp_path) == 0


def test_a_store_that_is_removed_while_it_is_used_is_named(tmp_path: Path):
    def lost(folder: Path) -> None:
        shutil.rmtree(tmp_path / "store")
        (folder / "note").write_text("")

    with pytest.raises(UserError, match="was removed while it was being made; run again"):
        make(Store(tmp_path / "store"), lost)


def test_modes_follow_the_umask(tmp_path: Path):
    with staged(tmp_path / "a.safetensors") as draft:
        save_file({"a": torch.zeros(9)}, draft)
    made = make(Store(tmp_path), fill)
    for file in (tmp_path / "a.safetensors", *made.path.iterdir()):
        assert file.stat().st_mode & 0o777 == 0o666 & ~files.UMASK


# --- Trainings --------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_cut_short_begins_the_training_again(tmp_path: Path, capsys):
    whole = fit()
    with pytest.raises(KeyboardInterrupt):  # Lightning would end the process with code 1, and no word
        fit(checkpoints=tmp_path, checkpoint_every=2, callbacks=[Interrupt()])
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:-100])
    again = fit(checkpoints=tmp_path, checkpoint_every=2)
    assert f"{file} is damaged" in capsys.readouterr().out
    for one, other in zip(whole.values(), again.values(), strict=True):
        assert torch.equal(one.a, other.a)


class Interrupt(Callback):
    """Ctrl-C in the fourth step."""

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == 4:
            raise KeyboardInterrupt


# --- What is printed --------------------------------------------------------------------------------------------------

PRINT = "from sarsynth.console import console\nfor n in range(3000): console.print('± 船', n)\nopen('end', 'w').close()"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_signs_gets_replacements(encoding: str, tmp_path: Path):
    about = {"cwd": tmp_path, "env": os.environ | {"PYTHONIOENCODING": encoding}, "capture_output": True}
    shown = subprocess.run([sys.executable, "-c", PRINT], check=True, **about)
    assert shown.stderr == b"" and shown.stdout.decode(encoding).startswith({"ascii": "? ? 0"}.get(encoding, "± ? 0"))


def test_a_reader_who_leaves_takes_no_study_with_them(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", PRINT], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0 and (tmp_path / "end").exists()


def test_templates_hold_plain_names_alone():
    with pytest.raises(UserError, match="prompt='{class_name:>9}': {class_name} with a form is none of ours"):
        caption("{class_name:>9}", "cargo")
    assert caption("{{a}} {class_name}", "cargo") == "{a} cargo"


def test_a_server_of_wandb_that_is_not_there_is_told_in_seconds(monkeypatch):
    def nobody(url, timeout):
        assert timeout <= 5
        raise OSError("Network is unreachable")

    monkeypatch.setattr(tracking, "urlopen", nobody)
    with pytest.raises(UserError, match="cannot be reached .*; logger.offline=true"):
        tracking.reach_wandb()


# --- Sweeps -----------------------------------------------------------------------------------------------------------


def job(sweep: Path, number: int, **written: str) -> None:
    folder = sweep / str(number)
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text(written.pop("overrides", "- method=none\n"))
    for name, text in written.items():
        (folder / {"error": ERROR_FILE, "result": RESULT}[name]).write_text(text)


def test_a_job_that_failed_after_its_result_is_a_failed_job(tmp_path: Path):
    job(tmp_path, 0, result=json.dumps({"version": RESULT_VERSION, "method": "none"}), error="disk full\n")
    (one,) = read_jobs(tmp_path)
    assert one.result is None and not one.is_scored
    assert one.error == "disk full (after it had written result.json, which is not shown)"


@pytest.mark.parametrize("content", ["- [", "a: 3", "\0"])
def test_a_damaged_record_of_a_job_is_named_and_ends_a_sweep_with_1(content: str, tmp_path: Path, capsys):
    job(tmp_path, 0, overrides=content)
    paths = {"hydra": {"sweep": {"dir": str(tmp_path)}}, "paths": {"store": str(tmp_path / "store")}}
    about = OmegaConf.create(paths | {"notice": None, "logger": None})
    with pytest.raises(SystemExit) as stop:
        Summary().on_multirun_end(about)
    assert stop.value.code == 1
    assert "0/.hydra/overrides.yaml" in capsys.readouterr().err

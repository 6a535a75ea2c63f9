"""The configuration: every option composes and is checked; whatever is wrong is refused early, in one line."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from sarsynth import cli
from sarsynth.config import composition
from sarsynth.config.checks import check, scale_warning
from sarsynth.config.components import Component
from sarsynth.config.hydra_internals import parse_arguments, side_by_side
from sarsynth.config.schema import Settings
from sarsynth.config.signatures import signature
from sarsynth.errors import UserError

ROOT = Path(__file__).parents[1]
SCRIPTS = ("train", "generate", "evaluate")
GROUPS = (
    "base",
    "data",
    "ors",
    "regular",
    "radiometry",
    "prompt",
    "method",
    "contours",
    "classifier",
    "augment",
    "filter",
    "sampler",
    "trainer",
    "logger",
    "paths",
    "experiment",
    "sweep",
)
OF_BASE = ("adapter", "train", "generate")  # chosen with the base
OPTIONS = [(group, file.stem) for group in GROUPS for file in sorted((composition.CONF / group).glob("*.yaml"))]


def compose(script: str, *overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(composition.CONF), version_base="1.3"):
        composed = hydra.compose(script, list(overrides))
        with contextlib.suppress(InterpolationResolutionError):  # left for `check` to tell
            OmegaConf.resolve(composed.method)  # what a control repeats is composed too
        return composed


def settings(*overrides: str) -> Settings:
    return check(compose("evaluate", *overrides))


def needed(group: str, option: str) -> list[str]:
    """The override that chooses an option, and those that this choice makes necessary."""
    root = [f"{group}.root=images"] if group in ("data", "ors", "regular") and not option.startswith("sim") else []
    model = ["prompt.model=any"] if (group, option) == ("prompt", "llm") else []
    return [f"{group}={option}", *root, *model]


def test_every_group_is_tested():
    folders = {path.name for path in composition.CONF.iterdir() if path.is_dir()}
    assert folders == {*GROUPS, *OF_BASE, "hydra"}
    assert {path.stem for path in composition.CONF.glob("*.yaml")} == {*SCRIPTS, "study"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_shares_the_groups(script):
    """So that an option which composes in one of them composes in all."""
    assert OmegaConf.load(composition.CONF / f"{script}.yaml").defaults == ["study", "_self_"]
    assert check(compose(script, *(["stage=sar"] if script == "train" else []))).method.name == "plora"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_its_target_resolves(group, option):
    composed = settings(*needed(group, option))
    assert json.dumps(composed.model_dump(mode="json")), "settings go into fingerprints, so they must be JSON"
    if group in ("base", "data", "ors", "regular", "prompt", "method", "contours"):
        assert getattr(composed, group).name == option, "an option is named after its file"
    part = getattr(composed, group, None)
    component = getattr(part, "reader", getattr(part, "describer", part))
    if isinstance(component, Component):
        assert callable(component.load())
        assert {parameter.name for parameter in signature(component.target)} >= set(component.options)


@pytest.mark.parametrize("base", ["sd-nano", "sd15"])
def test_a_base_chooses_what_goes_with_it(base):
    with hydra.initialize_config_dir(str(composition.CONF), version_base="1.3"):
        choices = hydra.compose("evaluate", [f"base={base}"], return_hydra_config=True).hydra.runtime.choices
    assert {choices[group] for group in (*OF_BASE, "contours/edges@contours")} == {base}


def test_trainings_of_one_base_go_with_another_if_so_chosen():
    mixed, whole = settings("train=sd15"), settings("base=sd15")
    assert (mixed.base.name, mixed.train) == ("sd-nano", whole.train.model_copy(update={"sar": mixed.train.sar}))
    assert mixed.train.sar == whole.train.sar.model_copy(update={"scale_below": mixed.generate.scales[0]})


@pytest.mark.parametrize("stage", ["data", "base", "ors", "classifier", "prototypes", "sar", "controlnet"])
def test_every_stage_composes(stage):
    assert check(compose("train", f"stage={stage}")).stage == stage


def test_the_callback_of_sweeps_resolves():
    with hydra.initialize_config_dir(str(composition.CONF), version_base="1.3"):
        record = hydra.compose("evaluate", return_hydra_config=True).hydra
    for callback in record.callbacks.values():
        assert callable(Component.model_validate(dict(callback)).load())


def test_the_demo_is_a_sweep_over_every_method_so_far():
    with hydra.initialize_config_dir(str(composition.CONF), version_base="1.3"):
        record = hydra.compose("evaluate", ["experiment=demo"], return_hydra_config=True).hydra
    assert record.sweeper.params.method.split(",") == ["lora", "2lora", "plora", "none", "resample"]


def test_the_demo_runs_two_jobs_at_once_unless_told_otherwise():
    def at_once(*overrides: str) -> int:
        with hydra.initialize_config_dir(str(composition.CONF), version_base="1.3"):
            record = hydra.compose("evaluate", ["experiment=demo", *overrides], return_hydra_config=True).hydra
        return side_by_side(record)

    assert at_once() == 2
    assert at_once("hydra/launcher=basic") == 1
    assert at_once("hydra.launcher.n_jobs=3") == 3


def test_the_smoke_test_is_the_demo_in_small_and_says_so():
    demo, smoke = settings("experiment=demo"), settings("experiment=smoke")
    assert smoke.notice and "mean nothing" in smoke.notice and demo.notice is None
    assert {key for key in Settings.model_fields if getattr(smoke, key) != getattr(demo, key)} <= {
        *(
            "notice",
            "seeds",
            "base",
            "data",
            "ors",
            "regular",
            "train",
            "prototypes",
            "generate",
            "classifier",
            "evaluate",
        )
    }
    with hydra.initialize_config_dir(str(composition.CONF), version_base="1.3"):
        records = [
            hydra.compose("evaluate", [f"experiment={name}"], return_hydra_config=True).hydra
            for name in ("demo", "smoke")
        ]
    assert records[0].sweeper.params == records[1].sweeper.params, "all its methods"


@pytest.mark.parametrize("experiment", ["table2", "table3"])
def test_the_papers_tables_keep_to_the_paper(experiment: str):
    composed = settings(f"experiment={experiment}")
    assert (composed.augment.plan, composed.augment.share, composed.augment.classes) == ("double", 0.5, "minor")


def test_a_sweep_over_the_share_goes_with_the_demo():
    composed = settings("experiment=demo", "sweep=synthetic_ratio")
    assert (composed.augment.plan, composed.augment.classes) == ("balance", "minor")


def test_sar_adapters_of_the_embedded_base_alone_learn_in_the_loop():
    nano, sd15 = (settings(f"base={name}").adapter for name in ("sd-nano", "sd15"))
    assert (nano.contours, nano.sampling, sd15.contours, sd15.sampling) == ("frozen", "balanced", "none", "uniform")


@pytest.mark.parametrize("baseline", ["none", "resample", "weighted", "2lora", "plora", "scratch"])
def test_a_control_is_the_row_of_the_baseline_with_other_seeds(baseline: str):
    row, control = settings(f"method={baseline}").method, settings("method=control", f"evaluate.baseline={baseline}")
    assert control.method == row.model_copy(update={"name": "control", "seed_offset": 1000})
    assert settings("method=control", f"evaluate.baseline={baseline}", "method.adds=real").method.adds == "real"


# --- Refusals ---------------------------------------------------------------------------------------------------------

REFUSED = [
    (["metod=lora"], "unknown key metod; the nearest is method"),
    (["train.sar.learning_rte=1"], "unknown key train.sar.learning_rte; the nearest is train.sar.learning_rate"),
    (["method=control", "evaluate.baseline=resampel"], "resampel is not an option of method; the nearest is resample"),
    (["method=control", "evaluate.baseline=null"], "name one there, not a control or null"),
    (["method=control", "evaluate.baseline=control"], "a control repeats the row that evaluate.baseline names"),
    (["+data.rot=images"], "unknown key data.rot; the nearest is data."),
    (["+generate.per_clas=3"], "unknown key generate.per_clas; the nearest is generate.per_class"),
    (["+trainer.acelerator=cpu"], "unknown key trainer.acelerator; the nearest is trainer.accelerator"),
    (["trainer.precision=17"], "trainer.precision=17 is not a value of trainer.precision; the nearest is 16-mixed"),
    (["trainer.precision=bf16-true"], "is not a value of trainer.precision; the nearest is bf16-mixed"),
    (["trainer.strategy=fsdp"], "trainer.strategy=fsdp is not a value of trainer.strategy; the nearest is"),
    (["trainer.devices=foo"], "trainer.devices: foo names no devices; say how many"),
    (["trainer.devices=0"], "trainer.devices: 0 names no devices"),
    (["trainer.devices=[]"], "trainer.devices: .* names no devices"),
    (["trainer.accelerator=gpus"], "trainer.accelerator=gpus is not a value .* the nearest is gpu"),
    *(  # what leaves a training unfinished, repeats its noise, or does it in another precision
        ([f"+trainer.{argument}"], f"unknown key trainer.{argument.partition('=')[0]}; .*follows from the run")
        for argument in (
            *("max_steps=3", "max_time=00:00:01:00", "fast_dev_run=true", "limit_train_batches=2", "overfit_batches=1"),
            *("accumulate_grad_batches=2", "gradient_clip_val=1", "plugins=null", "callbacks=null", "max_epochs=1"),
        )
    ),
    (["logger=wandb", "+logger.tagz=[a]"], "unknown key logger.tagz; the nearest is logger.tags"),
    (["+sampler.timestep_spacing=trailling"], "sampler.timestep_spacing=trailling is not.*the nearest is trailing"),
    (
        ["sampler._target_=diffusers.schedulers.scheduling_ddim.DDIMSchedule"],
        "nearest is .*scheduling_ddim.DDIMScheduler",
    ),
    (
        ["sampler._target_=diffusers.DDIMSchedule"],
        "DDIMSchedule does not exist; the nearest is diffusers.DDIMScheduler",
    ),
    (["sampler.algorithm_type=dpmsolver"], r"sampler.algorithm_type has no value yet .* \+sampler.algorithm_type=dpm"),
    (
        ["+classifier.options.pretrained=true"],
        r"classifier: options.pretrained: say classifier.pretrained=true\|false\|FILE",
    ),
    (["+classifier.options.checkpoint_path=a.pth"], r"classifier: options.checkpoint_path: say classifier.pretrained="),
    (["classifier.options={foo: 1}"], r"classifier.options.foo has no value yet .* \+classifier.options="),
    (["train.ors={max_step: 3}"], "unknown key train.ors.max_step; the nearest is train.ors.max_steps"),
    (["--config-dir", "nosuch"], "--config-dir nosuch: no such folder"),
    (["method=plorra"], "method=plorra is not an option of method; the nearest is plora"),
    (["build=requir"], "build=requir is not a value of build; the nearest is require"),
    (["filter=densty"], "filter=densty is not an option of filter; the nearest is density"),
    (["filter=density", "filter.neighbors=3"], "filter.neighbors|unknown key filter.neighbors"),
    (["fid.preprocess=raw"], "fid.preprocess=raw is not a value of fid.preprocess; the nearest is"),
    (["data.minor=aut"], "data.minor=aut is not a value of data.minor; the nearest is auto"),
    (["augment.plan=tripple"], "augment.plan=tripple is not a value of augment.plan; the nearest is"),
    (["adapter.targets=papper"], "adapter.targets=papper .* the nearest is paper"),
    (["method=augmented", "radiometry=log"], "method=augmented takes grey levels for amplitudes"),
    (["generate.speckle=matched", "radiometry=log"], "generate.speckle=matched takes grey levels for amplitudes"),
    (["generate.speckle=match"], "generate.speckle=match is not a value of generate.speckle; the nearest is matched"),
    (["method.rank=0"], "method.rank=0: input should be greater than or equal to 1"),
    (["method.rank=four"], "method.rank=four: input should be a valid integer"),
    (["prototypes.k=0"], "prototypes.k=0: "),
    (["seeds=[]"], "seeds=.*at least 1 item"),
    (["seeds=[1,1]"], r"seeds=\[1, 1\] should be distinct"),
    (["generate.scales=[1]"], "key generate.scales.1 is missing"),
    (["method.tunes=nothing"], "method: tunes=nothing goes with partition=null"),
    (["data=imagefolder"], "data.root is not set"),
    (["method=lora,2lora"], "method=lora,2lora is a sweep: add -m"),
    (["-m", "method=none,lora,loar"], "method=loar is not an option of method; the nearest is lora"),
    (["-m", "prototypes.k=4,0"], "prototypes.k=0: "),
    (["seed=${sed}"], "seed: Interpolation key 'sed' not found"),
    (["seed=[1"], r"seed=\[1 cannot be read as key=value"),
    (["augment.plan={tanker: -3}"], "augment.plan.tanker=-3: input should be greater than or equal to 0"),
    (["ors=null"], "ors=null names no option of ors; the nearest is "),
    (["data.prompt=relase"], "data.prompt=relase is no wording of prompt.wordings.data; the nearest is release"),
    (["regular.prompt=photo"], "regular.prompt=photo is no wording .* say a template such as"),
    (["prompt=kewords"], "prompt=kewords is not an option of prompt; the nearest is keywords"),
    (["prompt=keywords", "prompt.facts.aspects=[headin]"], "prompt.facts.aspects.0=headin .* nearest is heading"),
    (["prompt=keywords", "ors.flip=horizontal"], "ors.flip=horizontal would turn the headings .* ors.flip=none"),
    (['+prompt.captions.ors="{keywords}"'], "prompt: captions of ors have no keywords; use prompt=keywords"),
    (["prompt=llm"], "prompt.model is not set"),
    (
        ["prompt=llm", "prompt.model=a", "+prompt.retires=1"],
        "unknown key prompt.retires; the nearest is prompt.retries",
    ),
    (["prompt=llm", "prompt.model=a", "prompt.concurrency=0"], "prompt.concurrency: input should be greater than or"),
    (["prompt=llm", "prompt.model=a", "prompt.scope=clas"], "prompt.scope=clas .* the nearest is class"),
    (
        ["prompt=llm", "prompt.model=a", "prompt.turns.system='{klass}'"],
        "prompt.turns.system: .*only {class_name} and {source} and ",
    ),
    (["prompt=llm", "prompt.model=a", "prompt.base_url=http://u:p@host"], "prompt.base_url: say http.*without user"),
    (["hydra.swep.dir=x"], "unknown key hydra.swep.dir; the nearest is hydra.sweep.dir"),
    (["--method", "lora"], "unrecognized arguments: --method"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[" ".join(overrides) for overrides, _ in REFUSED])
def test_refusals_name_the_key_and_the_nearest(overrides, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *overrides])
    with pytest.raises(SystemExit) as stop:
        cli.main("evaluate")
    output = capsys.readouterr()
    assert stop.value.code == 1
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert re.match(f"error: .*{message}", output.err)


def test_the_stage_must_be_said():
    with pytest.raises(
        UserError, match=re.escape("stage is not set; say stage=data|base|ors|classifier|prototypes|sar|controlnet")
    ):
        check(compose("train"))
    with pytest.raises(UserError, match="stage=base cannot make base=sd15"):
        check(compose("train", "stage=base", "base=sd15"))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("method/plora.yaml", "rank:", "rnak:", "unknown key method.rnak; the nearest is method.rank"),
        (
            "generate/sd-nano.yaml",
            "per_class:",
            "per_klass:",
            "unknown key generate.per_klass; the nearest is generate.per_class",
        ),
        (
            "study.yaml",
            "features: classifier",
            "features: clasifier",
            "prototypes.features=clasifier .*nearest is classifier",
        ),
        (
            "study.yaml",
            "method: plora",
            "method: ploar",
            "method=ploar is not an option of method; the nearest is plora",
        ),
        ("trainer/cpu.yaml", "devices:", "device:", "unknown key trainer.device; the nearest is trainer.devices"),
        ("paths/default.yaml", "paths.logs", "paths.lgos", "paths.lgos"),
        ("classifier/small.yaml", "epochs: ", "epochs: [", "small.yaml"),
    ],
)
def test_a_typo_in_a_file_is_refused(file, old, new, message, tmp_path, monkeypatch, capsys):
    shutil.copytree(composition.CONF, tmp_path / "conf")
    text = (tmp_path / "conf" / file).read_text()
    assert old in text
    (tmp_path / "conf" / file).write_text(text.replace(old, new, 1))
    monkeypatch.setattr(composition, "CONF", tmp_path / "conf")
    test_refusals_name_the_key_and_the_nearest([], message, monkeypatch, capsys)


# --- Options and classes of one's own ---------------------------------------------------------------------------------


def of_user(folder: Path, *overrides: str) -> Settings:
    """The settings of `evaluate` with options of one's own in a folder."""
    arguments = parse_arguments(["--config-dir", str(folder), *overrides])
    [(result, _)] = composition.check_jobs("evaluate", arguments)
    return result


HEIR = "defaults: [sd15, _self_]\nname: mine\npath: my/weights\n"
PROFILE = """# @package _global_
defaults: [sd15, _self_]
base: {name: mine, path: my/weights}
train: {sar: {max_steps: 7}}
"""
OWN_TRAINING = "defaults: [sd15, _self_]\nsar: {max_steps: 7}\n"
CHOOSING = "defaults: [sd15, override /train@_global_.train: mine, _self_]\nname: mine\npath: my/weights\n"


@pytest.mark.parametrize(
    ("files", "max_steps"),
    [
        ({"base/mine.yaml": HEIR}, 20000),
        ({"base/mine.yaml": PROFILE}, 7),
        ({"base/mine.yaml": CHOOSING, "train/mine.yaml": OWN_TRAINING}, 7),
    ],
    ids=["inherits", "profile", "brings a training"],
)
def test_a_base_of_ones_own_takes_what_goes_with_another(files, max_steps, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    own, sd15 = of_user(tmp_path, "base=mine"), settings("base=sd15")
    assert own.base == sd15.base.model_copy(update={"name": "mine", "path": "my/weights"})
    assert own.train == sd15.train.model_copy(update={"sar": own.train.sar})
    assert own.train.sar == sd15.train.sar.model_copy(update={"max_steps": max_steps})
    assert (own.adapter, own.contours, own.generate) == (sd15.adapter, sd15.contours, sd15.generate)


def test_a_base_with_nothing_that_goes_with_it_is_told_what_to_say(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/mine.yaml").write_text("{name: mine, path: null, config: null, controlnet: null, image_size: 64}")
    with pytest.raises(UserError, match=r"key adapter.targets is missing; .*begins with `defaults: \[sd15, _self_\]`"):
        of_user(tmp_path, "base=mine")


READER = """
class Reader:
    def __init__(self, root: str, inner: object = None, level: int = 1) -> None:
        self.root, self.inner, self.level = root, inner, level

def reader(root: str) -> Reader:
    return Reader(root)
"""
OWN_DATA = """
name: mine
root: here
prompt: a {class_name}
split: train
minor: auto
flip: none
inner: {deep: [{_target_: own_readers.Reader, root: there}]}
"""


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A folder of options, of which data=mine names a reader in a module of the user's own."""
    (tmp_path / "own_readers.py").write_text(READER)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.yaml").write_text(f"_target_: own_readers.Reader{OWN_DATA}")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_readers", None)


def test_a_reader_of_ones_own_is_built_with_what_it_names_inside(own_data, monkeypatch):
    with pytest.raises(UserError, match="data._target_=own_readers.Reader is of .* SARSYNTH_PACKAGES=own_readers"):
        of_user(own_data, "data=mine")
    monkeypatch.setenv("SARSYNTH_PACKAGES", "other, own_readers")
    own = of_user(own_data, "data=mine", "+data.level=2")
    assert "own_readers" not in sys.modules, "nothing is imported to check it"
    reader = own.data.reader.build()
    (inner,) = reader.inner["deep"]
    assert (reader.root, reader.level, inner.root, inner.level) == ("here", 2, "there", 1)
    assert type(inner) is type(reader) is own.data.reader.load()
    assert own.data.reader.model_dump(by_alias=True) == {
        "_target_": "own_readers.Reader",
        "options": {
            "root": "here",
            "inner": {"deep": [{"_target_": "own_readers.Reader", "root": "there"}]},
            "level": 2,
        },
    }
    with pytest.raises(UserError, match="data._target_=own_readers.reader is a function; name a class"):
        of_user(own_data, "data=mine", "data._target_=own_readers.reader")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data._target_=os.system", "data._target_=os.system is of no .*; nothing of Python itself can be named"),
        ("+data.inner._target_=subprocess.run", "data.inner._target_=subprocess.run is of no package"),
        ("data.inner.deep=[{a: {_target_: builtins.eval}}]", "data.inner.deep.0.a._target_=builtins.eval is of no "),
        (
            "data.inner.deep=[{_target_: own_readers.Reader, rot: 3}]",
            "unknown key data.inner.deep.0.rot; the nearest is data.inner.deep.0.root",
        ),
        (
            "data.inner.deep=[{_target_: own_readers.Reader}]",
            "key data.inner.deep.0.root is missing, which own_readers.Reader needs",
        ),
        ("+data.inner={_target_: null}", "data.inner._target_=None is of no package"),
        *((f"+data._{key}_=true", f"data._{key}_ is a key of Hydra's") for key in ("partial", "args", "recursive")),
        ("+data.inner._convert_=all", "data.inner._convert_ is a key of Hydra's"),
        ("+classifier.options.a={_target_: timm.a}", "classifier: options.a._target_: timm builds the network itself"),
        ("+hydra.callbacks.a={_target_: os.system}", "hydra.callbacks.a._target_=os.system is of no package"),
    ],
)
def test_what_a_configuration_may_not_name_is_refused_at_any_depth(override, message, own_data, monkeypatch):
    monkeypatch.setenv("SARSYNTH_PACKAGES", "own_readers,os")
    with pytest.raises(UserError, match=message):
        of_user(own_data, "data=mine", override)


def test_what_a_class_refuses_is_told_as_it_says_it():
    reader = Component.model_validate({"_target_": "sarsynth.data.readers.mstar.Mstar", "root": "nowhere"})
    with pytest.raises(UserError, match=r"^root=nowhere"):
        reader.build(val=None, split_seed=0, crop=None, channels=1)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_refusal_is_quick_and_leaves_nothing(script, tmp_path):
    body = f"""
import resource, sys
from sarsynth.cli import main
sys.argv = ["{script}.py", "method=lorra"]
try:
    main("{script}")
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print("torch" in sys.modules, used.ru_utime + used.ru_stime)
"""
    run = subprocess.run(
        [sys.executable, "-c", body],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    torch, seconds = run.stdout.split()
    assert run.returncode == 1
    assert run.stderr.startswith("error: method=lorra is not an option of method; the nearest is lora")
    assert torch == "False"
    assert float(seconds) < 3, "processor time; the clock says more on a busy machine"
    assert list(tmp_path.iterdir()) == []


# --- What a run sees --------------------------------------------------------------------------------------------------


def test_a_job_gets_settings_and_a_folder_and_errors_become_one_line(tmp_path):
    body = f"""
import sys, types
from sarsynth.cli import main
from sarsynth.errors import UserError
def run(settings, run_dir, overrides):
    print(settings.method.name, settings.seed, run_dir.relative_to({str(tmp_path)!r}))
    if settings.seed == 1: raise UserError("no such folder")
    if settings.seed == 2: raise KeyboardInterrupt
sys.modules["sarsynth.commands.evaluate"] = types.SimpleNamespace(run=run)
sys.modules["sarsynth.commands.planning"] = types.SimpleNamespace(tell_outlook=lambda *_: None)  # of the first job
sys.argv = ["evaluate.py", *sys.argv[1:]]
main("evaluate")
print("torch" in sys.modules)
"""

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", body, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    single = python("method=lora")
    assert re.fullmatch(r"lora 0 logs/runs/evaluate/[-_\d]+\nFalse\n", single.stdout), single
    sweep = python("-m", "method=lora,2lora")
    assert re.findall(r"^(2?lora) 0 logs/sweeps/evaluate/[-_\d]+/\d$", sweep.stdout, re.M) == ["lora", "2lora"], sweep
    assert sweep.stdout.endswith("False\n"), "the process that starts jobs needs no torch"
    failed = python("seed=1")
    assert (failed.returncode, failed.stderr) == (1, "error: no such folder\n")


def test_so_do_jobs_of_a_sweep_and_a_run_that_is_stopped(tmp_path, monkeypatch, capsys):
    """In this process, which saves starts."""

    def run(settings, run_dir, overrides):
        print(settings.method.name, settings.seed, run_dir.relative_to(tmp_path))
        if settings.seed:
            raise (UserError("no such folder"), KeyboardInterrupt)[settings.seed - 1]

    def called(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
        try:
            cli.main("evaluate")
            code: object = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sarsynth.commands.evaluate", types.SimpleNamespace(run=run))
    code, out, _ = called("experiment=demo", "method=none,lora", "hydra/launcher=basic")
    assert code == 0
    assert re.findall(r"^(\w+) 0 logs/sweeps", out, re.M) == ["none", "lora"], out
    assert called("-m", "seed=0,1")[::2] == (1, "error: #1: no such folder\n")
    assert called("seed=2")[::2] == (130, "stopped; run again to go on\n")


@pytest.mark.parametrize(
    ("overrides", "warns"),
    [
        (["method=2lora", "generate.scales=[0.6,1.0]"], False),
        (["method=2lora", "generate.scales=[1.0,1.0]"], True),
        (["method=plora", "generate.scales=[0.2,0.3]"], True),
        (["method=lora", "generate.scales=[1.0,1.0]"], False),
        (["method=lora", "generate.scales=[0.6,0.5]"], True),
        (["method=none", "generate.scales=[5,5]"], False),
    ],
)
def test_scales_outside_the_papers_range_warn(overrides, warns):
    warning = scale_warning(settings(*overrides))
    assert (warning is not None) == warns
    assert warning is None or warning.startswith("generate.scales")


def test_patterns_of_targets_are_the_papers():
    rows = {
        name: settings(f"adapter.targets={name}").adapter.target_modules
        for name in ("release", "paper", "convolutional")
    }
    block = "down_blocks.0.attentions.1.transformer_blocks.0"
    names = [f"{block}.{a}.{m}" for a in ("attn1", "attn2") for m in ("to_q", "to_k", "to_v", "to_out.0")]
    convolutions = [
        *(f"up_blocks.1.resnets.0.{m}" for m in ("conv1", "conv2", "conv_shortcut")),
        *("down_blocks.0.downsamplers.0.conv", "up_blocks.0.upsamplers.0.conv", "mid_block.resnets.0.conv1"),
    ]
    others = [
        "conv_in",
        "conv_out",
        "time_embedding.linear_1",
        f"{block}.ff.net.0.proj",
        "mid_block.resnets.0.time_emb_proj",
    ]
    matched = {row: {n for n in [*names, *convolutions, *others] if re.fullmatch(rows[row], n)} for row in rows}
    assert matched["release"] == set(names)
    assert matched["paper"] == {f"{block}.attn2.{m}" for m in ("to_q", "to_k", "to_v")}
    assert matched["convolutional"] == {*names, *convolutions}


def test_settings_are_strict_about_signatures():
    names = {parameter.name for parameter in signature("lightning.pytorch.Trainer")}
    assert {"accelerator", "devices", "precision"} <= names
    assert "group" in {parameter.name for parameter in signature("lightning.pytorch.loggers.WandbLogger")}
    with pytest.raises(UserError, match="does not exist; no module diffusrs"):
        signature("diffusrs.schedulers.DDIMScheduler")

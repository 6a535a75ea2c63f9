"""What `--help` prints: a script's own page, or the options of groups. Read from `conf/`, and nothing is composed.

What an option is stands at the head of its file, so that options in a folder of one's own (`--config-dir`) are shown
like ours.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sarsynth.errors import UserError, nearest
from sarsynth.program import command

CONF = Path(__file__).parents[1] / "conf"
WIDTH = 120  # columns, at most
GROUPS = {  # what people choose; other folders of conf/ are chosen with these
    "method": "how minor classes get more images",
    "data": "SAR images",
    "ors": "aerial images, optical remote sensing, for the view from above",
    "regular": "photographs, for stage=base and ControlNets",
    "base": "frozen diffusion model",
    "contours": "what images follow beside text",
    "augment": "how many images join, and of which classes",
    "filter": "which synthetic images may join",
    "classifier": "what is scored",
    "radiometry": "how SAR pixels become grey levels",
    "prompt": "how captions come about",
    "sampler": "how images are sampled",
    "trainer": "where it computes",
    "logger": "where scalars and pictures go",
    "experiment": "jobs of a published table or figure, or the demo",
    "sweep": "jobs over one setting",
    "hydra/launcher": "how the jobs of a sweep run",
}
OF_HYDRA = {  # launchers that are no files of ours
    "basic": "One after the other.",
    "joblib": "Several at once in processes of this machine: hydra.launcher.n_jobs, by default one a core.",
}
STAGES = {
    "data": "nothing is made: report.html and health.json about all images",
    "base": "the small base, from photographs",
    "ors": "the view from above: an adapter on aerial images",
    "classifier": "the study's own classifier",
    "prototypes": "clusters of the training images",
    "sar": "what the method tunes on SAR images: its adapters, or a U-Net",
    "controlnet": "a ControlNet",
}
KEYS = {  # those that people set most
    "data.root": "folder of the SAR images; data.train and data.test say which of them, as folders or list files",
    "data.prompt": "what captions say, such as 'data.prompt=\"a SAR image of a {class_name} vehicle\"'",
    "data.minor": "the classes that lack images; auto: those with at most 20 % of the training images",
    "ors.root": "folder of the aerial images",
    "generate.per_class": "images that are made of a class",
    "generate.scales": "scales [w1,w2] of ORS and SAR adapters",
    "train.sar.max_steps": "steps of the SAR adapters; train.ors.max_steps of the ORS adapter",
    "seeds": "a classifier each: what scores are averaged over",
    "evaluate.baseline": "the method that the others of a sweep are compared with",
    "paths.logs": "where results go; paths.store: where artifacts lie",
}
ALIKE = {  # keys of every script, and what is asked of it besides a result
    "build=plan": "what would be made, and what it costs; require: stop where something is missing",
    "doctor=true": "checks this machine: processors, memory, GPU, disk, weights, versions",
}


@dataclass(frozen=True)
class Script:
    """What is told of one script."""

    what: str
    own: Mapping[str, str]  # its keys
    examples: Sequence[tuple[str, ...]]
    results: Sequence[str]


SCRIPTS = {
    "train": Script(
        "make one stage of a study, and what it lacks below it",
        {},
        [
            ("stage=data", "data=imagefolder", "data.root=PATH"),
            ("stage=ors", "ors=dota", "ors.root=PATH"),
            ("stage=sar", "method=plora", "build=plan"),
        ],
        ["artifacts: logs/store/KIND/LABEL-FINGERPRINT/", "log, curves, pictures: logs/runs/train/TIME/"],
    ),
    "generate": Script(
        "make the synthetic images of a method, or write its LoRA for other programs",
        {
            "export": "a file, or a folder: the LoRA of one class in place of images",
            "class_name": "of which class",
            "export_format": "diffusers, or kohya for A1111 and ComfyUI",
        },
        [
            ("method=2lora", "generate.per_class=400"),
            ("method=2lora", "contours=real", "generate.scales=[0.6,1]"),
            ("method=plora", "class_name=tanker", "export=PATH/TO/tanker.safetensors"),
        ],
        [
            "images: logs/store/synthetic/METHOD-FINGERPRINT/images/CLASS/, with metadata.jsonl",
            "pictures of them: logs/runs/generate/TIME/",
        ],
    ),
    "evaluate": Script(
        "score methods: classifiers on real and synthetic images, over seeds, and how good the images are",
        {"report": "a folder of a sweep or run: its report again, from what is stored"},
        [
            ("-m", "experiment=demo"),
            ("-m", "method=none,resample,lora,2lora", "data=imagefolder", "data.root=PATH"),
            ("method=2lora", "build=plan"),
            ("report=logs/sweeps/evaluate/TIME",),
        ],
        [
            "of a run: logs/runs/evaluate/TIME/result.json, and pictures",
            "of a sweep: logs/sweeps/evaluate/TIME/report.html, results.csv, and a folder a job",
            "artifacts, which later runs use again: logs/store/",
        ],
    ),
}


def show(script: str, words: Sequence[str], config_dir: str | None) -> None:
    """Print the page of a script, or the options of the groups that these words name.

    Args:
        script: `train`, `generate` or `evaluate`.
        words: What was typed beside `--help`: names of groups, or overrides, of which groups are told.
        config_dir: A folder of one's own with more options.

    Raises:
        UserError: A word is no group, or an option is none of its group.
    """
    folders = [CONF, *([Path(config_dir)] if config_dir else [])]
    groups = [group for word in words if (group := _topic(word, folders))]
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    for piece in _options_of(groups, folders) if groups else _page(script, folders):
        console.print(piece)


def _topic(word: str, folders: Sequence[Path]) -> str | None:
    """The group that a word names; None of an override of a key.

    Raises:
        UserError: It names nothing.
    """
    key, assigned, option = word.lstrip("+~").partition("=")
    if key in GROUPS:
        options = list(_options(key, folders))
        if unknown := [one for one in option.split(",") if assigned and one not in (*options, "null")]:
            raise UserError(f"{key}={unknown[0]} is not an option of {key}; {nearest(unknown[0], options)}")
        return key
    if assigned:
        return None
    raise UserError(f"--help {word}: no group of options; {nearest(word, GROUPS)}; --help alone lists them")


def _options(group: str, folders: Sequence[Path]) -> dict[str, str]:
    """What the options of a group are, by name; of some nothing is said."""
    found = dict(OF_HYDRA) if group == "hydra/launcher" else {}
    for folder in folders:
        for file in sorted((folder / group).glob("*.yaml")):
            found[file.stem] = _about(file)
    return found


def _about(file: Path) -> str:
    """The comment at the head of an option's file."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def _page(script: str, folders: Sequence[Path]) -> Iterator[Text | Table]:
    told = SCRIPTS[script]
    yield Text(told.what)
    yield _lines(
        {
            "usage": f"{command(script)} [-m] [--config-dir FOLDER] group=option key=value ...",
            "": "-m: a job for each of several values a,b,c; FOLDER: options of your own",
        }
    )
    if script == "train":
        yield _heading("stage=")
        yield _lines(STAGES)
    chosen = _defaults()
    yield _heading("method=", "those that it makes images with, or scores")
    methods = _options("method", folders)
    yield _lines({_marked(name, chosen["method"]): _short(about) for name, about in methods.items()})
    yield _heading("groups", "group=option; * unless something else is said; --help GROUP says what each option is")
    yield _groups({group: _options(group, folders) for group in GROUPS if group != "method"}, chosen)
    yield _heading("keys", "those used most; --cfg job prints all of them with their values")
    yield _lines({**told.own, **KEYS, **ALIKE})
    yield _heading("examples")
    yield Text("\n".join(f"  {command(script, *words)}" for words in told.examples), no_wrap=True, overflow="fold")
    yield _heading("results", "from where it is started; the last lines name them")
    yield Text("\n".join(f"  {line}" for line in told.results))


def _options_of(groups: Sequence[str], folders: Sequence[Path]) -> Iterator[Text | Table]:
    chosen = _defaults()
    for group in groups:
        yield _heading(f"{group}=", GROUPS[group])
        yield _lines({_marked(name, chosen.get(group)): about for name, about in _options(group, folders).items()})


def _defaults() -> dict[str, str | None]:
    """The option of each group that holds unless something else is said."""
    defaults = yaml.safe_load((CONF / "study.yaml").read_text(encoding="utf-8"))["defaults"]
    return {group: option for entry in defaults if isinstance(entry, dict) for group, option in entry.items()} | {
        "hydra/launcher": next(iter(OF_HYDRA))
    }


def _marked(name: str, chosen: str | None) -> str:
    return f"{name}*" if name == chosen else name


def _heading(name: str, note: str = "") -> Text:
    return Text.assemble("\n", (name, "bold"), (f"  {note}" if note else "", "dim"))


def _short(about: str) -> str:
    """The first sentence, without whose idea it was."""
    return re.sub(r" \([^()]*(doi:|arXiv:)[^()]*(\([^()]*\)[^()]*)?\)", "", re.split(r"(?<=\.) (?=[A-Z])", about)[0])


def _groups(groups: Mapping[str, Iterable[str]], chosen: Mapping[str, str | None]) -> Table:
    table = Table.grid(padding=(0, 2))
    for style in ("cyan", "", "dim"):
        table.add_column(style=style)
    for group, options in groups.items():
        names = " ".join(_marked(name, chosen.get(group)) for name in options)
        table.add_row(f"  {group}", Text(names), GROUPS[group])
    return table


def _lines(told: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    for name, about in told.items():
        table.add_row(f"  {name}", Text(about))  # brackets are no markup
    return table

"""Give what a method makes to others: a LoRA file of a class, or the synthetic set, with a card; and to the hub."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from sarsynth import processes
from sarsynth.commands.pushing import Kind, push
from sarsynth.console import console
from sarsynth.diffusion.adapter_files import export, read_header
from sarsynth.errors import UserError
from sarsynth.files import STAGING, write_text
from sarsynth.program import public
from sarsynth.report.cards import CARD_NAME, AdapterLine, Subject, check_free, dataset_card, model_card
from sarsynth.report.rows import Row
from sarsynth.report.sweep import Sweep
from sarsynth.stages.curate_images import counts, minor, synthetic_sizes
from sarsynth.stages.describe_images import class_captions
from sarsynth.stages.export_adapter import (
    about_adapter,
    exported,
    exported_adapter,
    how_to_use,
    is_of_hub,
    name_of_base,
)
from sarsynth.stages.generate_images import METADATA, stems
from sarsynth.stages.match_speckle import synthetic
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import CARD, Artifact

SUFFIX = ".safetensors"
OF_RUN = (
    "export",
    "push",
    "push_private",
    "results",
    "license",
    "paths",
    "logger",
    "hydra",
    "build",
    "plan",
    "trainer",
)
Files = Mapping[str, Path]  # by their names in a repository


def run(study: Study, folder: Path) -> None:
    """Export as the settings say, say where it lies and how it is used, and push it if they say so.

    Args:
        study: Of the method.
        folder: Of the run, where it goes if no other place is named.
    """
    settings = study.settings
    key = f"export={settings.export}" if settings.export else f"push={settings.push}"
    if settings.results not in (None, "auto") and not Path(str(settings.results)).expanduser().is_dir():
        raise UserError(f"results={settings.results}: no such folder; name that of an evaluation, or leave it out")
    if processes.rank():  # it helps to make what is exported, and writes nothing
        artifacts(study)
        return
    target = Path(settings.export).expanduser() if settings.export else folder / "export"
    try:
        files = (export_images if settings.export_format == "images" else export_class)(study, target, key)
    except OSError as error:
        raise UserError(f"{key}: cannot be written ({error.strerror or error}); choose another folder") from error
    if settings.push:
        kind: Kind = "dataset" if settings.export_format == "images" else "model"
        console.print(f"  {push(settings.push, kind, files, private=settings.push_private is not False)}", markup=False)


def artifacts(study: Study) -> list[Artifact]:
    """Ask for all that an export is made from, and read nothing."""
    if study.settings.export_format == "images":
        return [synthetic(study)]
    return list(exported(study).inputs.values())


# --- What is written --------------------------------------------------------------------------------------------------


def export_class(study: Study, target: Path, key: str) -> Files:
    """Write what a method does for a class as one LoRA file, and a card of it.

    In a folder, README.md tells of all files there that have such a header; beside a file that is named, its card has
    its name, so that no README.md of somebody's project is touched.
    """
    settings = study.settings
    assert settings.class_name is not None
    file = file_of_class(study, settings.class_name, target)
    alone = file == target
    card = file.with_suffix(".md") if alone else target / CARD_NAME
    check_free(card, key)
    adapter, made = exported_adapter(study, settings.class_name), exported(study).adapters
    known = subject(study, f"{settings.method.name} adapters for SAR images of {settings.data.name}", made)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        export(
            adapter,
            file,
            form="kohya" if settings.export_format == "kohya" else "diffusers",
            dtype=getattr(torch, settings.export_dtype or "float32"),
            about=about_adapter(study, settings.class_name),
        )
    except OverflowError as error:
        raise UserError(f"export_dtype={settings.export_dtype}: {error}; use bfloat16 or float32") from error
    others = [] if alone else sorted(other for other in target.glob(f"*{SUFFIX}") if other != file)
    lines = [AdapterLine(one.name, read_header(one)) for one in (file, *others)]
    lines = [line for line in lines if "sarsynth.image_size" in line.about]
    write_text(card, model_card(known, lines))
    console.print(f"  {file}", markup=False)
    console.print(f"  {how_to_use(study, settings.class_name)}, on {name_of_base(study)}", markup=False)
    return {line.file: file.parent / line.file for line in lines} | {CARD_NAME: card}


def file_of_class(study: Study, class_name: str, target: Path) -> Path:
    """Where the file of a class goes: to `target` itself, or into that folder."""
    name = f"{study.settings.method.name}-{stems(study)[class_name]}{SUFFIX}"
    return target if target.suffix == SUFFIX else target / name


def export_images(study: Study, target: Path, key: str) -> Files:
    """Copy the synthetic set, a Hugging Face imagefolder, and write a card of it."""
    if target.suffix == SUFFIX or target.is_file():
        raise UserError(f"{key}: images go to a folder; name one")
    check_free(target / CARD_NAME, key)
    if target.is_dir() and any(target.iterdir()) and not (target / CARD_NAME).exists():
        raise UserError(f"{key}: this folder holds something else; choose an empty one, or one that is not there")
    made, sizes = synthetic(study), synthetic_sizes(study)
    title = f"Synthetic SAR images of {study.settings.data.name} by {study.settings.method.name}"
    text = dataset_card(subject(study, title, {"synthetic": made}), sizes, class_captions(study))
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=STAGING, dir=target.parent) as scratch:
        draft = Path(scratch, "set")
        shutil.copytree(made.path, draft, ignore=shutil.ignore_patterns(CARD))
        write_text(draft / CARD_NAME, text)
        if target.exists():  # an earlier export
            target.rename(Path(scratch, "earlier"))
        draft.rename(target)
    console.print(f"  {target}", markup=False)
    console.print(f"  {sum(sizes.values())} images of {len(sizes)} classes, and {METADATA}", markup=False)
    return {str(file.relative_to(target)): file for file in sorted(target.rglob("*")) if file.is_file()}


# --- What the card says -----------------------------------------------------------------------------------------------


def subject(study: Study, title: str, made: Mapping[str, Artifact]) -> Subject:
    """What a card is of.

    Args:
        study: Of the method.
        title: Of the card.
        made: The artifacts that it is made from, by name.
    """
    settings = study.settings
    row, found = measured(study, made)
    return Subject(
        title=title,
        method=settings.method.name,
        base=name_of_base(study),
        base_on_hub=is_of_hub(study),
        data=settings.data.name,
        license=settings.license,
        command=public_command(study),
        counts=counts(study),
        minor=minor(study),
        fingerprints={name: artifact.fingerprint for name, artifact in made.items()},
        notice=settings.notice,
        row=row,
        study=found,
    )


def public_command(study: Study) -> str:
    """What makes it again, without the folders of this machine."""
    kept = []
    for override in study.overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+~").partition(".")[0].partition("/")[0] in OF_RUN:
            continue
        path = value.strip("'\"")
        kept.append(f"{key}=PATH/TO/{Path(path).name}" if path.startswith(("/", "~", "..")) else override)
    return public("generate", *kept, "export=PATH/TO")


def measured(study: Study, made: Mapping[str, Artifact]) -> tuple[Row | None, str]:
    """The row of a study that rests on these very artifacts, and the study's name; None where there is none.

    Raises:
        UserError: A study is named, and has no such row.
    """
    settings = study.settings
    if settings.results is None:
        return None, ""
    if settings.results != "auto":
        sweep = Sweep.read(Path(settings.results).expanduser(), study.store.root)
        row = _row_of(study, sweep, made)
        if row is None:
            raise UserError(
                f"results={settings.results}: no result there rests on these {', '.join(map(str, made.values()))}; "
                "name the folder of their own evaluation, or leave it out"
            )
        return row, sweep.folder.name
    logs = Path(settings.paths.logs)
    for folder in _newest_first(logs):
        try:
            sweep = Sweep.read(folder, study.store.root)
            if row := _row_of(study, sweep, made):
                return row, folder.name
        except UserError:  # one without results, or of another version
            continue
    return None, ""


def _newest_first(logs: Path) -> list[Path]:
    """The folders of evaluations, each named by when it began."""
    folders = [*logs.glob("sweeps/evaluate/*"), *logs.glob("runs/evaluate/*")]
    return sorted(folders, key=lambda folder: folder.name, reverse=True)


def _row_of(study: Study, sweep: Sweep, made: Mapping[str, Artifact]) -> Row | None:
    """The row of a sweep that rests on artifacts, whatever is above them."""
    wanted = {artifact.fingerprint for artifact in made.values()}
    for place, result in enumerate(sweep.results):
        same = all(result[key] == getattr(study.settings, key).name for key in ("method", "base", "data"))
        if same and wanted <= sweep.lineage(result["inputs"].values()).keys():
            return sweep.rows[place]
    return None

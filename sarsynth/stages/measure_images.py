"""Measure a synthetic set before any classifier trains on it: every measure of `result.json` that needs no training.

A measure is a row of `MEASURES`: its name in the result, and the function that makes its artifact.
"""

from collections.abc import Callable
from typing import Any

from rich.markup import escape

from sarsynth.console import console
from sarsynth.stages.filter_images import filter_inputs, filter_report
from sarsynth.stages.match_speckle import synthetic
from sarsynth.stages.measure_copies import measured_memorisation
from sarsynth.stages.measure_fidelity import measured_fidelity, read_figures
from sarsynth.stages.measure_realism import measured_realism, probed
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import Artifact

MEASURES: dict[str, Callable[[Study], Artifact]] = {
    "fidelity": measured_fidelity,
    "realism": measured_realism,
    "shortcut": probed,
    "memorisation": measured_memorisation,
}
BEFORE_FILTERING: dict[str, Callable[..., Artifact]] = {  # measured of the whole set, too, where a filter drops images
    "fidelity": measured_fidelity,
    "memorisation": measured_memorisation,
}


def measured(study: Study) -> dict[str, Artifact]:
    """The artifacts that `quality` reads, by what they are of; none without synthetic images."""
    if study.settings.method.adds != "synthetic":
        return {}
    artifacts = {name: measure(study) for name, measure in MEASURES.items()}
    if filter_inputs(study):
        artifacts |= {f"{name}_before": measure(study, whole=True) for name, measure in BEFORE_FILTERING.items()}
    return artifacts


def quality(study: Study) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure the synthetic set of a study.

    Returns:
        Four parts of `result.json`, and the fingerprints of what they rest on by role:

        * `fidelity`: `preprocess`, and what `fidelity.fidelity` returns (`width`, `pooled`, `per_class`);
        * `realism`: what `realism.realism` returns, and `shortcut` (`shortcut.shortcut`), None where targets leave no
          clutter;
        * `memorisation`: what `memorisation.memorisation` returns, in `per_class` also `diversity` (mean distance of
          two images of the class in features, `real` and `synthetic`), and `pairs`: the nearest few of each class and
          space, each with `class`, `space`, `synthetic` (a file of the set), `real` (its path), `real_row`, `distance`;
        * `filter`: what `filter_report` returns, and `before`: `fidelity` and `memorisation` (its `n`, `spaces`) of the
          whole set, for the parts above are of what a filter keeps; None without one.

        Without synthetic images there are no fidelities, and the others are None.
    """
    if study.settings.method.adds != "synthetic":
        preprocess = study.settings.fid.preprocess
        nothing: dict[str, Any] = {"preprocess": preprocess, "width": None, "pooled": None, "per_class": {}}
        return {"fidelity": nothing, "realism": None, "memorisation": None, "filter": None}, {}
    artifacts, filtered = measured(study), filter_report(study)
    figures = {name: read_figures(artifacts[name]) for name in MEASURES}
    figures["realism"]["shortcut"] = figures.pop("shortcut")
    filtered["before"] = None
    if filter_inputs(study):
        before = {name: read_figures(artifacts[f"{name}_before"]) for name in BEFORE_FILTERING}
        before["memorisation"] = {key: before["memorisation"][key] for key in ("n", "spaces")}
        filtered["before"] = before
    _warn(study, figures["realism"], filtered)
    inputs = {"synthetic": synthetic(study), **artifacts, **filter_inputs(study)}
    return figures | {"filter": filtered}, {role: artifact.fingerprint for role, artifact in inputs.items()}


def _warn(study: Study, realism: dict[str, Any], filtered: dict[str, Any]) -> None:
    """Say which images are of one grey value, and where a filter leaves too few."""
    for kind, constant in realism["constant"].items():
        if constant:
            console.print(
                f"[yellow]warning:[/] {constant} of {realism['n'][kind]} {kind} images have one grey value "
                f"all over, of method={study.settings.method.name} data={study.settings.data.name}; look at them"
            )
    for name, images in filtered["per_class"].items():
        if images["joined"] < images["planned"]:
            console.print(
                f"[yellow]warning:[/] filter={filtered['name']} leaves {images['joined']} of {images['planned']} "
                f"images that were to join class {escape(name)}; raise generate.per_class, or loosen the filter"
            )

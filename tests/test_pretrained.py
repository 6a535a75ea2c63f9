"""Weights that a classifier starts from: read under every naming, fitted as timm fits them, and never run as code."""

import hashlib
import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from known import a_study_that_knows
from safetensors.torch import save_file
from test_classifier import CLASSES, RECIPE, TEST, TRAIN, fit, same_weights
from test_conf import settings
from torch import Tensor, nn

from sarsynth.classifier import pretrained
from sarsynth.classifier.network import Classifier, ClassifierRecipe, predict
from sarsynth.classifier.pretrained import Pretrained, find, load_weights
from sarsynth.commands.preflight import rehearse, trains_classifier
from sarsynth.errors import UserError
from sarsynth.stages import sum_up
from sarsynth.stages.curate_images import source

OPTIONS = RECIPE.options


def stand_in(seed: int = 0, classes: int = 7, **options: Any) -> dict[str, Tensor]:
    """Weights of a narrow network for colour images, as if somebody had trained it."""
    torch.manual_seed(seed)
    state = timm.create_model("resnet18", num_classes=classes, **(OPTIONS | options)).state_dict()
    return {name: torch.rand_like(value) if value.is_floating_point() else value for name, value in state.items()}


def torch_file(content: Any, file: Path) -> Path:
    torch.save(content, file)
    return file


def of_mmpretrain(state: dict[str, Tensor]) -> dict[str, Any]:
    """As mmclassification publishes a checkpoint: what it calls the backbone, here with a head of its own."""
    named = {f"backbone.{name}": value for name, value in state.items() if not name.startswith("fc.")}
    return {
        "meta": {"epoch": 90, "mmcls_version": "0.21.0"},
        "state_dict": named | {"head.fc.weight": torch.rand(7, 16)},
    }


NAMINGS = {
    "timm.safetensors": lambda state, file: save_file(state, file),
    "backbone.safetensors": lambda state, file: save_file({n: v for n, v in state.items() if n[:3] != "fc."}, file),
    "parallel.safetensors": lambda state, file: save_file({f"module.{n}": v for n, v in state.items()}, file),
    "timm.pth": torch_file,
    "nested.pth": lambda state, file: torch_file({"state_dict": state, "epoch": 80}, file),
    "mmpretrain.pth": lambda state, file: torch_file(of_mmpretrain(state), file),
}


def network(seed: int = 1, in_chans: int = 1, classes: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("resnet18", in_chans=in_chans, num_classes=classes, **(OPTIONS | options)).eval()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file(stand_in(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("naming", NAMINGS)
def test_weights_are_loaded_as_timm_loads_its_own(tmp_path: Path, naming: str, channels: int) -> None:
    """Logits of timm's own loading of the same weights; the last layer is the network's, random from its seed."""
    plain, file = tmp_path / "plain.safetensors", tmp_path / naming
    save_file(stand_in(), plain)
    NAMINGS[naming](stand_in(), file)
    torch.manual_seed(1)
    known = timm.create_model(
        "resnet18",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(plain)},
        in_chans=channels,
        num_classes=3,
        **OPTIONS,
    ).eval()
    ours, found = network(in_chans=channels), find("resnet18", str(file))
    assert found is not None and found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    head = ours.get_parameter("fc.weight").detach().clone()
    load_weights(ours, found, channels)
    images = torch.rand(4, channels, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(images), known(images))
    assert torch.equal(ours.get_parameter("fc.weight"), head)
    first = stand_in()["conv1.weight"]
    assert torch.equal(ours.get_parameter("conv1.weight"), first if channels == 3 else first.sum(dim=1, keepdim=True))


def test_names_of_torchvision_are_those_of_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    known = torchvision.models.resnet18(weights=None).eval()
    torch.save(known.state_dict(), tmp_path / "resnet18.pth")
    ours = timm.create_model("resnet18", in_chans=3, num_classes=3).eval()
    load_weights(ours, find("resnet18", str(tmp_path / "resnet18.pth")), 3)  # type: ignore[arg-type]
    images = torch.rand(2, 3, 64, 64)
    known.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_head(ours.forward_features(images), pre_logits=True), known(images))


def test_as_many_classes_as_the_file_has_change_nothing(weights: Path) -> None:
    """The last layer is of other classes, even if there are equally many."""
    found = find("resnet18", str(weights))
    assert found is not None
    ours = network(classes=7)
    load_weights(ours, found, 1)
    assert not torch.equal(ours.get_parameter("fc.weight"), stand_in()["fc.weight"])


# --- A classifier -----------------------------------------------------------------------------------------------------


def test_a_training_starts_from_them_and_says_so_by_content(weights: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, pretrained=find("resnet18", str(weights)), learning_rate=1e-9, max_steps=1, weight_decay=0)
    begun = fit(recipe)
    torch.testing.assert_close(begun.network.layer1[0].conv1.weight, stand_in()["layer1.0.conv1.weight"])
    assert not same_weights(begun, fit(replace(recipe, pretrained=None)))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert recipe.as_dict()["pretrained"] == digest and RECIPE.as_dict()["pretrained"] is None
    assert ClassifierRecipe.from_dict(recipe.as_dict()) == recipe
    elsewhere = weights.rename(tmp_path / "other name.safetensors")
    assert replace(recipe, pretrained=find("resnet18", str(elsewhere))).as_dict() == recipe.as_dict(), "no paths"
    save_file(stand_in(seed=1), tmp_path / "other.safetensors")
    assert find("resnet18", str(tmp_path / "other.safetensors")) != recipe.pretrained
    # What was trained needs them no more.
    begun.save(tmp_path / "classifier")
    elsewhere.unlink()
    loaded = Classifier.load(tmp_path / "classifier", "cpu")
    assert loaded.recipe == recipe
    assert torch.equal(predict(loaded, TEST.images), predict(begun, TEST.images))


@pytest.mark.parametrize("started", [True, False])
def test_a_result_says_what_its_classifiers_started_from(monkeypatch, started: bool) -> None:
    known = Pretrained("abc", "weights.pth", Path("nowhere/weights.pth")) if started else None
    monkeypatch.setattr(sum_up, "recipe_of_method", lambda _: replace(RECIPE, pretrained=known))
    monkeypatch.setattr(sum_up, "learning_and_validation", lambda _: (TRAIN, None))
    method = SimpleNamespace(adds="nothing")
    sar = SimpleNamespace(classes=CLASSES)
    study = a_study_that_knows((source, ("sar",), sar), settings=SimpleNamespace(method=method))
    assert sum_up.learning(study)["pretrained"] == (started and {"name": "weights.pth", "sha256": "abc"})


# --- What is no weights -----------------------------------------------------------------------------------------------


class Deadly:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(os.environ["TOUCHED"]),)


def test_a_pickle_of_more_than_tensors_runs_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TOUCHED", str(tmp_path / "touched"))
    content = {"state_dict": stand_in(), "hook": Deadly()}
    file = torch_file(content, tmp_path / "deadly.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(content))
    for name in (file, tmp_path / "bare.pth"):
        found = find("resnet18", str(name))
        assert found is not None
        with pytest.raises(
            UserError, match=r"classifier.pretrained: .*\.pth cannot be read \(.*torch.save\("
        ) as refusal:
            load_weights(network(), found, 1)
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "touched").exists()


def test_files_that_are_none_of_this_network(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(UserError, match="classifier.pretrained=no.pth: no such file; .*classifier.pretrained=false"):
        find("resnet18", "no.pth")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UserError, match=r"folder: no safetensors files in this folder; name one file"):
        find("resnet18", str(folder))
    inside = folder / "model.safetensors"
    inside.write_bytes(weights.read_bytes())
    assert find("resnet18", str(folder)) == find("resnet18", str(weights))
    save_file({"conv1.weight": torch.zeros(1)}, folder / "second.safetensors")
    with pytest.raises(UserError, match=r"folder: 2 safetensors files in this folder; name one file"):
        find("resnet18", str(folder))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no weights")
    for file, options, said in (
        (damaged, {}, r"damaged.safetensors cannot be read"),
        (
            folder / "second.safetensors",
            {},
            r"second.safetensors holds no weights of this resnet18 \(only one of .* more",
        ),
        (weights, {"layers": [1, 1, 1, 2]}, r"only one of the two has layer4\.1\.bn1\.bias"),
        (weights, {"channels": [8, 8, 16, 24]}, r"size mismatch for layer4.* name those of this network, or say"),
    ):
        found = find("resnet18", str(file))
        assert found is not None
        with pytest.raises(UserError, match=said) as refusal:
            load_weights(network(**options), found, 1)
        assert "\n" not in str(refusal.value)


# --- From elsewhere ---------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path, monkeypatch) -> Iterator[SimpleNamespace]:
    """A server of this machine, and an empty cache."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *said: Any) -> None:
            asked.append(str(said[1]))

    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    server = HTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(folder=folder, address=f"http://127.0.0.1:{server.server_port}", asked=asked)
    server.shutdown()
    server.server_close()


def test_an_address_is_fetched_once_and_checked(served: SimpleNamespace, tmp_path: Path, monkeypatch) -> None:
    file = torch_file(of_mmpretrain(stand_in()), tmp_path / "weights.pth")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    names = (f"resnet18_20220331-{digest[:8]}.pth", f"resnet18_20220331-{'0' * 8}.pth")
    for name in names:
        (served.folder / name).write_bytes(file.read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"=http://.* cannot be fetched .*OFFLINE.*=false .* or classifier.pretrained=FILE"
    ):
        find("resnet18", f"{served.address}/{names[0]}")
    assert not served.asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = find("resnet18", f"{served.address}/{names[0]}")
    assert found == Pretrained(digest) and found is not None and found.name == names[0]
    load_weights(network(), found, 1)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find("resnet18", f"{served.address}/{names[0]}") == found
    assert len(served.asked) == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name, said in ((names[1], "invalid hash value"), ("gone.pth", "HTTPError: .*404")):
        with pytest.raises(UserError, match=rf"cannot be fetched \(.*{said}.*\); say classifier.pretrained=false"):
            find("resnet18", f"{served.address}/{name}")
    assert [path.name for path in (tmp_path / "cache").rglob("*.pth")] == [names[0]]


def test_true_is_what_timm_publishes(weights: Path, monkeypatch) -> None:
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(weights)

    monkeypatch.setattr(pretrained, "hf_hub_download", download)
    found = find("resnet18", True)
    assert found is not None and found.name == "timm/resnet18.a1_in1k"
    assert find("resnet18.tv_in1k", True) and find("hf-hub:someone/something", True)
    assert asked == [
        (name, "model.safetensors") for name in ("timm/resnet18.a1_in1k", "timm/resnet18.tv_in1k", "someone/something")
    ]
    with pytest.raises(
        UserError, match="true: timm has no weights of classifier.network=resnet50_mlp on the hub; name"
    ):
        find("resnet50_mlp", True)
    assert find("resnet18", False) is None


# --- Before anything is trained ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [[], ["classifier.pretrained=true"]])
def test_the_papers_start_or_one_line(said: list[str], tmp_path: Path, monkeypatch) -> None:
    """Where it cannot be fetched, before anything is read; a run without a classifier goes on."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    chosen = settings("classifier=resnet50", *said)
    assert said or "in21k" in str(chosen.classifier.pretrained)
    with pytest.raises(
        UserError, match=r"classifier.pretrained=.* cannot be fetched .*classifier.pretrained=false"
    ) as one:
        rehearse(chosen)
    assert "\n" not in str(one.value)
    rehearse(settings("classifier=resnet50", "method=2lora", *said), "generate")


def test_no_weights_are_none_to_fetch() -> None:
    rehearse(settings("classifier=resnet50", "classifier.pretrained=false"))
    rehearse(settings("classifier=small"))


def test_weights_that_do_not_fit_are_refused_before_anything_is_read(weights: Path) -> None:
    plain = [
        "~classifier.options.stem_type",
        "~classifier.options.stem_width",
        "classifier.options.channels=[8,8,16,16]",
    ]
    rehearse(settings(*plain, f"classifier.pretrained={weights}"))
    with pytest.raises(UserError, match="holds no weights of this resnet18"):
        rehearse(settings(f"classifier.pretrained={weights}"))


@pytest.mark.parametrize(
    ("script", "said", "asks"),
    [
        ("evaluate", ["method=none"], True),
        ("generate", ["method=2lora"], False),
        ("generate", ["method=plora"], True),
        ("generate", ["method=plora", "prototypes.features=base"], False),
        ("train", ["+stage=classifier", "method=none"], True),
        ("train", ["+stage=ors", "method=plora"], False),
        ("train", ["+stage=prototypes", "method=2lora"], True),
        ("train", ["+stage=prototypes", "prototypes.features=base"], False),
        ("train", ["+stage=sar", "method=plora"], True),
        ("train", ["+stage=sar", "method=lora"], False),
    ],
)
def test_only_runs_that_rest_on_a_classifier_ask_for_its_weights(script: str, said: list[str], asks: bool) -> None:
    chosen = settings(*said)
    assert trains_classifier(chosen, script) == asks

"""What is given to others: equal bytes, true headers, cards that the hub reads, a push to a stand-in of the hub."""

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from diffusers import DDIMScheduler
from huggingface_hub import DatasetCard, ModelCard
from safetensors import safe_open
from safetensors.torch import load_file
from test_adapters import pipeline, trained, with_stack
from test_conf import compose
from test_pipeline import TINY
from tiny import predict, tiny_base

from sarsynth import cli
from sarsynth.commands import exporting, pushing
from sarsynth.config.checks import check
from sarsynth.data.seeds import step_seed
from sarsynth.diffusion import adapter_files
from sarsynth.diffusion.sampling import Guidance, SampleRequest, sample
from sarsynth.diffusion.step_interval import StepInterval
from sarsynth.errors import UserError
from sarsynth.program import VARIABLE
from sarsynth.report import cards
from sarsynth.stages import export_adapter

ABOUT = {f"ss_{n}": str(n) for n in range(20)} | {"modelspec.title": "lora: 油轮"}


def header(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as content:
        return content.metadata()


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_what_is_exported_twice_or_given_back_has_the_same_bytes(form: str, tmp_path: Path):
    base, files = tiny_base(), [tmp_path / f"{name}.safetensors" for name in ("one", "two", "back")]
    adapter = trained(base, 0)
    for file in files[:2]:
        adapter_files.export(adapter, file, form=form, about=dict(reversed(ABOUT.items())))
    adapter_files.export(adapter_files.load(base.unet, files[0]), files[2], form=form, about=ABOUT)
    assert len({file.read_bytes() for file in files}) == 1
    said = header(files[0])
    assert said.items() >= ABOUT.items()
    content = files[0].read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    assert begin % 8 == 0
    assert list(json.loads(content[8:begin])["__metadata__"]) == sorted(said), "in order"
    assert said["modelspec.hash_sha256"] == "0x" + hashlib.sha256(content[begin:]).hexdigest()
    rank = max(len(layer.a) for layer in adapter.values())
    assert (said["ss_network_dim"], said["ss_network_alpha"]) == (str(rank), str(rank))


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_halves_the_file_and_hardly_changes_what_it_does(form: str, dtype, tmp_path: Path):
    ours, plain, half, whole = tiny_base(), pipeline(tiny_base()), tmp_path / "half.safetensors", tmp_path / "w"
    adapter_files.export(trained(ours, 0), half, form=form, dtype=dtype)
    adapter_files.export(trained(ours, 0), whole, form=form)
    weights = {tensor.dtype for key, tensor in load_file(half).items() if not key.endswith(".alpha")}
    assert weights == {dtype}
    assert half.stat().st_size < 0.75 * whole.stat().st_size, "headers and alphas stay"
    expected = with_stack(ours, (trained(ours, 0), 1.0))
    read = with_stack(ours, (adapter_files.load(ours.unet, half), 1.0))
    torch.testing.assert_close(read, expected, rtol=0.05, atol=0.05)
    plain.load_lora_weights(tmp_path, weight_name=half.name)
    torch.testing.assert_close(predict(plain), read, rtol=1e-2, atol=1e-2)


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path):
    adapter = trained(tiny_base(), 0)
    name = next(iter(adapter))
    adapter[name] = adapter[name]._replace(b=adapter[name].b * 1e6)
    with pytest.raises(OverflowError, match="too large for float16"):
        adapter_files.export(adapter, tmp_path / "x.safetensors", dtype=torch.float16)
    assert not list(tmp_path.iterdir())


# --- Cards ------------------------------------------------------------------------------------------------------------


def subject(**more) -> cards.Subject:
    about = {
        "title": "lora adapters for SAR images of mine",
        "method": "lora",
        "base": "someone/base",
        "base_on_hub": True,
        "data": "mine",
        "license": None,
        "command": "python generate.py method=lora",
        "counts": {"cargo": 40, "tanker": 4},
        "minor": ["tanker"],
        "fingerprints": {"sar": "ab12"},
    }
    return cards.Subject(**(about | more))


LINE = cards.AdapterLine(
    "lora-tanker.safetensors",
    {
        "modelspec.trigger_phrase": "a SAR image of tanker",
        "modelspec.usage_hint": "strength 1",
        "ss_network_dim": "8",
        "sarsynth.negative_prompt": "",
        "sarsynth.guidance_scale": "3",
        "sarsynth.image_size": "64",
    },
)


def test_a_card_says_what_is_known_and_no_more():
    plain = ModelCard(cards.model_card(subject(), [LINE]))
    assert plain.data.base_model == "someone/base"
    assert (plain.data.library_name, plain.data.instance_prompt) == ("diffusers", "a SAR image of tanker")
    assert plain.data.license is None and "license" not in plain.data.to_dict()
    assert plain.data.eval_results is None and "nothing is claimed" in plain.text
    assert "Not said by who made this card" in plain.text
    assert "base_model" not in ModelCard(cards.model_card(subject(base_on_hub=False), [LINE])).data.to_dict()


@pytest.mark.parametrize(
    ("said", "told", "header"),
    [
        ([], "guidance 3, 64 x 64 px", None),
        (["generate.guidance_interval=[0.2,0.8]", "generate.guidance_scale=1"], "guidance 1, 64 x 64 px", None),
        (["generate.guidance_interval=[0.2,0.8]"], "guidance 3 from 20% to 80% of the steps, 64 x 64 px", "0.2 0.8"),
    ],
)
def test_an_export_says_in_which_steps_guidance_leads(said: list[str], told: str, header: str | None, monkeypatch):
    known = {"negative_prompts": {"a": ""}, "class_captions": {"a": "ship a"}, "counts": {"a": 3}, "base": tiny_base()}
    for name, value in known.items():
        monkeypatch.setattr(export_adapter, name, lambda _, value=value: value)
    study = SimpleNamespace(settings=check(compose("generate", *said)))
    assert export_adapter.how_to_use(study, "a") == f'strength 1, prompt "ship a", {told}'
    about = export_adapter.about_adapter(study, "a")
    assert about.get("sarsynth.guidance_interval") == header
    assert told in about["modelspec.usage_hint"]


@pytest.mark.parametrize("interval", [(0.25, 0.75), (0.0, 0.5), (0.5, 1.0)])
def test_a_card_tells_diffusers_in_which_steps_guidance_leads(interval: tuple[float, float]):
    """What its lines make of diffusers' pipeline draws our images."""
    about = LINE.about | {"sarsynth.guidance_scale": "5", "sarsynth.guidance_interval": "{:g} {:g}".format(*interval)}
    text = cards.model_card(subject(), [LINE, replace(LINE, about=about)])
    assert "lead" not in text, "the example is of the first file"
    text = cards.model_card(subject(), [replace(LINE, about=about)])
    function, call = re.search(r"(def lead.*?)image = pipe\((.*?)\)\.images", text, re.DOTALL).groups()
    base, told = tiny_base(), {}
    exec(function, told)
    exec(f"options = dict({call.partition(',')[2]})", told)
    pipe, request = pipeline(base), SampleRequest("a SAR image of tanker", (0, 1, 2))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(step_seed(*request.seed)))
    prompt_embeds, negative_prompt_embeds = base.encode_text([request.prompt, ""]).split(1)
    texts = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    del told["options"]["negative_prompt"]
    size = dict.fromkeys(("height", "width"), 16)
    (known,) = pipe(num_inference_steps=4, latents=noise, output_type="pt", **texts, **told["options"] | size)[0]
    recipe = {"image_size": 16, "num_inference_steps": 4, "batch_size": 1}
    (made,) = sample(base, pipe.scheduler, [request], guidance=Guidance(5.0, StepInterval(*interval)), **recipe)
    torch.testing.assert_close(made[0], 2 * known - 1, rtol=0, atol=1e-3)
    (throughout,) = sample(base, pipe.scheduler, [request], guidance=Guidance(5.0), **recipe)
    assert (throughout - made).abs().max() > 0.01


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("cc-by-nc-4.0", {"license": "cc-by-nc-4.0"}),
        ("For research alone", {"license": "other", "license_name": "for-research-alone"}),
    ],
)
def test_a_licence_is_what_the_user_says(said: str, written: dict):
    for card in (
        ModelCard(cards.model_card(subject(license=said), [LINE])),
        DatasetCard(cards.dataset_card(subject(license=said), {"tanker": 3}, {"tanker": "a tanker"})),
    ):
        assert card.data.to_dict().items() >= written.items()
        assert f"## Licence\n\n{said}\n" in card.text


def test_a_text_of_somebody_else_is_not_replaced(tmp_path: Path):
    for text in ("# My project", "---\ntags: [other]\n---\nmine", "---\n[broken"):
        (tmp_path / "README.md").write_text(text)
        with pytest.raises(UserError, match=r"^export=x: .*README.md is there already"):
            cards.check_free(tmp_path / "README.md", "export=x")
    (tmp_path / "README.md").write_text(cards.model_card(subject(), [LINE]))
    cards.check_free(tmp_path / "README.md", "export=x")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (["export=out"], "export=out needs class_name=..., .* or say export_format=images"),
        (["push=me/it"], "push=me/it needs class_name="),
        (["push=it", "class_name=tanker"], "push=it: string should match"),
        (["export=out", "class_name=tanker", "export_dtype=int8"], "export_dtype=int8 is not a value"),
    ],
)
def test_what_is_missing_for_an_export_is_said(said: list[str], why: str):
    with pytest.raises(UserError, match=why):
        check(compose("generate", *said))


def test_the_public_command_has_no_folder_of_this_machine(monkeypatch):
    monkeypatch.setenv(VARIABLE, "sarsynth-{script} --config-dir '/home/me/my options'")
    private = [
        "data.root=/home/me/secret/mine",
        "export=/home/me/out",
        "push=a/b",
        "+logger.name=x",
        "paths.store=/store",
    ]
    study = SimpleNamespace(overrides=["method=lora", "data=imagefolder", *private])
    command = exporting.public_command(study)
    assert "/home" not in command and "/store" not in command and "a/b" not in command
    assert command.startswith("sarsynth-generate --config-dir PATH/TO method=lora ")
    assert "data.root=PATH/TO/mine" in command


# --- Through the command line, to a stand-in of the hub ---------------------------------------------------------------


@pytest.fixture(scope="module")
def generate(tmp_path_factory) -> Iterator[Callable[..., SimpleNamespace]]:
    """Run generate.py inside this process, in one folder, whose store the runs share."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)

        def run(capsys, *overrides: str) -> SimpleNamespace:
            patch.setattr(sys, "argv", ["generate.py", "method=lora", *TINY, "logger=none", *overrides])
            code = 0
            try:
                cli.main("generate")
            except SystemExit as stop:
                code = stop.code
            written = capsys.readouterr()
            return SimpleNamespace(code=code, out=written.out, err=written.err, folder=folder)

        yield run


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a push asks for: who one is, a repository, how each file is taken, files, a commit."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _allowed(self) -> bool:
        if allowed := self.headers.get("Authorization") == "Bearer right":
            return allowed
        self._answer({"error": "Invalid credentials"}, 401)
        return False

    def do_GET(self) -> None:
        if self._allowed():
            self._answer({"name": "me", "type": "user"} if self.path == "/api/whoami-v2" else {"sha": "0" * 40})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.stored[self.path.rpartition("/")[2]] = content
        self._answer({})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._allowed():
            return
        address = f"http://{self.headers['Host']}"
        if self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self.server.made.append(asked := json.loads(raw))
            kind = "datasets/" * (asked.get("type") == "dataset")
            self._answer({"url": f"{address}/{kind}{asked['organization']}/{asked['name']}"})
        elif "/preupload/" in self.path:
            large = [(one["path"], one["path"].endswith(".safetensors")) for one in json.loads(raw)["files"]]
            modes = [{"path": p, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False} for p, lfs in large]
            self._answer({"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                one | {"actions": {"upload": {"href": f"{address}/lfs/{one['oid']}", "header": {}}}}
                for one in json.loads(raw)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        else:
            assert "/commit/" in self.path, self.path
            self.server.commits.append((self.path, [json.loads(line) for line in raw.splitlines()]))
            repo = self.path.removeprefix("/api/").removeprefix("models/").partition("/commit/")[0]
            about = {"commitUrl": f"{address}/{repo}/commit/{'1' * 40}", "commitOid": "1" * 40, "success": True}
            about |= {"hookOutput": ""}
            self._answer(about)


@pytest.fixture
def hub(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    """A stand-in at an address of its own, which the client takes for the hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.made, server.commits, server.stored = [], [], {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "right")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def pushed(server: ThreadingHTTPServer) -> dict[str, bytes]:
    """The files of the one commit that the stand-in got."""
    ((_, lines),) = server.commits
    files = {}
    for line in lines:
        if line["key"] == "file":
            files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        elif line["key"] == "lfsFile":
            files[line["value"]["path"]] = server.stored[line["value"]["oid"]]
    return files


def test_a_lora_with_its_card_goes_to_the_hub(generate: Callable, hub: ThreadingHTTPServer, capsys):
    asked = ["class_name=tanker", "export=out", "license=cc-by-4.0", "push=me/tankers", "export_dtype=float16"]
    run = generate(capsys, *asked)
    assert run.code == 0, run.err
    assert hub.made[0].items() >= {"name": "tankers", "organization": "me"}.items()
    assert hub.made[0].get("private", True) is True or hub.made[0].get("visibility") == "private"
    assert hub.commits[0][0].startswith("/api/models/me/tankers/commit/")
    files = pushed(hub)
    assert files.keys() == {"lora-tanker.safetensors", "README.md"}
    for name, content in files.items():
        assert content == (run.folder / "out" / name).read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.instance_prompt) == ("cc-by-4.0", "a SAR image of tanker ship")
    said = header(run.folder / "out/lora-tanker.safetensors")
    assert said["modelspec.sai_model_spec"] == "1.0.0" and said["modelspec.license"] == "cc-by-4.0"
    assert (said["modelspec.trigger_phrase"], said["modelspec.resolution"]) == ("a SAR image of tanker ship", "32x32")
    assert json.loads(said["ss_tag_frequency"])["sim"]["a SAR image of tanker ship"] == 4
    assert f"http://127.0.0.1:{hub.server_port}/me/tankers" in run.out
    assert 'strength 1, prompt "a SAR image of tanker ship"' in run.out and "on sd-nano" in run.out

    again = generate(capsys, "class_name=fishing", "export=out")  # its card tells of both
    assert again.code == 0, again.err
    text = (run.folder / "out/README.md").read_text()
    assert "`lora-tanker.safetensors`" in text and "`lora-fishing.safetensors`" in text


def test_a_file_that_is_named_has_its_card_beside_it(generate: Callable, capsys, tmp_path: Path):
    (tmp_path / "README.md").write_text("# A project")
    run = generate(capsys, "class_name=tanker", f"export={tmp_path}/mine.safetensors", "export_format=kohya")
    assert run.code == 0, run.err
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "mine.safetensors", "mine.md"}
    assert (tmp_path / "README.md").read_text() == "# A project"
    refused = generate(capsys, "class_name=tanker", f"export={tmp_path}")
    assert refused.code == 1 and "README.md is there already" in refused.err
    lost = generate(capsys, "class_name=tanker", f"export={tmp_path}/mine.safetensors", "results=nowhere")
    assert lost.code == 1 and "results=nowhere: no such folder" in lost.err


def test_a_synthetic_set_with_its_card_goes_to_the_hub(generate: Callable, hub: ThreadingHTTPServer, capsys):
    run = generate(capsys, "export_format=images", "export=set", "push=me/ships", "push_private=false")
    assert run.code == 0, run.err
    assert hub.made[0]["type"] == "dataset"
    files = pushed(hub)
    rows = [json.loads(line) for line in files["metadata.jsonl"].decode().splitlines()]
    assert files.keys() == {"README.md", "metadata.jsonl", *(row["file_name"] for row in rows)}
    card = DatasetCard(files["README.md"].decode())
    assert card.data.task_categories == ["image-classification"] and card.data.size_categories == "n<1K"
    assert "No radar has seen" in card.text and card.data.license is None
    (run.folder / "set/README.md").unlink()
    refused = generate(capsys, "export_format=images", "export=set")
    assert refused.code == 1 and "holds something else" in refused.err


def test_a_push_that_cannot_work_is_refused_before_anything_is_made(hub: ThreadingHTTPServer, monkeypatch):
    pushing.check_push("me/it")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(UserError, match=r"^push=me/it: the hub refuses this token"):
        pushing.check_push("me/it")
    monkeypatch.setattr(pushing, "get_token", lambda: None)
    with pytest.raises(UserError, match="no token of the hub"):
        pushing.check_push("me/it")
    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        pushing.check_push("me/it")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "right")
    with pytest.raises(UserError, match="cannot be reached"):
        pushing.check_push("me/it")

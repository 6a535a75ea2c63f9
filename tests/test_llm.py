"""The language model behind the keywords: a local server that speaks its protocol, in every mood."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_conf import settings

from sarsynth.captions.aspects import FourAspects, Keywords
from sarsynth.captions.llm import _parse
from sarsynth.captions.templates import Subject
from sarsynth.data.records import ImageRecord, Instance
from sarsynth.errors import UserError

KEY = "sk-secret-0123456789"
OPTIONS = settings("prompt=llm", "prompt.model=m").prompt.describer.options
ANSWERS = {
    "components": {"components": ["deck", "hull"], "factors": ["weather"]},
    "description": {"relations": "alone", "visibility": "clear", "direction": "north", "parts": "long deck"},
    "keywords": {"keywords": ["single ship", " red hull ", "red hull", "long deck", "wake"]},
}
Reply = tuple[int, dict[str, str], str]  # status, headers, body


def completion(content: str | None, **message: Any) -> Reply:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content} | message}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return 200, {}, json.dumps(body)


def sensible(request: dict[str, Any]) -> Reply:
    """Answer as asked: the form stands in the last question, or in the one before a repair."""
    for message in reversed(request["messages"]):
        for word in ("keywords", "relations", "components"):
            if message["role"] == "user" and f'{{"{word}"' in message["content"]:
                return completion(json.dumps(ANSWERS["description" if word == "relations" else word]))
    raise AssertionError(request)


@pytest.fixture
def server(monkeypatch) -> Iterator[SimpleNamespace]:
    """A server whose `moods` are used up first, one a request; then it is sensible."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    state = SimpleNamespace(moods=[], requests=[], keys=set(), busy=0, busiest=0, pause=0.0)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.requests.append(request)
                state.keys.add(self.headers["Authorization"])
                state.busy += 1
                state.busiest = max(state.busiest, state.busy)
                mood: Callable[[dict[str, Any]], Reply] = state.moods.pop(0) if state.moods else sensible
            time.sleep(state.pause)
            status, headers, body = mood(request)
            with lock:
                state.busy -= 1
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            """Stay quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/v1"
    state.stop = httpd.shutdown
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def model(server: SimpleNamespace, tmp_path: Path) -> Callable[..., FourAspects]:
    """The describer of prompt=llm with its own wordings, asking the local server."""

    def build(**changed: Any) -> FourAspects:
        own = {"base_url": server.url, "answers": tmp_path / "answers", "timeout": 20, "retries": 2}
        return FourAspects(**(OPTIONS | own | {"prices": {"input": 1.0, "output": 10.0}} | changed))

    return build


def subjects(count: int, name: str = "oil tanker") -> list[Subject]:
    return [
        Subject("ors", "set", name, ImageRecord(str(i), 0, "train", instances=(Instance((i, 0, 40, 9)),)), ("clear",))
        for i in range(count)
    ]


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "answers").glob("*.json"))


def test_the_papers_dialogue(server: SimpleNamespace, model, tmp_path: Path):
    told: list[str] = []
    answers = model(count=3).describe(subjects(3), told.append)
    assert answers == [("single ship", "red hull", "long deck")] * 3
    assert len(server.requests) == 1 + 3 + 3, "components once for the class, the rest for each image"
    first, last = server.requests[0], server.requests[-1]
    assert (first["model"], first["temperature"]) == ("m", 0.0)
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    assert [message["role"] for message in last["messages"]] == roles
    assert "oil tanker" in first["messages"][1]["content"]
    assert "looking straight down" in first["messages"][1]["content"]
    facts = re.search(r"known of it.*?(\{.*\})\. Describe four", last["messages"][3]["content"])[1]
    assert json.loads(facts)["known"] == ["clear"]
    assert json.loads(facts)["objects"][0]["name"] == "oil tanker"
    assert json.loads(last["messages"][2]["content"]) == ANSWERS["components"]
    assert server.keys == {f"Bearer {KEY}"}
    cost = (700 * 1.0 + 70 * 10.0) / 1e6
    assert told[0] == f"m, asked now: 7 answers, 700 + 70 tokens in and out, cost {cost:.4f}"
    assert len(kept(tmp_path)) == 7


def test_a_class_can_be_asked_about_once(server: SimpleNamespace, model):
    answers = model(scope="class").describe([*subjects(5), *subjects(2, "cargo")], lambda line: None)
    assert len(answers) == 7
    assert len(server.requests) == 2 * 3


def test_a_finished_dialogue_needs_no_server_and_no_key(server: SimpleNamespace, model, monkeypatch):
    told: list[str] = []
    first = model().describe(subjects(2), told.append)
    server.stop()
    monkeypatch.delenv("OPENAI_API_KEY")
    assert model(concurrency=1, timeout=1).describe(subjects(2), told.append) == first
    assert told[2].startswith("m, asked now: 0 answers, 0 + 0 tokens")
    assert told[3] == told[1], "what it cost in all"
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    "changed",
    [{"model": "n"}, {"options": {"temperature": 1.0}}, {"turns": OPTIONS["turns"] | {"system": "Be brief."}}],
    ids=["model", "options", "wording"],
)
def test_another_request_is_asked_anew(server: SimpleNamespace, model, changed: dict[str, Any]):
    model().describe(subjects(1), lambda line: None)
    model(**changed).describe(subjects(1), lambda line: None)
    assert len(server.requests) == 6


def test_requests_under_way_are_bounded(server: SimpleNamespace, model):
    server.pause = 0.02
    model(concurrency=3).describe(subjects(12), lambda line: None)
    assert 2 <= server.busiest <= 3


# --- Trouble ----------------------------------------------------------------------------------------------------------


def busy(request: dict[str, Any]) -> Reply:
    return 429, {"Retry-After": "0.3"}, '{"error": {"message": "slow down"}}'


def broken(request: dict[str, Any]) -> Reply:
    return 500, {"Retry-After": "0.01"}, "oops"


def torn(request: dict[str, Any]) -> Reply:
    status, headers, body = sensible(request)
    return status, headers, body[: len(body) // 2]


def slow(request: dict[str, Any]) -> Reply:
    time.sleep(0.6)
    return sensible(request)


def rude(request: dict[str, Any]) -> Reply:
    return completion("Sure! Here are some keywords: ship, hull")


def refusing(request: dict[str, Any]) -> Reply:
    return completion(None, refusal="I cannot help with warships.")


def wordy(request: dict[str, Any]) -> Reply:
    status, headers, body = sensible(request)
    reply = json.loads(body)
    content = reply["choices"][0]["message"]["content"]
    reply["choices"][0]["message"]["content"] = f"Here you are:\n```json\n{content}\n```"
    return status, headers, json.dumps(reply)


@pytest.mark.parametrize(
    ("mood", "changed", "requests"),
    [
        (busy, {}, 4),
        (broken, {}, 4),
        (torn, {}, 4),
        (slow, {"timeout": 0.3}, 4),
        (rude, {}, 4),
        (refusing, {}, 4),
        (wordy, {}, 3),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_passing_trouble(server: SimpleNamespace, model, mood, changed: dict[str, Any], requests: int):
    server.moods = [mood]
    began = time.monotonic()
    told: list[str] = []
    (answer,) = model(**changed).describe(subjects(1), told.append)
    assert answer == ("single ship", "red hull", "long deck", "wake")
    assert len(server.requests) == requests
    if mood is busy:
        assert time.monotonic() - began >= 0.3, "as long as the server says"
    if mood in (rude, refusing):
        assert server.requests[1]["messages"][-1]["content"].startswith("Your answer was not of the form")
        assert "400 + 40 tokens" in told[0], "the repair is paid for as well"
        assert model().describe(subjects(1), told.append) == [answer]
        assert len(server.requests) == requests, "and kept"


@pytest.mark.parametrize(
    ("mood", "changed", "requests", "message"),
    [
        (broken, {}, 3, "prompt.base_url=http://127.*: status 500"),
        (torn, {"retries": 1}, 2, "127.*: an answer that breaks off, 2 times"),
        (slow, {"timeout": 0.1, "retries": 0}, 1, "no answer in 0.1 s, 1 times; raise prompt.timeout"),
        (rude, {}, 2, "twice, on class oil tanker: `Sure! Here are some keywords: ship, hull`"),
        (refusing, {}, 2, "twice, on class oil tanker: `I cannot help with warships.`"),
        (lambda request: completion("{" * 500), {}, 2, r"on class oil tanker: `\{{159}…`"),
        (lambda request: (200, {}, '{"no": "chat"}'), {}, 1, "not OpenAI's chat protocol"),
        (lambda request: (401, {}, json.dumps({"error": {"message": f"bad key {KEY}"}})), {}, 1, r"bad key \*\*\*"),
    ],
    ids=["500", "torn", "time-out", "no JSON", "refusal", "malformed JSON", "no chat", "wrong key"],
)
def test_lasting_trouble(server: SimpleNamespace, model, tmp_path: Path, mood, changed, requests, message: str):
    server.moods = [mood] * 20
    with pytest.raises(UserError, match=message) as error:
        model(**changed).describe(subjects(1), lambda line: None)
    assert "\n" not in str(error.value)
    assert KEY not in str(error.value)
    assert error.value.__cause__ is None
    assert len(server.requests) == requests
    assert not [file for file in kept(tmp_path) if ".rejected" not in file.name]
    if requests == 2 and mood is not torn:
        (rejected,) = kept(tmp_path)
        assert len(json.loads(rejected.read_text())["answers"]) == 2, "nothing that was paid for is lost"
    server.moods = []
    assert len(model().describe(subjects(1), lambda line: None)) == 1, "trouble over"


def test_a_server_that_is_not_there(server: SimpleNamespace, model):
    with pytest.raises(UserError, match=r"prompt.base_url=http://127.0.0.1:1/v1: cannot be reached"):
        model(base_url="http://127.0.0.1:1/v1", retries=0).describe(subjects(1), lambda line: None)


def test_a_killed_dialogue_goes_on(server: SimpleNamespace, model, tmp_path: Path):
    def dying(request: dict[str, Any]) -> Reply:
        return 400, {}, '{"error": {"message": "gone"}}'

    server.moods = [sensible] * 4 + [dying] * 20
    with pytest.raises(UserError, match="status 400: .*run it again to go on"):
        model(concurrency=1).describe(subjects(6), lambda line: None)
    answered = len(kept(tmp_path))
    assert answered == 4
    server.moods, before = [], len(server.requests)
    (tmp_path / "answers" / ".half.part").write_text('{"answer"')  # what a kill leaves
    kept(tmp_path)[0].write_text("")  # what a full disk leaves
    assert len(model().describe(subjects(6), lambda line: None)) == 6
    assert len(server.requests) - before == 13 - answered + 1


def test_the_key_is_nowhere(server: SimpleNamespace, model, tmp_path: Path, caplog):
    caplog.set_level("DEBUG")
    server.moods = [lambda request: completion(json.dumps({"components": [f"key {KEY}"], "factors": ["b"]}))]
    model().describe(subjects(1), lambda line: None)
    texts = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert texts
    assert not any(KEY in text for text in texts)
    assert KEY not in caplog.text
    with pytest.raises(UserError, match="never the key itself") as error:
        settings("prompt=llm", "prompt.model=m", f"prompt.key_variable={KEY}")
    assert KEY not in str(error.value)


def test_servers_without_keys_are_asked_too(server: SimpleNamespace, model, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    model(key_variable="MY_KEY").describe(subjects(1), lambda line: None)
    monkeypatch.setenv("MY_KEY", "mine")
    model(key_variable="MY_KEY", model="n").describe(subjects(1), lambda line: None)
    assert server.keys == {"Bearer none", "Bearer mine"}


@pytest.mark.parametrize("answer", ["{" * 10_000_000, "}" * 5_000_000 + "{" * 5_000_000, '{"a":' * 2_000_000])
def test_megabytes_of_braces_are_an_answer_of_another_form(answer: str):
    began = time.monotonic()
    assert _parse(answer, Keywords) is None
    assert time.monotonic() - began < 5
    assert _parse('well, {"keywords": ["a"]}!', Keywords).keywords == ["a"]

"""A language model behind OpenAI's chat protocol: questions in, checked answers out, each paid for once. Torch-free.

Every answer is kept in a file named by the hash of its request, so that a killed run goes on where it stopped and a
finished one asks nothing. Time-outs, retries and Retry-After are the client library's, except for answers that break
off. Forms are checked here and not by the server, since not every server can.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sarsynth.console import progress
from sarsynth.errors import UserError, one_line
from sarsynth.files import write_text
from sarsynth.program import install

Form = TypeVar("Form", bound=BaseModel)
Message = dict[str, str]  # `role` and `content`
NO_KEY = "none"  # sent to servers that want no key
PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds before the first retry, doubled before each further one; as in the library
LONGEST_ANSWER = 100_000  # characters, hundreds of times what is asked for; what is beyond is cut off
START = 160  # characters of an answer, in a message


@dataclass(frozen=True)
class Question:
    """A conversation so far, which ends with the question; `about` is its class, for error messages."""

    about: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Usage:
    """Answers, and their tokens."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(sum(pair) for pair in zip(astuple(self), astuple(other), strict=True)))

    def cost(self, input_price: float, output_price: float) -> float:
        """What they cost, at these prices of a million tokens."""
        return (self.input_tokens * input_price + self.output_tokens * output_price) / 1e6


@dataclass(kw_only=True, eq=False)
class Chat:
    """Conversations with one model."""

    base_url: str  # of any server of OpenAI's chat protocol, e.g. `http://localhost:11434/v1`
    model: str  # its name there
    key_variable: str  # environment variable that holds the key; servers that want none answer without it
    options: Mapping[str, Any]  # further parameters of each request, e.g. {temperature: 0}
    repair: str  # what the model is told, once, after an answer of another form
    timeout: float  # seconds that an answer may take
    retries: int  # after a time-out, a lost connection, an answer that breaks off, or status 408, 409, 429 or 5xx
    concurrency: int  # requests under way at once
    answers: Path  # folder where answers are kept
    asked: Usage = field(default=Usage(), init=False)  # in this run
    kept: Usage = field(default=Usage(), init=False)  # from earlier runs

    def ask(self, questions: Sequence[Question], form: type[Form], title: str) -> list[Form]:
        """Answer questions, several at once; equal ones are asked once.

        Args:
            questions: What to ask.
            form: What the JSON object in each answer must hold.
            title: What the progress bar says.

        Raises:
            UserError: The server cannot be reached, refuses, or gives an answer of another form twice. Whatever was
                answered until then is kept.
        """
        names = [self._name(question) for question in questions]
        unique = dict(zip(names, questions, strict=True))
        answers: dict[str, Form] = {}
        for name in unique:
            if (read := self._read(name, form)) is not None:
                answers[name], usage = read
                self.kept += usage
        missing = {name: question for name, question in unique.items() if name not in answers}
        if missing:
            _ = self._client  # fails here, if at all, and not in a thread
            with progress(title, len(missing)) as advance, ThreadPoolExecutor(self.concurrency) as pool:
                jobs = {name: pool.submit(self._answer, name, question, form) for name, question in missing.items()}
                try:
                    for name, job in jobs.items():
                        answers[name], usage = job.result()
                        self.asked += usage
                        advance()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)  # requests under way end, and are kept
                    raise
        return [answers[name] for name in names]

    # --- Answers on disk ---------------------------------------------------------------------------------------------

    def _request(self, messages: Sequence[Message]) -> dict[str, Any]:
        return {"model": self.model, "messages": list(messages), **self.options}

    def _name(self, question: Question) -> str:
        request = {"base_url": self.base_url, **self._request(question.messages)}
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def _read(self, name: str, form: type[Form]) -> tuple[Form, Usage] | None:
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged file is no answer
            content = json.loads((self.answers / f"{name}.json").read_text(encoding="utf-8"))
            return form.model_validate(content["answer"]), Usage(**content["usage"])
        return None

    def _write(self, file: Path, content: Mapping[str, Any]) -> None:
        """Write whole or not at all, even if several processes write the same."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(content, ensure_ascii=False, indent=2))
        except OSError as error:
            raise UserError(
                f"prompt.answers={self.answers} cannot be written ({error.strerror}); choose another"
            ) from None

    # --- The server --------------------------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return os.environ.get(self.key_variable, "").strip() or NO_KEY

    @cached_property
    def _client(self) -> Any:
        try:
            from openai import OpenAI
        except ImportError:
            raise UserError(f"prompt=llm needs the package openai: {install('llm')}") from None
        return OpenAI(base_url=self.base_url, api_key=self._key, timeout=self.timeout, max_retries=self.retries)

    def _answer(self, name: str, question: Question, form: type[Form]) -> tuple[Form, Usage]:
        """Ask, and ask once more for the right form; keep the answer before it is used."""
        first, usage = self._post(question.messages)
        answer = _parse(first, form)
        if answer is None:
            reminder = ({"role": "assistant", "content": first}, {"role": "user", "content": self.repair})
            second, more = self._post((*question.messages, *reminder))
            usage = replace(usage + more, answers=1)
            answer = _parse(second, form)
        if answer is None:
            file = self.answers / f"{name}.rejected.json"
            self._write(file, {"about": question.about, "answers": [first, second]})
            raise UserError(
                f"prompt.model={self.model}: refused or in another form, twice, on class {question.about}: "
                f"`{_shorten(second or first)}`; try again or another model (the answers are in {file})"
            )
        content = {
            "base_url": self.base_url,
            "request": self._request(question.messages),
            "answer": answer.model_dump(),
            "usage": usage.__dict__,
        }
        self._write(self.answers / f"{name}.json", content)
        return answer, usage

    def _post(self, messages: Sequence[Message]) -> tuple[str, Usage]:
        """Make one request; the text of a refusal counts as an answer."""
        import openai

        try:
            reply = self._create(messages)
            message = reply.choices[0].message
            text = message.content or getattr(message, "refusal", None) or ""
            used = reply.usage
        except openai.APIStatusError as error:
            hint = f"; set the environment variable {self.key_variable}" if error.status_code in (401, 403) else ""
            raise self._error(f"status {error.status_code}: {self._clean(error.message)}{hint}") from None
        except openai.APITimeoutError:
            tries = 1 + self.retries
            raise self._error(f"no answer in {self.timeout:g} s, {tries} times; raise prompt.timeout") from None
        except openai.APIConnectionError as error:
            cause = self._clean(str(error.__cause__ or error))
            raise self._error(f"cannot be reached ({cause}); is the server running?") from None
        except json.JSONDecodeError:
            raise self._error(f"an answer that breaks off, {1 + self.retries} times") from None
        except (openai.OpenAIError, AttributeError, IndexError, TypeError, ValueError) as error:
            raise self._error(f"not OpenAI's chat protocol ({type(error).__name__})") from None
        tokens = (used.prompt_tokens, used.completion_tokens) if used else (0, 0)
        return self._clean(text)[:LONGEST_ANSWER], Usage(1, *(int(count or 0) for count in tokens))

    def _create(self, messages: Sequence[Message]) -> Any:
        """Make one request, and again where its answer breaks off, which the library does not retry."""
        create = partial(
            self._client.chat.completions.create, model=self.model, messages=list(messages), extra_body=self.options
        )
        for attempt in range(self.retries):
            with suppress(json.JSONDecodeError):
                return create()
            time.sleep(min(PAUSE * 2**attempt, LONGEST_PAUSE))
        return create()

    def _error(self, reason: str) -> UserError:
        return UserError(f"prompt.base_url={self.base_url}: {reason}; what was answered is kept, run it again to go on")

    def _clean(self, text: str) -> str:
        """Take the key out of what a server says."""
        return text if self._key == NO_KEY else text.replace(self._key, "***")


def _parse(text: str, form: type[Form]) -> Form | None:
    """Read the JSON object in an answer, whatever stands around it; None if it is not of the form."""
    begin, end = text.find("{"), text.rfind("}") + 1  # no regular expression, which megabytes of braces keep for hours
    with suppress(ValidationError):
        return form.model_validate_json(text[begin:end]) if 0 <= begin < end else None
    return None


def _shorten(text: str) -> str:
    line = one_line(Exception(text))
    return line if len(line) <= START else line[: START - 1] + "…"

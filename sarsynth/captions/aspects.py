"""The paper's keywords by a language model, in three turns (section 4.1, Figure 3): components, aspects, keywords."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic.dataclasses import dataclass

from sarsynth.captions.llm import Chat, Message, Question
from sarsynth.captions.templates import Subject, check_fields

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Components(BaseModel):
    """First answer: the parts of a class that can be seen from above, and what changes how they look."""

    components: Annotated[list[Words], Field(min_length=1)]
    factors: Annotated[list[Words], Field(min_length=1)]


class Description(BaseModel):
    """Second answer: the four aspects, a sentence or more each."""

    relations: Words
    visibility: Words
    direction: Words
    parts: Words


class Keywords(BaseModel):
    """Third answer: the description without its filler words."""

    keywords: Annotated[list[Words], Field(min_length=1)]


class Turns(BaseModel):
    """What the model is told, turn by turn; `repair` follows an answer of another form.

    `{class_name}`, `{source}` (the data set), `{camera}`, `{facts}` (JSON) and `{count}` are filled in; other braces
    are written twice.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: Words
    components: Words
    description: Words
    keywords: Words
    repair: Words

    @field_validator("*")
    @classmethod
    def _check_braces(cls, template: str) -> str:
        check_fields(template, ("class_name", "source", "camera", "facts", "count"))
        return template


class Prices(BaseModel):
    """Prices of a million tokens, in any currency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class FourAspects:
    """Keywords of a language model; what is not explained here is as in `Chat`."""

    base_url: str
    model: str
    key_variable: str
    scope: Literal["image", "class"]  # asks about each image by its annotations, as the paper does, or each class once
    camera: dict[str, str]  # what took the images of each set (`data`, `ors`, `regular`), and from where
    count: Annotated[int, Field(ge=1)]  # keywords of an image, at most
    turns: Turns
    options: dict[str, Any]
    timeout: Annotated[float, Field(gt=0)]
    retries: Annotated[int, Field(ge=0)]
    concurrency: Annotated[int, Field(ge=1)]
    prices: Prices
    answers: Path

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^\s@?#]+", url):
            raise ValueError("say http(s)://host/path, without user, password or query")
        return url

    @field_validator("key_variable")
    @classmethod
    def _check_variable(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            raise ValueError("say the name of an environment variable, such as OPENAI_API_KEY, never the key itself")
        return name

    @property
    def recipe(self) -> Mapping[str, Any]:
        """All that decides which keywords it finds."""
        keys = ("base_url", "model", "scope", "camera", "count", "options")
        return {key: getattr(self, key) for key in keys} | {"turns": self.turns.model_dump()}

    @property
    def looks(self) -> bool:
        """Whether it asks about images one by one."""
        return self.scope == "image"

    def describe(self, subjects: Sequence[Subject], report: Callable[[str], None]) -> list[tuple[str, ...]]:
        """Ask about each subject, in three turns; equal questions are asked once.

        Raises:
            UserError: The server does not answer, or not in the form that is asked for.
        """
        chat = Chat(
            base_url=self.base_url,
            model=self.model,
            key_variable=self.key_variable,
            options=self.options,
            repair=self.turns.repair,
            timeout=self.timeout,
            retries=self.retries,
            concurrency=self.concurrency,
            answers=self.answers.expanduser(),
        )
        talks: list[list[Message]] = [[_message("system", self._fill(self.turns.system, s))] for s in subjects]
        answers: Sequence[BaseModel] = []
        for turn, form in (("components", Components), ("description", Description), ("keywords", Keywords)):
            for talk, subject in zip(talks, subjects, strict=True):
                talk.append(_message("user", self._fill(getattr(self.turns, turn), subject)))
            questions = [Question(s.class_name, tuple(talk)) for s, talk in zip(subjects, talks, strict=True)]
            answers = chat.ask(questions, form, f"prompts: {turn}")
            for talk, answer in zip(talks, answers, strict=True):
                talk.append(_message("assistant", answer.model_dump_json()))
        prices = (self.prices.input, self.prices.output)
        for which, usage in (("asked now", chat.asked), ("in all", chat.asked + chat.kept)):
            report(
                f"{self.model}, {which}: {usage.answers:,} answers, {usage.input_tokens:,} + {usage.output_tokens:,} "
                f"tokens in and out, cost {usage.cost(*prices):.4f}"
            )
        return [
            tuple(dict.fromkeys(answer.keywords))[: self.count] for answer in answers if isinstance(answer, Keywords)
        ]

    def _fill(self, template: str, subject: Subject) -> str:
        facts = _facts(subject) if self.looks else {}
        return template.format(
            class_name=subject.class_name,
            source=subject.set_name,
            camera=self.camera[subject.slot],
            facts=json.dumps(facts, ensure_ascii=False),
            count=self.count,
        )


def _facts(subject: Subject) -> dict[str, Any]:
    """What is known of one image: its objects, the one that it shows first, and the keywords that were measured."""
    objects = [
        {"name": instance.name or subject.class_name, "box": [round(edge) for edge in instance.box]}
        | ({"corners": [[round(x), round(y)] for x, y in instance.corners]} if instance.corners else {})
        for instance in subject.record.instances
    ]
    text = subject.record.text
    return {"objects": objects, "known": list(subject.words)} | ({"caption": text} if text else {})


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}

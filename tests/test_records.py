"""Records: minor classes, stratified parts, digests."""

from dataclasses import replace

import numpy as np
import pytest

from sarsynth.data.records import ImageRecord, Instance, class_counts, deci, digest, minor_classes, stratified_split
from sarsynth.errors import UserError

CLASSES = ["cargo", "other", "fishing", "tanker", "dredger"]
FUSRS = dict(zip(CLASSES, [3890, 1710, 814, 315, 242], strict=True))


def make_records(counts: dict[str, int]) -> list[ImageRecord]:
    return [
        ImageRecord(f"{name}/{index:05d}.png", label, "train")
        for label, (name, count) in enumerate(counts.items())
        for index in range(count)
    ]


def test_minor_classes_of_fusrs_are_the_papers() -> None:
    assert minor_classes(FUSRS, "auto") == ["fishing", "tanker", "dredger"]


def test_a_class_of_exactly_a_fifth_is_minor() -> None:
    assert minor_classes({"a": 80, "b": 20}, "auto") == ["b"]
    assert minor_classes({"a": 79, "b": 21}, "auto") == []


def test_minor_classes_by_name_keep_class_order() -> None:
    assert minor_classes(FUSRS, ["dredger", "other"]) == ["other", "dredger"]
    assert minor_classes(FUSRS, []) == []


@pytest.mark.parametrize("rule", [["tankr"], "all"])
def test_unknown_minor_class_is_refused(rule: list[str] | str) -> None:
    with pytest.raises(UserError, match=r"data\.minor.*(tanker|cargo)"):
        minor_classes(FUSRS, rule)


def test_deci_of_fusrs_is_a_tenth_of_every_class() -> None:
    tenth = deci(make_records(FUSRS), seed=0)
    assert list(class_counts(tenth, CLASSES).values()) == [389, 171, 81, 32, 24]


def test_split_is_disjoint_complete_and_seeded() -> None:
    records = make_records({"a": 50, "b": 7, "c": 1})
    parts = stratified_split(records, [0.2, 0.3], seed=1)
    assert sorted(record for part in parts for record in part) == sorted(records)
    assert parts == stratified_split(records[::-1], [0.2, 0.3], seed=1)
    assert parts != stratified_split(records, [0.2, 0.3], seed=2)
    assert list(class_counts(parts[0], "abc").values()) == [10, 1, 1]


def test_a_class_is_split_alike_whatever_the_others() -> None:
    few, more = make_records({"a": 50, "b": 20}), make_records({"a": 50, "b": 30})
    assert [r for r in deci(few, 0) if r.label == 0] == [r for r in deci(more, 0) if r.label == 0]


def test_digest_sees_every_field_and_the_order() -> None:
    records = make_records({"a": 2})
    others = [
        replace(records[0], **{key: value})
        for key, value in [
            ("path", "x"),
            ("label", 1),
            ("split", "val"),
            ("text", ""),
            ("instances", (Instance((0, 0, 1, 1)),)),
            ("group", "a"),
        ]
    ]
    digests = {digest(records), digest(records[::-1]), *(digest([other, records[1]]) for other in others)}
    assert len(digests) == 8
    assert digest(records) == digest(list(records))


# --- Groups -----------------------------------------------------------------------------------------------------------


def grouped(records: list[ImageRecord], size: int) -> list[ImageRecord]:
    """Put images into groups of that many, across classes."""
    shuffled = np.random.default_rng(0).permutation(len(records))
    return [replace(record, group=f"scene {place // size}") for record, place in zip(records, shuffled, strict=True)]


@pytest.mark.parametrize("size", [2, 7, 40])
def test_no_split_parts_a_group(size: int) -> None:
    records = grouped(make_records(FUSRS), size)
    parts = stratified_split(records, [0.1, 0.1], 0)
    assert sorted(record for part in parts for record in part) == sorted(records)
    groups = [{record.group for record in part} for part in parts]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    for part in parts[:2]:
        for name, count in class_counts(part, CLASSES).items():
            wanted = round(0.1 * FUSRS[name])
            assert abs(count - wanted) <= size


def test_groups_of_one_are_no_groups() -> None:
    records = make_records(FUSRS)
    alone = [replace(record, group=record.path) for record in records]
    paths = [[[record.path for record in part] for part in stratified_split(r, [0.3], 1)] for r in (records, alone)]
    assert paths[0] == paths[1]


def test_a_class_in_large_groups_gives_the_smallest() -> None:
    sizes = {"a": 9, "b": 5, "c": 6}
    records = [ImageRecord(f"{g}{i}", 0, "train", group=g) for g, count in sizes.items() for i in range(count)]
    part, rest = stratified_split(records, [0.1], 0)
    assert {record.group for record in part} == {"b"}
    assert len(rest) == 15


def test_deci_may_part_groups_since_the_rest_is_unused() -> None:
    records = [replace(record, group="one scene") for record in make_records(FUSRS)]
    assert len(deci(records, 0)) == 389 + 171 + 81 + 32 + 24
    assert [record.path for record in deci(records, 0)] == [record.path for record in deci(make_records(FUSRS), 0)]

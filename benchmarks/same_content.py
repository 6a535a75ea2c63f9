"""Whether two stores hold the same, whatever their fingerprints: for changes of the code that are to change no result.

    python benchmarks/same_content.py STORE OTHER_STORE

Run the same command line with either version of the code, each in a folder of its own, and compare their `logs/store`.
Artifacts are matched by kind and label; tensors are compared bit for bit, other files byte for byte, cards not at all.
"""

import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path

from safetensors import safe_open

from sarsynth.console import console

Content = dict[str, str]  # the digest of each file, or of each tensor in it


def content(folder: Path) -> Content:
    """Hash what an artifact holds."""
    digests: Content = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "card.json"):
        name = file.relative_to(folder).as_posix()
        if file.suffix != ".safetensors":
            digests[name] = hashlib.sha256(file.read_bytes()).hexdigest()
            continue
        with safe_open(file, "np") as tensors:
            for key in tensors.keys():  # noqa: SIM118  # it is no mapping
                tensor = tensors.get_tensor(key)
                about = f"{tensor.dtype} {tensor.shape} ".encode()
                digests[f"{name}: {key}"] = hashlib.sha256(about + tensor.tobytes()).hexdigest()
    return digests


def read(store: Path) -> dict[str, list[Content]]:
    """The contents of all artifacts, by kind and label; several may have the same."""
    found: dict[str, list[Content]] = defaultdict(list)
    for file in sorted(store.glob("*/*/card.json")):
        card = json.loads(file.read_text(encoding="utf-8"))
        found[f"{card['kind']}/{card['label']}"].append(content(file.parent))
    return found


def main(one: Path, other: Path) -> int:
    """Name what differs; the number of labels that do is the exit code, at most 1."""
    ours, theirs = read(one), read(other)
    labels, differ = sorted({*ours, *theirs}), 0
    for label in labels:
        left, right = (sorted(store.get(label, []), key=sorted) for store in (ours, theirs))
        if sorted(map(str, left)) == sorted(map(str, right)):
            continue
        differ += 1
        names = {name for a, b in zip(left, right, strict=False) for name, _ in set(a.items()) ^ set(b.items())}
        console.print(f"{label}: {len(left)} and {len(right)}; {', '.join(sorted(names)[:5])}", markup=False)
    console.print(f"{len(labels)} labels, {differ} differ")
    return min(1, differ)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

"""Whether two stores hold the same: for changes of the code that are to change no result.

    python benchmarks/same_content.py STORE OTHER_STORE
    python benchmarks/same_content.py PLAN.json OTHER_PLAN.json

Run the same command line with either version of the code, each in a folder of its own, and compare their `logs/store`;
or, for fingerprints alone, what `build=plan plan=FILE` writes. Artifacts are matched by kind, label and fingerprint;
tensors are compared bit for bit, other files byte for byte, of cards what does not depend on time, machine and version.
`--whatever-fingerprint` matches by kind and label, for changes that are to change fingerprints and no content.
"""

import argparse
import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path

from sarsynth.console import console

from safetensors import safe_open

Content = dict[str, str]  # the digest of each file, or of each tensor in it
OF_A_RUN = {"sarsynth", "git", "device", "processes", "seconds", "peak_memory_bytes", "disk_bytes", "created"}


def content(folder: Path, *, card: bool) -> Content:
    """Hash what an artifact holds."""
    digests: Content = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if file.name == "card.json":
            if card:
                kept = {key: value for key, value in json.loads(file.read_text()).items() if key not in OF_A_RUN}
                digests[name] = json.dumps(kept, sort_keys=True)
        elif file.suffix != ".safetensors":
            digests[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        else:
            with safe_open(file, "np") as tensors:
                for key in tensors.keys():  # noqa: SIM118  # it is no mapping
                    tensor = tensors.get_tensor(key)
                    about = f"{tensor.dtype} {tensor.shape} ".encode()
                    digests[f"{name}: {key}"] = hashlib.sha256(about + tensor.tobytes()).hexdigest()
    return digests


def read(source: Path, *, fingerprints: bool) -> dict[str, list[Content]]:
    """The contents of all artifacts by name; where fingerprints do not count, several may have the same."""
    contents: dict[str, list[Content]] = defaultdict(list)
    if source.is_file():
        for artifact in json.loads(source.read_text())["artifacts"]:
            contents[f"{artifact['kind']}/{artifact['label']}-{artifact['fingerprint']}"].append({})
        return contents
    for file in sorted(source.glob("*/*/card.json")):
        card = json.loads(file.read_text(encoding="utf-8"))
        name = f"{card['kind']}/{card['label']}" + f"-{card['fingerprint']}" * fingerprints
        contents[name].append(content(file.parent, card=fingerprints))
    return contents


def main(first: Path, second: Path, *, fingerprints: bool) -> int:
    """Name what differs; 1 if anything does."""
    ours, theirs = (read(source, fingerprints=fingerprints) for source in (first, second))
    names, differ = sorted({*ours, *theirs}), 0
    for name in names:
        left, right = (sorted(contents.get(name, []), key=sorted) for contents in (ours, theirs))
        if sorted(map(str, left)) == sorted(map(str, right)):
            continue
        differ += 1
        files = {file for a, b in zip(left, right, strict=False) for file, _ in set(a.items()) ^ set(b.items())}
        console.print(f"{name}: {len(left)} and {len(right)}; {', '.join(sorted(files)[:5])}", markup=False)
    console.print(f"{len(names)} artifacts, {differ} differ")
    return min(1, differ)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs=2)
    parser.add_argument("--whatever-fingerprint", action="store_true")
    arguments = parser.parse_args()
    sys.exit(main(*arguments.stores, fingerprints=not arguments.whatever_fingerprint))

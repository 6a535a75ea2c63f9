"""Images in files below a folder: what the readers of data sets share. Torch-free."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from sarsynth.data.chips import Window
from sarsynth.data.records import SPLITS, ImageRecord, Instance, Split, stratified_split
from sarsynth.errors import UserError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz")
DEPTH = 2  # folders that unpacking may put around a data set
SCENES = 2  # kept in memory while chips are cut from them


@dataclass(frozen=True)
class Found:
    """One image that a reader found.

    Attributes:
        file: Relative to the root, with forward slashes.
        class_name: What it shows.
        split: Which it belongs to.
        text: Its caption.
        instances: The objects in it, in px of what is read.
        group: What it shares with other images.
        window: The part of the file that is read; None for all of it.
        number: Which part of the file this is, for its name.
    """

    file: str
    class_name: str
    split: Split
    text: str | None = None
    instances: tuple[Instance, ...] = ()
    group: str | None = None
    window: Window | None = None
    number: int = 0

    @property
    def path(self) -> str:
        """Its name within the source: that of the file, and `#number` behind it for a part of one."""
        return self.file if self.window is None else f"{self.file}#{self.number:04d}"


class Files:
    """A source of images that lie in files below one folder. A reader finds them; this reads them.

    Args:
        root: The folder that the files' names start from.
        found: The images.
        channels: 1 (grey) or 3 (RGB) of the images that `read` returns.
        crop: Side in px of the square cut from the centre of every image, mirrored outwards where the image is smaller;
            None for the whole image.
        classes: Names in the order of their labels; None for those found, sorted.

    Raises:
        UserError: An argument is out of range, there are no images, or two have one name.
    """

    def __init__(
        self,
        root: Path,
        found: Iterable[Found],
        *,
        channels: int,
        crop: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        if channels not in (1, 3):
            raise UserError(f"channels={channels}: use 1 (grey) or 3 (RGB)")
        if crop is not None and crop < 1:
            raise UserError(f"crop={crop}: use a side in pixels, or null for whole images")
        self.root, self.channels, self.crop = root, channels, crop
        found = sorted(found, key=lambda one: one.path)
        if not found:
            raise UserError(f"root={root}: no image of any class there")
        self._found = {one.path: one for one in found}
        if len(self._found) < len(found):
            twice = next(path for path, count in Counter(one.path for one in found).items() if count > 1)
            raise UserError(f"{root / twice}: listed twice; remove one of its entries")
        self.classes = list(classes or sorted({one.class_name for one in found}))
        labels = {name: label for label, name in enumerate(self.classes)}
        self._records: dict[Split, list[ImageRecord]] = {split: [] for split in SPLITS}
        for one in found:
            record = ImageRecord(one.path, labels[one.class_name], one.split, one.text, one.instances, one.group)
            self._records[one.split].append(record)
        self._fingerprint: str | None = None
        self._scene = lru_cache(maxsize=SCENES)(self._open)
        self._lock = Lock()  # one thread decodes a scene while the others, who want the same, wait

    def records(self, split: Split) -> list[ImageRecord]:
        """List a split's images, sorted by path."""
        return list(self._records[split])

    def read(self, record: ImageRecord) -> np.ndarray:
        """Read one image, cut and cropped as the source says.

        Returns:
            uint8, shape (H, W, C); H = W = `crop` if there is one.

        Raises:
            UserError: The file is damaged, gone, or of a mode that has no obvious grey or RGB version.
        """
        one = self._found[record.path]
        if one.window is None:
            pixels = self._open(one.file)
        else:
            with self._lock:
                scene = self._scene(one.file)
            pixels = one.window.cut(scene)
        return pixels if self.crop is None else centre_crop(pixels, self.crop)

    def fingerprint(self) -> str:
        """Hex sha256 over each image's record, bytes and window, and classes, crop and channels."""
        if self._fingerprint is None:
            files = sorted({one.file for one in self._found.values()})
            with ThreadPoolExecutor() as pool:
                contents = dict(zip(files, pool.map(self._hash, files), strict=True))
            rows = []
            for record in sorted(record for split in SPLITS for record in self._records[split]):
                one = self._found[record.path]
                rows.append((*record.plain, one.window and one.window.plain, contents[one.file]))
            whole = json.dumps([self.classes, self.crop, self.channels, rows])
            self._fingerprint = hashlib.sha256(whole.encode()).hexdigest()
        return self._fingerprint

    def _open(self, file: str) -> np.ndarray:
        return open_image(self.root / file, self.channels)

    def _hash(self, file: str) -> str:
        try:
            with (self.root / file).open("rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{self.root / file}: cannot be read ({error.strerror})") from error


def split_off(found: Iterable[Found], fractions: Mapping[Split, float], seed: int) -> list[Found]:
    """Move fractions of every training class to other splits, whole groups at a time.

    Args:
        found: Images; those that are not in `train` stay as they are.
        fractions: Share of the training images for each other split.
        seed: Of the draw.

    Raises:
        UserError: A fraction is out of range, or a class has too few images to give any away.
    """
    for split, share in fractions.items():
        if not 0 < share < 1:
            raise UserError(f"{split}={share:g}: a fraction must lie between 0 and 1")
    if sum(fractions.values()) >= 1:
        raise UserError("val and test leave no training images: lower the fractions")
    found = list(found)
    train = {one.path: one for one in found if one.split == "train"}
    names = sorted({one.class_name for one in train.values()})
    records = [ImageRecord(path, names.index(one.class_name), "train", group=one.group) for path, one in train.items()]
    *parts, rest = stratified_split(records, list(fractions.values()), seed)
    for label in sorted({record.label for record in records} - {record.label for record in rest}):
        given = " and ".join(f"{split}={share:g}" for split, share in fractions.items())
        raise UserError(f"train: too few images of `{names[label]}` to give {given} away; add some")
    moved = {record.path: split for split, part in zip(fractions, parts, strict=True) for record in part}
    return [replace(one, split=moved[one.path]) if one.path in moved else one for one in found]


# --- Pixels -----------------------------------------------------------------------------------------------------------


def open_image(path: Path, channels: int) -> np.ndarray:
    """Read an image file.

    Returns:
        uint8, shape (H, W, channels).

    Raises:
        UserError: It is damaged, gone, or of a mode that has no obvious version of that many channels.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        raise UserError(f"{path}: this image is no longer there") from None
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
        raise UserError(f"{path}: cannot be read as an image ({error}); repair or remove it") from error
    return to_channels(image, channels, path)


def image_size(path: Path) -> tuple[int, int]:
    """Read an image's width and height in px from its header."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
        raise UserError(f"{path}: cannot be read as an image ({error}); repair or remove it") from error


def to_channels(image: Image.Image, channels: int, path: Path) -> np.ndarray:
    """Map an image to uint8 (H, W, channels) where that loses nothing; refuse where it would.

    A palette is replaced by its colours. Transparency that is the same everywhere says nothing and is dropped, be it
    full or none (BMP has files whose fourth byte is unused); where it varies, it is laid on black, as missing data are.

    Raises:
        UserError: Another mode, or colours where grey is wanted.
    """
    mode = image.mode
    if mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    pixels = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        pixels, alpha = pixels[..., :-1], pixels[..., -1:]
        if (alpha != alpha.flat[0]).any():
            pixels = ((pixels.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
    elif image.mode == "L":
        pixels = pixels[..., None]
    elif image.mode != "RGB":
        raise UserError(f"{path}: image mode {mode}; convert it to 8-bit grey (L) or RGB")
    if pixels.shape[2] == channels:
        return np.ascontiguousarray(pixels)
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if (pixels == pixels[..., :1]).all():
        return np.ascontiguousarray(pixels[..., :1])
    raise UserError(f"{path}: a colour image, but channels=1; convert it to grey or set channels=3")


def centre_crop(pixels: np.ndarray, side: int) -> np.ndarray:
    """Cut the central square out of an image, mirrored outwards where the image ends.

    Args:
        pixels: Shape (H, W, C).
        side: Side of the square in px. Where side and image differ by an odd number, the cut lies half a pixel towards
            the upper left.

    Returns:
        Shape (side, side, C).
    """
    missing = [max(0, side - length) for length in pixels.shape[:2]]
    top, left = (max(0, crop_offset(length, side)) for length in pixels.shape[:2])
    pixels = np.pad(pixels, [(m // 2, m - m // 2) for m in missing] + [(0, 0)], mode="reflect")
    return pixels[top : top + side, left : left + side]


def crop_offset(length: int, side: int) -> int:
    """Where a central cut of `side` px begins; negative where the image is shorter and is filled up."""
    return (length - side) // 2 if length >= side else -((side - length) // 2)


# --- Folders ----------------------------------------------------------------------------------------------------------


def locate(root: str | Path, what: str, *layouts: Sequence[str]) -> Path:
    """Find the folder that a data set was unpacked to: `root` itself, or one of those up to two levels below it.

    Args:
        root: Where to look.
        what: Name of the data set, for the message.
        layouts: The forms it comes in, the best one first: files and folders that must be there, with `*` for what
            varies; their case does not matter.

    Raises:
        UserError: There is no such folder or there are several; says what was expected and what was found.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"root={root}: no such folder")
    level = [root]
    for _ in range(DEPTH + 1):
        for layout in layouts:
            fitting = [folder for folder in level if all(matches(folder, pattern) for pattern in layout)]
            if len(fitting) > 1:
                raise UserError(f"root={root}: {what} lies there more than once; name one, e.g. {fitting[0]}")
            if fitting:
                return fitting[0]
        level = [folder for above in level for folder in children(above) if folder.is_dir()]
    expected = ", or ".join(" and ".join(layout) for layout in layouts)
    raise UserError(f"root={root}: not {what}: expected {expected}; found {listing(root)}")


def listing(folder: Path) -> str:
    """Say what lies in a folder, in a few words."""
    names = [child.name + ("/" if child.is_dir() else "") for child in children(folder)]
    packed = next((name for name in names if name.lower().endswith(ARCHIVES)), None)
    there = ", ".join(names[:8]) + (", …" if len(names) > 8 else "") or "nothing"
    return there + (f" (unpack {packed})" if packed else "")


def matches(folder: Path, pattern: str) -> list[Path]:
    """List what fits a pattern such as `train/labels*`, sorted; the case of letters does not matter."""
    places = [folder]
    for part in pattern.lower().split("/"):
        places = [child for place in places for child in children(place) if fnmatch(child.name.lower(), part)]
    return places


def children(folder: Path) -> list[Path]:
    """List a folder's entries that are not hidden, sorted; none of what is no folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if not entry.name.startswith("."))


def images_in(folder: Path) -> list[Path]:
    """List the images that lie directly in a folder, sorted."""
    return [child for child in children(folder) if child.suffix.lower() in EXTENSIONS]


def images_below(folder: Path) -> list[Path]:
    """List the images in a folder and in all folders below it, sorted; links to folders are not followed."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in EXTENSIONS)


def lines(file: Path) -> list[tuple[int, str]]:
    """Read the lines of a text file that are not blank, without white space around them, and their numbers from 1."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text file in UTF-8; convert it, or name a folder or another file") from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]

"""Contours: Canny as OpenCV has it, which images may give one, how they are shared out, maps of one's own."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sarsynth.data.records import Instance
from sarsynth.diffusion.contours import assign, canny, check_reuse, overlap, pack, read_maps, unpack, usable, whole
from sarsynth.errors import UserError
from sarsynth.sim import render

FRAME = (0, 0, 64, 64)
RULES = {"max_instances": 2, "max_overlap": 0.1}


def square(channels: int) -> np.ndarray:
    image = np.zeros((64, 64, channels), np.uint8)
    image[20:44, 16:48] = 200
    return image


@pytest.mark.parametrize(("domain", "channels"), [("sar", 1), ("ors", 3)])
def test_it_is_opencvs(domain: str, channels: int):
    pixels = render(0, 0, "tanker", domain).pixels
    assert pixels.shape[2] == channels
    np.testing.assert_array_equal(canny(pixels, (100, 200), 0), cv2.Canny(pixels.squeeze(), 100, 200))
    blurred = cv2.GaussianBlur(pixels.squeeze(), (0, 0), 1.5)
    np.testing.assert_array_equal(canny(pixels, (40, 80), 1.5), cv2.Canny(blurred, 40, 80))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_contour_of_a_square_is_its_border(channels: int):
    contour = canny(square(channels), (100, 200), 0)
    assert contour.dtype == np.uint8
    assert set(np.unique(contour)) == {0, 255}
    rows, columns = np.nonzero(contour)
    distance = np.minimum(np.minimum(abs(rows - 20), abs(rows - 44)), np.minimum(abs(columns - 16), abs(columns - 48)))
    assert distance.max() <= 1, "nothing inside or outside"
    assert len(rows) == pytest.approx(2 * (24 + 32), abs=8), "and all of it"
    # Whichever of the two pixels an edge lies between is taken, a square of grey has the same contour in colour.
    np.testing.assert_array_equal(contour, canny(square(4 - channels), (100, 200), 0))


def test_blur_takes_speckle_away_and_leaves_the_ship():
    pixels = render(0, 0, "other", "sar").pixels
    speckled, smooth = (canny(pixels, (30, 80), blur) for blur in (0, 2.0))
    assert np.count_nonzero(smooth) < np.count_nonzero(speckled) / 3
    assert np.count_nonzero(smooth) > 20


def test_packing_loses_nothing():
    contours = (np.random.default_rng(0).random((3, 16, 24)) > 0.5) * np.uint8(255)
    assert pack(contours).shape == (3, 16, 3)
    np.testing.assert_array_equal(unpack(pack(contours)), contours)


# --- Whole, and not crowded -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1, 1, 63, 63), True),
        ((10, 10, 20, 30), True),
        ((0, 10, 20, 30), False),
        ((10, 0.5, 20, 30), False),
        ((10, 10, 64, 30), False),
        ((10, 10, 20, 63.5), False),
        ((-5, 10, 20, 30), False),
        ((10, 10, 20, 80), False),
    ],
)
def test_an_object_at_the_border_is_not_whole(box, expected: bool):
    assert whole(Instance(box), FRAME) == expected
    shifted = Instance((box[0] + 30, box[1] + 5, box[2] + 30, box[3] + 5))
    assert whole(shifted, (30, 5, 94, 69)) == expected, "the border is that of what is seen"


def test_one_that_somebody_marked_is_not_whole():
    assert not whole(Instance((10, 10, 20, 20), truncated=True), FRAME)
    assert not whole(Instance((10, 10, 20, 20), difficult=True), FRAME)


def test_overlap_is_a_share_of_the_smaller_box():
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == 0.5
    assert overlap((0, 0, 10, 10), (2, 2, 4, 4)) == overlap((2, 2, 4, 4), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) == overlap((0, 0, 10, 10), (20, 20, 30, 30)) == 0
    assert overlap((0, 0, 10, 10), (5, 5, 5, 5)) == 0


def test_an_image_is_usable_if_its_objects_are_whole_and_few_and_apart():
    left, right, between = (Instance((x, 10, x + 20, 30)) for x in (5, 40, 24))
    assert usable([], FRAME, **RULES), "nobody marked anything: one whole object"
    assert usable([left], FRAME, **RULES)
    assert usable([left, right], FRAME, **RULES)
    assert overlap(left.box, between.box) == pytest.approx(0.05)
    assert usable([left, between], FRAME, **RULES)
    assert not usable([left, between], FRAME, max_instances=2, max_overlap=0.04)
    assert usable([between, right], FRAME, max_instances=2, max_overlap=0.2)
    assert not usable([left, right, Instance((5, 40, 20, 60))], FRAME, **RULES), "a crowd of three"
    assert usable([left, right, Instance((5, 40, 20, 60))], FRAME, max_instances=3, max_overlap=0.1)
    assert not usable([left, Instance((50, 10, 70, 30))], FRAME, **RULES), "one of them cut off"


# --- Sharing out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "paired"), [(7, 0), (7, 4), (7, 7), (1, 1)])
def test_contours_are_shared_out_evenly_whatever_the_number(size: int, paired: int):
    chosen = [assign(index, size, paired, (0, 1)) for index in range(5 * size)]
    for images in range(1, 5 * size):
        uses = Counter(chosen[:images])
        assert max(uses.values()) == -(-images // size)
        assert max(uses.values()) - min(uses.get(contour, 0) for contour in range(size)) <= 1
    assert chosen[:paired] == list(range(paired)), "the first ones follow their own image's contour"


def test_the_order_is_shuffled_by_the_seed_alone():
    def order(*seed: int) -> list[int]:
        return [assign(index, 20, 5, seed) for index in range(60)]

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(*seed)) for seed in [(0, 1), (0, 2), (1, 1)]}) == 3
    rounds = [order(0, 1)[first : first + 20] for first in (0, 20, 40)]
    assert [sorted(one) for one in rounds] == [list(range(20))] * 3
    assert rounds[0] != rounds[1] != rounds[2]


def test_a_contour_serves_no_more_images_than_the_cap():
    check_reuse({"cargo": 30, "tanker": 10}, {"cargo": 10, "tanker": 10}, reuse_cap=3)
    with pytest.raises(UserError, match=r"contours\.reuse_cap=3: the 10 contours of class cargo cannot give 31 images"):
        check_reuse({"cargo": 31}, {"cargo": 10}, reuse_cap=3)
    with pytest.raises(UserError, match=r"raise it to 4, or lower generate\.per_class"):
        check_reuse({"cargo": 31}, {"cargo": 10}, reuse_cap=3)
    with pytest.raises(UserError, match=r"contours: none for class tanker; .*contours\.root"):
        check_reuse({"tanker": 1}, {"tanker": 0}, reuse_cap=3)


# --- Maps of one's own ------------------------------------------------------------------------------------------------


def write(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def test_maps_of_ones_own(tmp_path: Path):
    contour = canny(square(1), (100, 200), 0)
    write(tmp_path / "tanker/b.png", contour)
    write(tmp_path / "tanker/a.png", np.repeat((255 - contour)[..., None], 3, axis=2))
    maps = read_maps(tmp_path, ["cargo", "tanker"], 64)
    assert maps.paths == {"cargo": [], "tanker": ["tanker/a.png", "tanker/b.png"]}
    assert maps.contours["cargo"].shape == (0, 64, 64)
    np.testing.assert_array_equal(maps.contours["tanker"], np.stack([contour, contour]))
    assert maps.turned == ["tanker/a.png"], "it is dark on white"
    known = maps.fingerprint()
    assert known == read_maps(tmp_path, ["cargo", "tanker"], 64).fingerprint()
    write(tmp_path / "tanker/b.png", np.flip(contour, axis=0).copy())
    assert known != read_maps(tmp_path, ["cargo", "tanker"], 64).fingerprint()


def test_other_maps_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"contours\.root=.*nowhere: no such folder"):
        read_maps(tmp_path / "nowhere", ["tanker"], 64)
    with pytest.raises(UserError, match=r"contours\.root=.*no PNG in a folder named after a class \(tanker\)"):
        read_maps(tmp_path, ["tanker"], 64)
    write(tmp_path / "tanker/a.png", np.zeros((32, 48), np.uint8))
    with pytest.raises(UserError, match=r"tanker/a\.png: a contour map of 48 x 32 px, but base\.image_size=64"):
        read_maps(tmp_path, ["tanker"], 64)
    (tmp_path / "tanker/a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"tanker/a\.png: cannot be read as an image"):
        read_maps(tmp_path, ["tanker"], 64)

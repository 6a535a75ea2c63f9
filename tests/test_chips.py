"""Chips: where windows lie, what they cut, which objects they show."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from sarsynth.data.chips import LISTED, STEP, Cutting, Marked, Window, instances, rectangle
from sarsynth.errors import UserError

FITTED = Cutting(size=None, margin=0.25, rotate=False)


def turned(x: float, y: float, length: float, width: float, degrees: float) -> tuple[tuple[float, float], ...]:
    """Corners of a box whose longer side points `degrees` from the rows, clockwise as seen."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offsets = [(-length / 2, -width / 2), (length / 2, -width / 2), (length / 2, width / 2), (-length / 2, width / 2)]
    return tuple((x + u * cos - v * sin, y + u * sin + v * cos) for u, v in offsets)


def drawn(corners: tuple[tuple[float, float], ...], size: tuple[int, int] = (400, 300)) -> np.ndarray:
    """A black scene (H, W, 1) with a white object."""
    scene = np.zeros((size[1], size[0]), np.uint8)
    cv2.fillPoly(scene, [np.round(np.array(corners)).astype(np.int32)], 255)
    return scene[..., None]


def test_an_upright_chip_is_the_scenes_own_pixels() -> None:
    scene = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    window = Cutting(50, 0, rotate=False).window(rectangle(100, 80, 140, 90), 400, 300)
    assert (window.x, window.y, window.side, window.angle) == (120, 85, 50, 0)
    np.testing.assert_array_equal(window.cut(scene), scene[60:110, 95:145])


@pytest.mark.parametrize(
    ("box", "left", "top"),
    [
        ((0, 0, 10, 10), 0, 0),
        ((390, 290, 400, 300), 350, 250),
        ((-20, 120, 4, 130), 0, 100),
        ((200, 0, 210, 4), 180, 0),
    ],
)
def test_an_upright_chip_shifts_into_its_scene(box: tuple[float, ...], left: int, top: int) -> None:
    scene = np.random.default_rng(0).integers(0, 256, (300, 400, 1), dtype=np.uint8)
    window = Cutting(50, 0, rotate=False).window(rectangle(*box), 400, 300)
    np.testing.assert_array_equal(window.cut(scene), scene[top : top + 50, left : left + 50])


@pytest.mark.parametrize("rotate", [False, True])
def test_a_chip_larger_than_its_scene_is_mirrored_outwards(rotate: bool) -> None:
    scene = np.random.default_rng(0).integers(0, 256, (30, 40, 1), dtype=np.uint8)
    window = Cutting(64, 0, rotate).window(turned(20, 15, 20, 5, 30 * rotate), 40, 30)
    chip = window.cut(scene)
    assert chip.shape == (64, 64, 1)
    if not rotate:
        np.testing.assert_array_equal(chip[17:47, 12:52], scene)
        np.testing.assert_array_equal(chip[16, 12:52], scene[1])


@pytest.mark.parametrize(("length", "margin", "side"), [(40, 0, 64), (64, 0, 64), (65, 0, 128), (100, 0.25, 192)])
def test_a_fitted_chip_has_a_side_of_a_multiple_of_64(length: float, margin: float, side: int) -> None:
    for rotate in (False, True):
        window = replace(FITTED, margin=margin, rotate=rotate).window(rectangle(0, 0, 10, length), 900, 900)
        assert window.side == side
        assert window.side % STEP == 0


@pytest.mark.parametrize("degrees", [0, 20, 45, 80, 90, 110, 170])
@pytest.mark.parametrize("first", range(4))
def test_a_turned_chip_lays_its_object_along_the_rows(degrees: float, first: int) -> None:
    corners = turned(200, 150, 90, 20, degrees)
    corners = corners[first:] + corners[:first]  # whichever corner an annotator began with
    window = Cutting(128, 0, rotate=True).window(corners, 400, 300)
    chip = window.cut(drawn(corners))[..., 0]
    rows, columns = np.nonzero(chip > 127)
    assert np.ptp(columns) == pytest.approx(90, abs=2)
    assert np.ptp(rows) == pytest.approx(20, abs=2)
    assert (columns.mean(), rows.mean()) == pytest.approx((64, 64), abs=1)
    assert -90 <= window.angle <= 90, "the smaller turn"


def test_a_turn_by_nothing_changes_no_pixel() -> None:
    scene = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    upright = Window(45, 45, 32).cut(scene)
    np.testing.assert_array_equal(Window(45, 45, 32, 1e-9).cut(scene), upright)
    np.testing.assert_array_equal(Window(45, 45, 32, 90.0).cut(scene), np.rot90(upright))


@pytest.mark.parametrize("rotate", [False, True])
def test_instances_lie_where_the_pixels_are(rotate: bool) -> None:
    corners = turned(200, 150, 90, 20, 33)
    objects = [Marked("ship", rectangle(0, 0, 5, 5)), Marked("ship", corners, difficult=True)]
    window = Cutting(128, 0, rotate).window(corners, 400, 300)
    ((shown,),) = instances(objects, [(1, window)], 400, 300)
    rows, columns = np.nonzero(window.cut(drawn(corners))[..., 0] > 127)
    assert shown.box == pytest.approx((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), abs=2)
    assert (shown.truncated, shown.difficult) == (False, True)


def test_the_own_object_comes_first_and_a_crowd_is_cut_short() -> None:
    objects = [Marked("ship", rectangle(10 * i, 50, 10 * i + 4, 60)) for i in range(60)]
    window = Window(300, 55, 900)
    (shown,) = instances(objects, [(30, window)], 600, 100)
    assert len(shown) == LISTED
    centre = (shown[0].box[0] + shown[0].box[2]) / 2
    far = [abs((one.box[0] + one.box[2]) / 2 - centre) for one in shown]
    assert far == sorted(far)
    assert window.locate(np.array([302.0, 55.0]))[0] == centre


def test_what_reaches_beyond_the_scene_is_truncated() -> None:
    objects = [Marked("ship", rectangle(-1, 20, 9, 30)), Marked("ship", rectangle(0, 40, 9, 50))]
    (whole,) = instances(objects, [(0, None)], 100, 100)
    assert [one.truncated for one in whole] == [True, False]
    assert whole[1].box == (0, 40, 9, 50)


@pytest.mark.parametrize(("keys", "message"), [({"size": 0}, "size=0"), ({"margin": -0.1}, "margin=-0.1")])
def test_values_out_of_range_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(FITTED, **keys)

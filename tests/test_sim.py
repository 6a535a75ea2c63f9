"""The embedded world: pure functions of the key, radar statistics as theory has them, sets as they are asked for."""

import numpy as np
import pytest

from sarsynth.data.records import class_counts, minor_classes
from sarsynth.data.simulated import Simulated
from sarsynth.errors import UserError
from sarsynth.sim import CLASSES, DOMAINS, generic_picture, render
from sarsynth.sim.aerial import COMPASS, Scene
from sarsynth.sim.radar import Radar, draw_radar, point_spread, sea_clutter, speckle
from sarsynth.sim.ships import Ship
from sarsynth.sim.world import ship

SHARES_OF_FUSRS = {"cargo": 389, "other": 171, "fishing": 81, "tanker": 32, "dredger": 24}


def pixels(*key, **how) -> bytes:
    return render(*key, **how).pixels.tobytes()


# --- Purity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", CLASSES)
def test_a_picture_is_a_function_of_its_key(name, domain):
    known = render(3, 17, name, domain)
    np.random.seed(1)  # what others draw must not matter
    render(4, 1, "cargo", "regular")
    again = render(3, 17, name, domain)
    assert again.pixels.tobytes() == known.pixels.tobytes()
    assert again.text == known.text
    assert known.pixels.dtype == np.uint8
    assert known.pixels.shape == (64, 64, 1 if domain == "sar" else 3)
    assert (known.text is None) == (domain == "sar")
    assert known.pixels.std() > 5, "something is to be seen"


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_part_of_the_key_counts(domain):
    keys = [(0, 0, "cargo"), (1, 0, "cargo"), (0, 1, "cargo"), *((0, 0, name) for name in CLASSES[1:])]
    assert len({pixels(*key, domain) for key in keys}) == len(keys)


def test_domains_draw_from_streams_of_their_own():
    grey = {domain: render(0, 0, "cargo", domain).pixels.mean(axis=2).round() for domain in DOMAINS}
    assert not np.array_equal(grey["regular"], grey["ors"])
    assert not np.array_equal(grey["ors"], grey["sar"])


def test_the_ship_is_the_same_in_every_domain():
    for name in CLASSES:
        known = ship(5, 8, name)
        assert known == ship(5, 8, name) != ship(5, 9, name)
        assert known.class_name == name
        aerial = render(5, 8, name, "ors").text
        assert f"{name} ship" in aerial
        assert f"{known.hull_colour} hull" in aerial
        assert all(part in aerial for part in known.parts), "captions name what the shared geometry has"


def test_captions_of_aerial_views_name_what_the_papers_aspects_ask_for():
    headings, said = set(), set()
    for index in range(40):
        first, hull, *words, heading = render(0, index, CLASSES[index % 5], "ors", size=32).text.split(", ")
        assert first == f"ORS {CLASSES[index % 5]} ship"
        assert hull.endswith(" hull")
        headings.add(heading)
        said |= set(words)
    assert headings <= set(COMPASS)
    assert len(headings) >= 6
    assert {"wake", "rough"} <= said


def test_the_embedded_base_sees_aerial_captions_to_their_end(nano):
    """Its text encoder has 40 positions; what lies beyond would never be learned."""
    texts = [render(0, index, name, "ors", size=32).text for name in CLASSES for index in range(100)]
    assert [cut for _, cut in nano.cut(texts) if cut] == []
    assert len(set(texts)) > 300


@pytest.mark.parametrize("size", [32, 64, 96])
def test_size_is_the_side_in_pixels(size):
    for domain in DOMAINS:
        assert render(0, 0, "tanker", domain, size).pixels.shape[:2] == (size, size)


def test_generic_pictures_are_grey_and_speckled_every_second_time():
    for index in range(8):
        picture = generic_picture(0, index)
        assert picture.pixels.tobytes() == generic_picture(0, index).pixels.tobytes()
        grey = (picture.pixels == picture.pixels[..., :1]).all()
        assert grey == bool(index % 2)
    plain = generic_picture(0, 1, speckled=False).pixels
    assert not (plain == plain[..., :1]).all()


# --- Radar statistics -------------------------------------------------------------------------------------------------
# Tolerances are five standard errors of the estimate or more; every stream is seeded.


@pytest.mark.parametrize("looks", [1, 2, 4, 16])
def test_speckle_is_gamma_with_the_stated_looks(looks):
    mean = np.full((700, 700), 3.0)
    intensity = speckle(mean, looks, np.random.default_rng(0))
    assert intensity.min() >= 0
    assert intensity.mean() == pytest.approx(3.0, rel=0.01)
    assert intensity.var() / 9 == pytest.approx(1 / looks, rel=0.03)
    skewness = ((intensity - 3) ** 3).mean() / intensity.std() ** 3
    assert skewness == pytest.approx(2 / np.sqrt(looks), rel=0.1)


def test_speckle_keeps_the_scene():
    scene = np.outer(np.linspace(0, 2, 40), np.linspace(1, 3, 40))
    rng = np.random.default_rng(0)
    average = np.mean([speckle(scene, 4, rng) for _ in range(400)], axis=0)
    np.testing.assert_allclose(average, scene, rtol=0.15)
    assert (average[0] == 0).all()


@pytest.mark.parametrize("looks", [1, 3])
@pytest.mark.parametrize("texture", [2.0, 10.0])
def test_speckled_sea_is_k_distributed(texture, looks):
    rng = np.random.default_rng(1)
    sea = sea_clutter((1000, 1000), 0.03, texture, rng)
    assert sea.mean() == pytest.approx(0.03, rel=0.01)
    intensity = speckle(sea, looks, rng)
    expected = (1 + 1 / texture) * (1 + 1 / looks) - 1
    assert intensity.mean() == pytest.approx(0.03, rel=0.01)
    assert intensity.var() / intensity.mean() ** 2 == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("bandwidth", [0.22, 0.3, 0.5])
@pytest.mark.parametrize("pedestal", [0.08, 0.6, 1.0])
def test_the_point_spread_keeps_the_power_of_white_noise(bandwidth, pedestal):
    spectrum = point_spread(64, bandwidth, pedestal)
    assert np.mean(spectrum**2) == pytest.approx(1)
    white = np.random.default_rng(0).standard_normal((60, 2, 64, 64))
    field = white[:, 0] + 1j * white[:, 1]
    filtered = np.fft.ifft2(np.fft.fft2(field) * spectrum)
    assert np.mean(np.abs(filtered) ** 2) == pytest.approx(2, rel=0.04)


def test_an_unweighted_band_has_the_sidelobes_of_a_sinc_and_hamming_has_few():
    def highest_sidelobe(pedestal: float) -> float:
        """In dB below the peak, along one axis, of the response to a point."""
        side = 1024
        response = np.abs(np.fft.ifft(point_spread(side, 0.25, pedestal)[0]))
        falls = np.flatnonzero(np.diff(response) > 0)[0]  # the first null: beyond it all is sidelobe
        return 20 * np.log10(response[falls : side // 2].max() / response[0])

    assert highest_sidelobe(1.0) == pytest.approx(-13.26, abs=0.3)
    assert highest_sidelobe(0.08) < -40


def mast(height: float) -> Ship:
    """A hull with one tall mast amidships."""
    plain = Ship("cargo", 100, 15, 2, 0.1, "grey", (120, 120, 120))
    if height:
        plain.bar((0.5, 0.0, 0.0), (0.5, 0.0, height), 1.0, (0, 0, 0), echo=40.0)
    return plain


def test_what_is_tall_is_laid_over_towards_the_sensor():
    """The sensor is on the left: a mast draws a bright streak from its foot towards column 0, whatever the heading."""
    calm = Radar(looks=4, clutter=(1e-4, 1e-4), dropout=(0.0, 0.0))

    def centroid(height: float, seed: int) -> float:
        """Column of the picture's centre of brightness, in pixels."""
        chip = draw_radar(mast(height), 64, np.random.default_rng(seed), calm)[..., 0].astype(float)
        bright = chip**4
        return float((bright.sum(axis=0) * np.arange(64)).sum() / bright.sum())

    def moved(seed: int) -> tuple[float, float]:
        return centroid(20, seed), centroid(60, seed)

    low, high = np.array([moved(seed) for seed in range(12)]).T
    assert (high < low - 1).all()


@pytest.mark.parametrize("looks", [1, 2, 8])
def test_the_sea_of_a_chip_has_the_looks_of_its_radar(looks, monkeypatch):
    """A flat sea without texture: what varies is speckle, whose normalised variance is 1 / looks."""
    monkeypatch.setattr("sarsynth.sim.radar.smooth_noise", lambda rng, size, cells: np.zeros((size, size)))
    radar = Radar(looks=looks, clutter=(0.1, 0.1), texture=(1e6, 1e6), dropout=(1.0, 1.0))
    ratios = []
    for seed in range(60):
        amplitude = draw_radar(mast(0), 64, np.random.default_rng(seed), radar)[:8, :, 0] / 255.0
        intensity = amplitude ** (2 / 0.8)  # undoes the chip's tone curve
        ratios.append(intensity.var() / intensity.mean() ** 2)
    # The stretch clips half a percent of the pixels, which takes up to 7 % off the variance.
    assert np.mean(ratios) == pytest.approx(1 / looks, rel=0.13)


# --- As a data set ----------------------------------------------------------------------------------------------------


def simulated(**changes) -> Simulated:
    settings = {"domain": "sar", "seed": 0, "train": SHARES_OF_FUSRS, "test": 20, "image_size": 64}
    return Simulated(**(settings | changes))


def test_class_counts_are_those_asked_for():
    source = simulated()
    assert source.classes == list(CLASSES)
    counts = class_counts(source.records("train"), source.classes)
    assert counts == SHARES_OF_FUSRS
    assert class_counts(source.records("test"), source.classes) == dict.fromkeys(CLASSES, 20)
    assert source.records("val") == []
    assert minor_classes(counts, "auto") == ["fishing", "tanker", "dredger"]
    assert class_counts(simulated(train={"tanker": 3}).records("train"), CLASSES)["cargo"] == 0


def test_test_ships_are_never_training_ships():
    source = simulated(train=30, test=30)
    train, test = (source.records(split) for split in ("train", "test"))
    assert not {record.path for record in train} & {record.path for record in test}
    assert not {source.read(r).tobytes() for r in train} & {source.read(r).tobytes() for r in test}


def test_records_are_read_as_the_world_draws_them():
    source = simulated(domain="ors", train=2, image_size=32)
    record = source.records("train")[3]
    expected = render(0, 1, CLASSES[1], "ors", 32)
    assert record.text == expected.text
    assert source.read(record).tobytes() == expected.pixels.tobytes()
    assert (source.channels, simulated().channels) == (3, 1)


def test_fingerprint_changes_with_every_setting_that_changes_pictures():
    changes = [{"seed": 1}, {"domain": "ors"}, {"train": 3}, {"test": 3}, {"image_size": 32}]
    prints = [simulated().fingerprint(), *(simulated(**change).fingerprint() for change in changes)]
    assert len(set(prints)) == len(prints)
    assert simulated().fingerprint() == prints[0]


def test_fingerprint_stands_for_the_code_that_draws(monkeypatch):
    before = simulated().fingerprint()
    monkeypatch.setattr("sarsynth.sim.radar.speckle", None)  # not used by chips: nothing changes
    assert simulated().fingerprint() == before
    monkeypatch.setattr("sarsynth.sim.radar.sea_clutter", lambda shape, mean, texture, rng: np.full(shape, mean))
    assert simulated().fingerprint() != before


def test_what_the_world_has_not_is_refused():
    with pytest.raises(UserError, match="domain=lidar: the simulated world has regular, ors, sar"):
        simulated(domain="lidar")
    with pytest.raises(UserError, match="`tankr` is not a class of the simulated world; it has cargo"):
        simulated(train={"tankr": 3})


@pytest.mark.parametrize("seed", range(6))
def test_the_box_of_an_aerial_view_is_around_the_hull(seed):
    white = Ship("cargo", 100.0, 20.0, 0.5, 0.1, "white", (255, 255, 255))
    scene = Scene.drawn(white, 128, np.random.default_rng(seed))
    pixels, box = scene.paint(), scene.box
    rows, columns = np.nonzero(pixels.min(axis=2) > 210)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(box, found, atol=1.5)


def test_an_aerial_view_has_one_instance_and_knows_when_it_is_cut_off():
    for record in Simulated("ors", 0, 2, 0, 64).records("train"):
        (instance,) = record.instances
        assert instance.truncated == (min(instance.box) < 0 or max(instance.box) > 64)
        assert not instance.difficult


@pytest.mark.parametrize("domain", ["regular", "sar"])
def test_other_views_have_no_boxes(domain):
    assert not any(record.instances for record in Simulated(domain, 0, 1, 0, 32).records("train"))

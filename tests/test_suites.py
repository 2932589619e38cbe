"""The suites in their quick form on a tiny model: one report, whole and by itself; their parts against known values."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from test_evaluate import PaintedBits

from fpgan.benchmarks.throughput import random_params
from fpgan.cli.app import main
from fpgan.errors import FpganError
from fpgan.evaluation.distances import precision_recall
from fpgan.evaluation.paper import SUITES, binding, curves, detection, peers, robustness, samples, study, verdicts
from fpgan.evaluation.paper.blocks import Charts, Picture, Section, Table, Text, markdown
from fpgan.evaluation.paper.charts import Panel, Series, line_chart
from fpgan.evaluation.paper.classifier import train_classifier
from fpgan.evaluation.paper.page import page
from fpgan.evaluation.paper.study import Journal, Plan, Study
from fpgan.evaluation.robustness import Trial
from fpgan.io.images import encode_png
from fpgan.model.format import save_model
from fpgan.networks.config import NetworkConfig
from fpgan.perturbations.registry import expand
from fpgan.perturbations.suites import SUITES as PERTURBATION_SUITES

VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Collects tags, and those that were opened and closed in the wrong order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    pytest.importorskip("robohash")
    folder = tmp_path_factory.mktemp("models")
    config = NetworkConfig(resolution=16, channel_base=16, channel_max=8, fingerprint_bits=64, latent_size=8, style_size=8,
                           mapping_layers=1, mapping_lr_multiplier=1.0, noise="none", bit_coding="plus_minus_one")
    for number, name in enumerate(("one", "two")):
        save_model(folder / name, config, random_params(config, number), {"name": name})
    return folder


@pytest.fixture(scope="module")
def report(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    command = ["evaluate", "--model", str(models / "one"), "--against", str(models / "two"), "--suite", "all",
               "--images", "24", "--registry-size", "1000", "--out", str(out),
               "--perturbations", "jpeg:90", "jpeg:50", "flip", "unmarker"]
    assert main(command) == 0
    return out, command


def test_every_suite_has_its_section_its_rows_and_its_tables(report):
    out, _ = report
    parsed, tables = Page((out / "index.html").read_text()), (out / "tables.md").read_text()
    assert [one["id"] for one in parsed.of("section")] == list(SUITES)
    for name, suite in SUITES.items():
        lines = [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        assert lines and all(line["seconds"] >= 0 and line["key"]["images"] == 24 for line in lines)
        assert f"## {suite.title}\n" in tables
    assert len(parsed.of("table")) > 12 and len([svg for svg in parsed.of("svg") if svg.get("role") == "img"]) >= 8


def test_the_page_is_whole_by_itself_and_can_be_heard(report):
    text = (report[0] / "index.html").read_text()
    parsed = Page(text)
    assert not parsed.wrong and not parsed.open
    assert not re.search(r"https?://|<script|@import|url\(", text)
    assert all(one["src"].startswith("data:image/png;base64,") and len(one["alt"]) > 20 for one in parsed.of("img"))
    assert all(link["href"].removeprefix("#") in SUITES for link in parsed.of("a"))
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and parsed.of("html") == [{"lang": "en"}]
    assert "prefers-color-scheme: dark" in text and "@media print" in text and "width=device-width" in text


def test_a_second_model_is_drawn_beside_the_first(report):
    text = (report[0] / "index.html").read_text()
    assert "works, one" in text and "works, two" in text and 'class="line b dashed"' in text


def test_the_same_command_measures_nothing_again(report, monkeypatch):
    out, command = report
    before = {path.name: path.read_bytes() for path in out.glob("*.jsonl")}
    monkeypatch.setattr(Journal, "keep", lambda *_: pytest.fail("measured again"))
    assert main(command) == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.jsonl")} == before


def test_a_suite_that_is_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    asked, measure = [], robustness.measure

    def stop(model, specs, *arguments):
        asked.append(specs[0])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return measure(model, specs, *arguments)

    def run():
        return robustness.robustness(Study(PaintedBits(), plan("jpeg:90", "flip", "grey"), Journal(tmp_path)))

    monkeypatch.setattr(robustness, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run() and asked == ["png", "jpeg:90", "flip", "flip", "grey"]
    assert len((tmp_path / "robustness.jsonl").read_text().splitlines()) == 4


def plan(*perturbations, count=40, **fields):
    return Plan(Trial(count=count, seed=3, n_users=1000), perturbations=perturbations, **fields)


def tables(blocks):
    return [block for block in blocks if isinstance(block, Table)]


def test_rows_count_for_their_model_and_settings_alone(tmp_path):
    journal, calls = Journal(tmp_path), []

    def make():
        calls.append(1)
        return {"value": len(calls)}

    one = Study(PaintedBits(), plan(), journal)
    assert [one.measured("s", "part", make)["value"] for _ in range(2)] == [1, 1]
    assert one.measured("s", "part", make, features="other")["value"] == 2
    assert Study(PaintedBits(), plan(count=41), journal).measured("s", "part", make)["value"] == 3
    assert Study(PaintedBits(), plan(), Journal(tmp_path)).measured("s", "part", make)["value"] == 1


def row(value):
    return {"bit_accuracy": dict(value=value, low=value - 0.01, high=value + 0.01), "soft": None, "hard": None}


def test_the_working_range_ends_where_the_line_falls_under_three_quarters():
    jpeg, blur, brightness = (next(one for one in curves.CURVES if one.title.startswith(name))
                              for name in ("JPEG, colour", "Gaussian blur", "Brightness"))
    rows = {"png": row(1.0), "jpeg:90": row(0.9), "jpeg:80": row(0.8), "jpeg:70": row(0.6), "jpeg:60": row(0.9)}
    assert robustness.working_range(jpeg, rows) == pytest.approx((90, 77.5))
    assert robustness.working_range(jpeg, rows | {"jpeg:90": row(0.7)}) is None
    assert robustness.working_range(blur, {"png": row(1.0), "blur:1": row(0.5)}) == pytest.approx((0, 0.5))
    both = {"png": row(1.0), "brightness:0.5": row(0.5), "brightness:1.5": row(0.9)}
    assert robustness.working_range(brightness, both) == pytest.approx((0.75, 1.5))


def test_curves_are_spelt_right_and_reports_try_every_named_operation():
    specs = curves.specs()
    assert expand(specs) == list(dict.fromkeys(expand(specs)))
    assert all(len(curve.specs()) >= 4 for curve in curves.CURVES)
    tried = {spec.split(":")[0] for spec in expand([*specs, *PERTURBATION_SUITES])}
    assert {"jpeg", "jpeg444", "webp", "avif", "crop", "resize", "rotate", "flip", "shift", "blur", "median", "noise", "hue",
            "brightness", "contrast", "saturation", "grey", "erase", "overlay", "quantise", "screenshot"} <= tried


def test_robustness_tells_known_errors_and_averages_suites():
    blocks = robustness.robustness(Study(PaintedBits(error_rate=0.2), plan("unmarker", "invert", count=60)))
    suites, = (table for table in tables(blocks) if table.head[0] == "suite")
    assert suites.rows[0][0] == "unmarker" and suites.rows[0][1] == "6"
    rows = {cells[0]: cells for cells in tables(blocks)[-1].rows}
    assert float(rows["`png`"][1].split()[0]) == pytest.approx(0.8, abs=0.02)
    assert float(rows["`invert`"][1].split()[0]) == pytest.approx(0.2, abs=0.02)


def test_bands_and_cells_are_parts_of_the_whole():
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    parts = samples._band_parts(images)
    np.testing.assert_allclose(sum(part for _, part in parts), images, atol=1e-5)
    assert parts[0][0][0] == 0 and parts[-1][0][1] == 0.5
    np.testing.assert_array_equal(sum(samples._cell_masks(16)), np.ones((16, 16, 1)))
    wave = np.cos(2 * np.pi * 5 / 16 * np.arange(16))[None, :, None, None] * np.ones((1, 1, 16, 3))
    energies = [np.square(part).sum() for _, part in samples._band_parts(wave)]
    assert np.argmax(energies) == 5 and max(energies) == pytest.approx(sum(energies))


def test_painted_bits_are_one_picture_in_every_place():
    found = Study(PaintedBits(), plan(count=30))
    likeness, carriers = samples._likeness(found), samples._carriers(found)
    assert likeness["two_latents"]["value"] == pytest.approx(1, abs=0.01)
    assert abs(likeness["two_pairs_of_fingerprints"]["value"]) < 0.1
    assert carriers["read_with_all"] == 1 and sum(carriers["cells"]) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(carriers["cells"], 1 / 64, rtol=0.6)
    assert sum(band["evidence"] for band in carriers["bands"]) == pytest.approx(1, abs=1e-3)


def test_detection_finds_every_user_and_accuses_nobody():
    pytest.importorskip("robohash")
    blocks = detection.detection(Study(PaintedBits(), plan("png", count=30)))
    closed, opened, calibration = tables(blocks)
    assert closed.rows[0][1].startswith("100.0%") and closed.rows[0][2].startswith("100.0%")
    assert closed.rows[0][3:5] == ["0", "0 of 30"]
    assert {cells[3] for cells in opened.rows} == {"0"} and "real" in {cells[0] for cells in opened.rows}
    counted = [int(cells[2].replace(",", "")) for cells in calibration.rows]
    assert counted[0] == pytest.approx(3000, rel=0.2) and counted == sorted(counted, reverse=True)
    assert any(isinstance(block, Text) and block.kind == "skipped" for block in blocks)  # it has no twin


def test_a_painted_fingerprint_can_be_copied_and_taken_off():
    pytest.importorskip("robohash")
    framing, removal = tables(binding.binding(Study(PaintedBits(), plan(count=24))))
    assert framing.rows[0][0].startswith("own image, same latents") and framing.rows[0][3].startswith("100.0%")
    assert {int(cells[1]) for cells in framing.rows} == set(binding.COUNTS)
    assert all(cells[2].startswith("0.0%") for cells in removal.rows)


def test_weights_are_changed_as_they_say():
    weights = {"layer": {"kernel": np.random.default_rng(0).normal(size=(20, 30)), "bias": np.ones(3)}}
    rng = np.random.default_rng(1)
    for change, holds in (("quantise:4", lambda w: len(np.unique(w)) <= 16), ("prune:0.3", lambda w: np.mean(w == 0) == 0.3),
                          ("noise:0.1", lambda w: np.std(w - weights["layer"]["kernel"]) == pytest.approx(0.1, rel=0.1))):
        changed = binding.change_weights(weights, change, rng)["layer"]
        assert holds(changed["kernel"]) and changed["bias"] is weights["layer"]["bias"]
    with pytest.raises(FpganError, match="expected quantise:8"):
        binding.change_weights(weights, "polish:1", rng)


@pytest.mark.slow
def test_the_classifier_learns_what_there_is_and_nothing_else():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (300, 8, 8, 3), np.uint8)
    images[150:, ::2, ::2, 0] += 40  # a fine pattern
    labels = np.repeat([0, 1], 150)
    order = rng.permutation(300)
    learned = train_classifier(images[order[:200]], labels[order[:200]], 2, epochs=30)
    assert learned.steps == 30 * 3
    assert (learned.scores(images[order[200:]]).argmax(axis=1) == labels[order[200:]]).mean() > 0.9
    guessed = train_classifier(images[:100], rng.integers(0, 2, 100), 2, epochs=5)
    assert 0.3 < (guessed.scores(images[100:150]).argmax(axis=1) == rng.integers(0, 2, 50)).mean() < 0.7


def test_precision_and_recall_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    generated, real = rng.normal(0, 0.5, (40, 3)), rng.normal(0, 1, (50, 3))

    def within(vectors, centres):
        radii = [sorted(np.linalg.norm(centres - c, axis=1))[3] for c in centres]
        return np.mean([any(np.linalg.norm(v - c) <= r for c, r in zip(centres, radii, strict=True)) for v in vectors])

    found = precision_recall(generated, real)
    assert found == pytest.approx((within(generated, real), within(real, generated)))
    assert found.precision > 0.8 > found.recall
    assert precision_recall(real, real) == (1, 1)
    with pytest.raises(FpganError, match="raise the count"):
        precision_recall(generated[:3], real)


@pytest.mark.parametrize("open_peer", peers.PEERS)
def test_peers_read_what_they_wrote(open_peer):
    try:
        peer = open_peer(64, 128)
    except FpganError as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(0)
    image = rng.integers(60, 190, (8, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    bits = rng.integers(0, 2, peer.bits, np.uint8)
    marked = peer.embed(image, bits)
    assert marked.shape == image.shape and marked.dtype == np.uint8 and 50 < peer.bits <= 64
    assert np.mean(peer.read(marked) == bits) > 0.9 > np.mean(peer.read(image) == bits)


def test_a_peer_that_is_not_there_is_passed_over_with_the_reason(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    for open_peer in peers.PEERS:
        with pytest.raises(FpganError, match=r"fpgan\[peers\]"):
            open_peer(64, 128)


def test_several_images_and_mixed_ones_are_counted():
    found = Study(PaintedBits(), plan("png", count=12))
    charts, table = verdicts.pooling(found)
    assert isinstance(charts, Charts) and all(cells[2].startswith("100.0%") and cells[4] == "0" for cells in table.rows)
    assert len(verdicts.collusion(found)[0].rows) == 3 * 4


def test_a_chart_has_its_points_where_they_belong_and_says_them():
    svg = line_chart("a <b>", "x & y", [Panel("share", [Series("s", [0, 1, 2], [0, 0.5, 1], [0, 0.4, 1], [0.1, 0.6, 1])])],
                     working=(0, 1))
    assert "a &lt;b&gt;" in svg and "x &amp; y" in svg and "share, s: 0 at 0, 1 at 2" in svg
    (points,) = re.findall(r'polyline class="line a" points="([^"]+)"', svg)
    x, y = np.array([point.split(",") for point in points.split()], float).T
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0])
    np.testing.assert_allclose(np.diff(y), np.diff(y)[0])
    assert y[0] > y[-1] and x[0] < x[-1]
    turned = line_chart("t", "x", [Panel("share", [Series("s", [10, 100], [0, 1])])], log=True, reverse=True)
    (points,) = re.findall(r'polyline class="line a" points="([^"]+)"', turned)
    assert float(points.split()[0].split(",")[0]) > float(points.split()[1].split(",")[0])


def test_a_page_shows_text_as_text():
    blocks = [Text("<script>alert(1)</script> `code`"), Table("a|b", ["x", "y"], [["<i>", "1,000"], ["b", "-"]]),
              Picture("c", 'a "picture"', encode_png(np.zeros((4, 4, 3), np.uint8)))]
    text = page("<t>", "l", [Section("s", "S & T", "q?", blocks)], {"command": "x"})
    assert "<script>" not in text and "<code>code</code>" in text and "S &amp; T" in text and "&lt;i&gt;" in text
    assert '<td class="n">1,000</td>' in text and not Page(text).wrong
    assert markdown(blocks[1]).splitlines() == ["| x   | y     |", "|-----|-------|", "| <i> | 1,000 |", "| b   | -     |"]


@pytest.mark.parametrize("arguments, message", [
    (["--suite", "robustnes"], "the nearest one is 'robustness'"), (["--suite", "samples", "--images", "1"], "expected 2"),
    (["--suite", "samples", "--out", __file__], "expected a folder"),
    (["--suite", "samples", "--twin", ""], "--twin is empty")])
def test_mistakes_end_in_one_line(arguments, message, capsys):
    assert main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_files_of_somebody_else_are_left_alone(tmp_path):
    (tmp_path / "samples.jsonl").write_text("a note\n")
    with pytest.raises(FpganError, match="line 1 is none of"):
        study.read_lines(tmp_path / "samples.jsonl")


def test_of_several_suites_one_that_cannot_be_run_says_so(tmp_path):
    from fpgan.evaluation.paper.suites import run_suites

    lost = Study(PaintedBits(), plan("png", count=24, data=str(tmp_path / "nowhere")))
    sections = list(run_suites(lost, ["detection", "robustness"]))
    assert [section.name for section in sections] == ["robustness", "detection"]
    assert sections[1].blocks[0].kind == "skipped" and "there are no images" in sections[1].blocks[0].text
    with pytest.raises(FpganError, match="there are no images"):
        list(run_suites(lost, ["detection"]))


def test_images_without_a_fingerprint_are_the_twins_or_do_not_depend_on_it(models):
    from fpgan.evaluation.paper.sources import silent, twin_images
    from fpgan.model import load

    images, name = twin_images(Study(PaintedBits(), plan(), twin=PaintedBits()), 3, 0)
    assert images.shape == (3, 16, 16, 3) and name == "the twin (painted)"
    with pytest.raises(FpganError, match="give --twin"):
        silent(PaintedBits())
    model = load(str(models / "one"))
    off = silent(model)
    bits = np.eye(2, 64, dtype=np.uint8).repeat(3, axis=0)
    pairs = [one.generate(bits, [5, 6, 7] * 2).reshape(2, -1).astype(int) for one in (off, model)]
    differ = [np.abs(pair[0] - pair[1]).max() for pair in pairs]
    assert differ[0] <= 1 < differ[1]

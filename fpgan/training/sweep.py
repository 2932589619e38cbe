"""Runs of one config in which fields are varied, one at a time: capacity, ablations; a row for each, with what it cost.

A run trains, exports and is measured in a directory of its own. A sweep that was stopped goes on: finished runs have their
row, the one that was stopped continues at its last checkpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fpgan.errors import FpganError
from fpgan.evaluation.paper.blocks import Section, Table, Text, accuracy, interval, section_markdown
from fpgan.evaluation.paper.page import page
from fpgan.io.files import locked, write_file
from fpgan.io.inputs import read_json_lines
from fpgan.training import config as configs

ROWS, PAGE, TABLES = "sweep.jsonl", "index.html", "tables.md"
BASE = "base"
STUDIES = {  # of the paper, section 5 and its appendix
    "capacity": ("network.fingerprint_bits=32,64,128,256,512",),
    "fingerprints": ("objective.distinct_fingerprints=10,100,1000,10000,100000",),
    "ablations": ("objective.adversarial=0", "objective.latent=0", "objective.fingerprint=0", "objective.consistency=0",
                  "objective.coarse_consistency=0", "network.modulated_min=8", "network.modulated_max=8"),
}
_LEAST_IMAGES = 20


class Run(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: of its directory: what is varied, or "base".
      overrides: beside those of the whole sweep.
    """

    name: str
    overrides: tuple[str, ...]


def runs_of(variations: Sequence[str]) -> list[Run]:
    """Lists the runs: the config as it is, then each value of each variation.

    Args:
      variations: such as "network.fingerprint_bits=32,64", "objective.latent=0", or a name of STUDIES.

    Raises:
      FpganError: one has no value.
    """
    runs = [Run(BASE, ())]
    for variation in (one for given in variations for one in STUDIES.get(given, (given,))):
        key, equals, values = variation.partition("=")
        if not equals or not all(values.split(",")):
            raise FpganError(f"variation {variation!r}; expected KEY=VALUE,VALUE or one of {', '.join(STUDIES)}")
        runs += [Run(f"{key}={value}", (f"{key}={value}",)) for value in values.split(",")]
    return list(dict.fromkeys(runs))


def sweep(config_path: str, workdir: str | os.PathLike, variations: Sequence[str], overrides: Sequence[str] = (), *,
          images: int = 1000, command: str = "", measure: Callable[[str, Path, Sequence[str], int], dict] | None = None,
          report: Callable[[str], None] = lambda line: None) -> Section:
    """Trains, exports and measures every run that has no row yet.

    Args:
      config_path: a config file.
      workdir: the folder of the sweep: a directory for each run, the rows, and the report.
      variations: see `runs_of`.
      overrides: of fields, for all runs.
      images: to measure each model with.
      command: recorded in the report.
      measure: what makes a row of (config file, directory, overrides, images); `train_and_measure` by default.
      report: is given each line of progress.

    Returns:
      The report's section.

    Raises:
      FpganError: a bad variation or config. A run that fails has its error as its row, and the others go on.
    """
    if images < _LEAST_IMAGES:
        raise FpganError(f"{images} images say too little; expected {_LEAST_IMAGES} or more")
    runs, folder = runs_of(variations), Path(workdir)
    settings = {run: configs.flatten(configs.load(config_path, [*overrides, *run.overrides])) for run in runs}
    with locked(folder / ".lock", wait=False):
        rows = read_json_lines(folder / ROWS, lambda row: (row["run"], row["config"], row["images"]),
                               "no row of fpgan sweep; choose another folder")
        for run in runs:
            key = json.loads(json.dumps({"config": settings[run], "images": images}))
            if _row_of(rows, run, key) is None:
                report(f"{run.name}: training")
                rows.append({"run": run.name, **key, **_tried(measure or train_and_measure, config_path, folder / run.name,
                                                              [*overrides, *run.overrides], images, report)})
                write_file(folder / ROWS, "".join(json.dumps(row) + "\n" for row in rows).encode())
            found = [_row_of(rows, one, json.loads(json.dumps({"config": settings[one], "images": images}))) for one in runs]
            section = _section(runs, found, images)
            write_file(folder / TABLES, section_markdown(section).encode())
            write_file(folder / PAGE, page(f"A sweep over {Path(config_path).stem}", f"`{command}`", [section],
                                           {"command": command}).encode())
    return section


def train_and_measure(config_path: str, folder: Path, overrides: Sequence[str], images: int) -> dict:
    """Trains a run to its end, exports it, and measures the model.

    Returns:
      A row of plain values.

    Raises:
      FpganError: training was stopped (SIGTERM); the same call goes on.
    """
    from fpgan.data.sources import open_source
    from fpgan.evaluation.samples import Settings
    from fpgan.evaluation.suites import evaluate
    from fpgan.training import loop
    from fpgan.training.export import export

    config = configs.load(config_path, overrides)
    state = loop.train(config, folder, lambda line: print(line, flush=True))
    if int(state.step) < config.total_images // config.batch_size:
        raise Stopped(f"stopped at step {int(state.step):,}; the same command goes on")
    model = export(folder, folder / "model")
    source = open_source(config.data, config.network.resolution)
    found = evaluate(model, source, Settings(images, config.seed, config.evaluation.features))
    return {"bits": model.n_bits, "images_seen": int(state.step) * config.batch_size, "seconds": training_seconds(folder),
            **{name: found[name] for name in ("bit_accuracy", "capacity_bits", "frechet_distance")},
            "psnr_db": found["consistency"]["psnr_db"], "diversity": found["diversity"]["ratio"]}


class Stopped(FpganError):
    """Training was stopped before its end."""


def training_seconds(folder: Path) -> float:
    """Adds up what the log of a run says its images took, over all restarts, in seconds."""
    last, seconds = 0, 0.0
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["images"] > last and record.get("images_per_second"):
            seconds += (record["images"] - last) / record["images_per_second"]
        last = record["images"]
    return seconds


def _tried(measure: Callable, config_path: str, folder: Path, overrides: Sequence[str], images: int,
           report: Callable[[str], None]) -> dict:
    """A row, or the error with which a run ended."""
    try:
        return measure(config_path, folder, overrides, images)
    except Stopped:
        raise
    except FpganError as error:
        report(f"{folder.name}: {error}")
        return {"error": str(error)}


def _row_of(rows: Sequence[dict], run: Run, key: dict) -> dict | None:
    return next((row for row in rows if row["run"] == run.name and {name: row[name] for name in key} == key), None)


def _section(runs: Sequence[Run], rows: Sequence[dict | None], images: int) -> Section:
    """Lays out the rows; runs that have none yet say so."""
    lines = []
    for run, row in zip(runs, rows, strict=True):
        if row is None or "error" in row:
            lines.append([run.name, *["-"] * 8, "not run yet" if row is None else f"failed: {row['error']}"])
            continue
        lines.append([run.name, str(row["bits"]), *(accuracy(row["bit_accuracy"][kind]) for kind in ("png", "jpeg:75")),
                      f"{row['capacity_bits']:.1f}", interval(row["psnr_db"], 1), f"{row['frechet_distance']['value']:.4g}",
                      "-" if row["diversity"] is None else f"{row['diversity']:.2f}", f"{row['images_seen']:,}",
                      f"{row['seconds'] / 60:.1f} min"])
    features = next((row["frechet_distance"]["features"] for row in rows if row and "error" not in row), "")
    head = ["run", "bits", "bit accuracy, PNG", "bit accuracy, JPEG 75", "capacity, bits", "PSNR of two fingerprints, dB",
            f"Frechet distance {features}".strip(), "diversity", "images seen", "training took"]
    return Section("sweep", "Sweep", "What does each field of the config do?", [
        Text(f"Each run is the config with the fields named; {images:,} images measured each, one run and one seed. "
             "Capacity is that of as many binary channels as there are bits, at the accuracy after PNG."),
        Table("Runs", head, lines)])

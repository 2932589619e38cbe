"""What a suite is given: the model, what it is compared with, and a journal in which finished parts stand.

A suite is cut into parts of seconds. Each is written as a JSON line when it is measured, so that the same command goes on
where it was stopped. A line counts only for the model and the settings that it was measured with.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fpgan.evaluation.robustness import Sample, Trial, draw_sample
from fpgan.io.files import write_file
from fpgan.io.inputs import read_json_lines

if TYPE_CHECKING:
    from typing import Any

    from fpgan.model.model import Model

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured, and with what.

    Attributes:
      trial: images, seed, registered users and false-positive rate.
      batch_size: images per call of the generator.
      features: names of the features of distances, see `evaluation.features`.
      data: the real images, by a short name, see `data.sources.data_settings`.
      data_options: further fields of the data part of a config.
      negatives: further images that are not the model's, see `data.sources.open_other`.
      perturbations: what to try instead of a suite's own list; () for that.
      inception: a file with the weights of the 2015 Inception network, for the FID; "" for none.
    """

    trial: Trial = Trial()
    batch_size: int = 16
    features: tuple[str, ...] = ("pixels",)
    data: str = "robohash_cats"
    data_options: dict = field(default_factory=dict)
    negatives: tuple[str, ...] = ()
    perturbations: tuple[str, ...] = ()
    inception: str = ""


@dataclass
class Journal:
    """The rows of finished parts, by suite, in a folder or in memory alone.

    Attributes:
      folder: where SUITE.jsonl is; None for none.
      lines: by suite, what its file holds.
    """

    folder: Path | None = None
    lines: dict[str, list[dict]] = field(default_factory=dict)

    def find(self, suite: str, part: str, key: dict) -> dict | None:
        """Returns what was found for a part under this key, or None."""
        if suite not in self.lines:
            self.lines[suite] = [] if self.folder is None else read_lines(self.folder / f"{suite}.jsonl")
        return next((line["found"] for line in self.lines[suite] if (line["part"], line["key"]) == (part, key)), None)

    def keep(self, suite: str, part: str, key: dict, found: dict, seconds: float) -> None:
        """Writes down what was found."""
        self.lines[suite].append({"part": part, "key": key, "found": found, "seconds": round(seconds, 2)})
        if self.folder is not None:
            text = "".join(json.dumps(line) + "\n" for line in self.lines[suite])
            write_file(self.folder / f"{suite}.jsonl", text.encode())


@dataclass(frozen=True)
class Study:
    """A model under study.

    Attributes:
      model: a fpgan.Model, or anything with its attributes and its generate, generate_float and decode.
      plan: how much is measured.
      journal: where rows are kept.
      against: a second model in the same plots, or None.
      twin: a model trained without fingerprints, or None.
      progress: called as progress(part, done, total).
    """

    model: object
    plan: Plan = Plan()
    journal: Journal = field(default_factory=Journal)
    against: object | None = None
    twin: object | None = None
    progress: Progress = lambda part, done, total: None

    @cached_property
    def sample(self) -> Sample:
        """The model's images, each with a fingerprint and a latent of its own; made when they are first needed."""
        return draw_sample(self.model, self.plan.trial, self.plan.batch_size)

    def measured(self, suite: str, part: str, make: Callable[[], dict], *, model: Model | None = None,
                 **settings: Any) -> dict:
        """Returns what was found for a part: from the journal, or measured now.

        Args:
          suite: its name, that of the file.
          part: its name within the suite.
          make: measures it; returns plain values, fit for JSON.
          model: whose part it is; that of the study by default.
          settings: all that the result depends on, beside the model and the plan's trial.
        """
        trial = self.plan.trial
        key = {"model": identity(model or self.model), "images": trial.count, "seed": trial.seed,
               "users": trial.n_users, "false_positive_rate": trial.false_positive_rate, **settings}
        if trial.search != "none":
            about = (model or self.model).info.get("aligner") or {}
            key |= {"search": trial.search, "aligner": about.get("hash")}
        key = json.loads(json.dumps(key))
        found = self.journal.find(suite, part, key)
        if found is None:
            started = time.monotonic()
            found = json.loads(json.dumps(make()))
            self.journal.keep(suite, part, key, found, time.monotonic() - started)
        return found

    def rng(self, stream: int) -> np.random.Generator:
        """Returns a generator of random numbers; each stream is independent of the others."""
        return np.random.default_rng([self.plan.trial.seed, 17, stream])

    def bits(self, count: int, stream: int) -> np.ndarray:
        """Draws fingerprints as uint8 [count, n]."""
        return self.rng(stream).integers(0, 2, (count, self.model.n_bits), np.uint8)

    def latents(self, count: int, stream: int) -> np.ndarray:
        """Draws distinct seeds of latents as uint32 [count]."""
        return self.rng(1000 + stream).choice(2**32, count, replace=False).astype(np.uint32)

    def generate(self, bits: np.ndarray, seeds: np.ndarray, model: Model | None = None) -> np.ndarray:
        """Generates uint8 [N, R, R, 3] in the plan's batches."""
        return (model or self.model).generate(bits, seeds, batch_size=self.plan.batch_size)


def identity(model: Model) -> str:
    """Names a model and its parameters."""
    return f"{model.name} {model.hash}"


def read_lines(path: str | os.PathLike) -> list[dict]:
    """Reads the lines of a journal; none if there is no such file.

    Raises:
      FpganError: a line is none of a journal.
    """
    return read_json_lines(path, lambda line: (line["part"], line["key"]["model"], line["found"]),
                           "none of fpgan evaluate --suite; choose another folder")

"""The suites by name, and the report that they make: `fpgan evaluate --suite NAME ... --out DIR`."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fpgan.errors import FpganError
from fpgan.evaluation.paper import SUITES
from fpgan.evaluation.paper.blocks import Picture, Section, Text, section_markdown
from fpgan.evaluation.paper.page import page
from fpgan.evaluation.paper.study import Journal, Plan, Progress, Study, identity
from fpgan.io.files import locked, write_file

PAGE, TABLES = "index.html", "tables.md"


def function_of(name: str):
    """Returns the function of a suite, Study -> list of blocks.

    Raises:
      FpganError: there is no such suite; the nearest one is named.
    """
    if name not in SUITES:
        near = difflib.get_close_matches(name, SUITES, n=1, cutoff=0)[0]
        raise FpganError(f"there is no suite {name!r}; the nearest one is {near!r}, expected some of {', '.join(SUITES)}")
    return getattr(importlib.import_module(f"fpgan.evaluation.paper.{SUITES[name].home}"), name)


def run_suites(study: Study, names: Sequence[str]) -> Iterator[Section]:
    """Runs suites in the order of the table, one after the other.

    Args:
      study: the model, the plan and the journal.
      names: of SUITES.

    Yields:
      The section of each. Of several suites one that cannot be run says so in its section.

    Raises:
      FpganError: there is no such suite, or the only one cannot be run.
    """
    functions = {name: function_of(name) for name in names}
    for name in (name for name in SUITES if name in functions):
        try:
            blocks = functions[name](study)
        except FpganError as error:
            if len(functions) == 1:
                raise
            blocks = [Text(f"Not measured: {error}", "skipped")]
        yield Section(name, SUITES[name].title, SUITES[name].question, blocks)


def run_named(model_name: str, names: Sequence[str], plan: Plan, *, against: str | None = None, twin: str | None = None,
              out: str | os.PathLike | None = None, command: str = "",
              progress: Progress = lambda part, done, total: None) -> list[Section]:
    """Loads models, runs suites, and writes the report.

    Args:
      model_name: a shipped model's name, or a model directory.
      names: of SUITES; "all" for all of them.
      plan: how much is measured.
      against: a second model, drawn beside the first.
      twin: a model trained without fingerprints.
      out: the folder of the report; what it holds of the same model and plan is not measured again. None for none.
      command: recorded in the report.
      progress: called as progress(part, done, total).

    Returns:
      The sections.

    Raises:
      FpganError: an unknown suite or model, models that do not go together, or `out` is a file.
    """
    names = list(SUITES) if "all" in names else list(names)
    for name in names:
        function_of(name)
    if plan.trial.count < 2 or plan.trial.seed < 0:
        raise FpganError(f"{plan.trial.count} images and seed {plan.trial.seed}; expected 2, and 0, or more")
    if out is None:
        return list(run_suites(_study(model_name, plan, None, against, twin, progress), names))
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise FpganError(f"{out} is a file; expected a folder for the report")
    with locked(folder / ".lock", wait=False):
        study = _study(model_name, plan, folder, against, twin, progress)
        sections = []
        for section in run_suites(study, names):
            sections.append(section)
            write_report(folder, study, sections, command)
    return sections


def write_report(folder: Path, study: Study, sections: Sequence[Section], command: str) -> None:
    """Writes the page, the tables and the pictures of what is done so far."""
    about = _about(study, command)
    model = study.model
    lead = (f"`{identity(model)}`: {model.resolution} x {model.resolution} pixels, {model.n_bits} bits. "
            f"{study.plan.trial.count:,} images where nothing else is said, seed {study.plan.trial.seed}.")
    pictures = {f"{section.name}-{number}.png": block.png for section in sections
                for number, block in enumerate(block for block in section.blocks if isinstance(block, Picture))}
    for name, png in pictures.items():
        write_file(folder / name, png)
    title = f"{model.name}: what its fingerprints do"
    write_file(folder / PAGE, page(title, lead, sections, about).encode())
    facts = "".join(f"- {name}: `{value}`\n" for name, value in about.items())
    write_file(folder / TABLES, "\n".join([f"# {title}\n", lead + "\n", *map(section_markdown, sections), facts]).encode())


def _study(model_name: str, plan: Plan, folder: Path | None, against: str | None, twin: str | None,
           progress: Progress) -> Study:
    from fpgan.model import load

    models = [load(name) if name is not None else None for name in (model_name, against, twin)]
    model, _, other = models
    if other is not None and other.resolution != model.resolution:
        raise FpganError(f"{other.name} makes images of {other.resolution} pixels a side, {model.name} of "
                         f"{model.resolution}; expected a twin of the same resolution")
    return Study(model, plan, Journal(folder), against=models[1], twin=other, progress=progress)


def _about(study: Study, command: str) -> dict[str, str]:
    from fpgan.io.provenance import provenance

    found = provenance(command)
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    beside = {"against": study.against, "twin": study.twin}
    others = {name: identity(model) for name, model in beside.items() if model is not None}
    return {"command": command or "(called from Python)", "model": identity(study.model), **others,
            "written": found["utc"], "fpgan": found["fpgan"], "Python": found["python"], "packages": versions,
            "device": f"{found['device']['name']} ({found['device']['platform']})"}

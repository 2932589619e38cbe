"""All perturbations by name, and chains of them: "jpeg:75", "crop:0.9+jpeg:80".

A name, a colon, strengths with commas; operations in sequence with a plus. What is random is keyed by (seed, index of the
image, place in the chain), so that the same image gets the same draw however the images are cut into batches, and
operations of other strengths the same draw, too.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fpgan.errors import FpganError
from fpgan.perturbations.codecs import CODECS
from fpgan.perturbations.filters import FILTERS
from fpgan.perturbations.geometry import GEOMETRY
from fpgan.perturbations.operation import Perturbation, Placement, Strength
from fpgan.perturbations.suites import EDITS, SUITES, suite
from fpgan.perturbations.surroundings import SURROUNDINGS


class Step(NamedTuple):
    """An operation with its strengths."""

    operation: Perturbation
    strengths: tuple[float, ...]

    def __str__(self) -> str:
        return ":".join([self.operation.name, *filter(None, [",".join(f"{value:.7g}" for value in self.strengths)])])


Chain = tuple[Step, ...]


def parse(spec: str) -> Chain:
    """Reads "crop:0.9+jpeg:80".

    Raises:
      FpganError: an operation is unknown (the nearest one is named), or a strength is none, or out of range (which is told).
    """
    return tuple(_step(part.strip(), spec) for part in spec.split("+"))


def spell(chain: Chain) -> str:
    """Returns the one spelling of a chain, by which results are kept: "crop:0.90" becomes "crop:0.9"."""
    return "+".join(map(str, chain))


def expand(names: Iterable[str]) -> list[str]:
    """Replaces names of suites by their perturbations; each perturbation once, in its one spelling.

    Args:
      names: perturbations such as "jpeg:75" and suites such as "waves", mixed.

    Raises:
      FpganError: one is neither.
    """
    specs = (spec for name in names for spec in (suite(name) if _like_suite(name) else (name,)))
    return list(dict.fromkeys(spell(parse(spec)) for spec in specs))


def apply(spec: str | Chain, images: np.ndarray | Sequence[np.ndarray], seed: int = 0,
          first: int = 0) -> np.ndarray | list[np.ndarray]:
    """Applies a perturbation, or a chain of them, to 8-bit images.

    Args:
      spec: such as "crop:0.9+jpeg:80", or what `parse` made of it.
      images: uint8 [N, H, W, 3], or a sequence of uint8 [H, W, 3] of any sizes.
      seed: of what is random, a whole number from 0.
      first: index of the first image, for parts of a larger set: part by part gives what the whole gives.

    Returns:
      uint8 [N, H', W', 3]; a list of uint8 [H', W', 3] if their sizes differ.

    Raises:
      FpganError: as `parse`.
    """
    chain = parse(spec) if isinstance(spec, str) else spec
    perturbed = [perturb(chain, image, np.random.SeedSequence([seed, first + i])) for i, image in enumerate(images)]
    sizes = {image.shape for image in perturbed}
    return np.stack(perturbed) if len(sizes) == 1 else perturbed


def perturb(chain: Chain, image: np.ndarray, key: np.random.SeedSequence) -> np.ndarray:
    """Applies a chain to one image, uint8 [H, W, 3] -> uint8 [H', W', 3]; equal keys draw equally."""
    for (operation, strengths), rng in zip(chain, _generators(key, len(chain)), strict=True):
        image = operation.run(image, *strengths, *([rng] if operation.random else []))
    return image


def homography(spec: str | Chain, size: tuple[int, int], seed: int = 0, index: int = 0) -> np.ndarray:
    """Computes where a chain puts the points of an image: the matrix that `apply` with the same seed and index applies.

    Args:
      spec: such as "rotate:6+crop:0.9"; operations that move nothing count as the identity.
      size: height and width of the image before.
      seed, index: as in `apply`, for what is drawn at random.

    Returns:
      float64 [3, 3], a point (x, y, 1) before -> its place after, up to a factor; both images reach from -1 (left, upper
      edge) to 1 (right, lower edge). Its inverse says where a pixel of the perturbed image was taken from.
    """
    chain = parse(spec) if isinstance(spec, str) else spec
    return placement(chain, size, np.random.SeedSequence([seed, index])).matrix


def placement(chain: Chain, size: tuple[int, int], key: np.random.SeedSequence) -> Placement:
    """Computes the matrix of a chain, and the size of its result, for the draws of a key."""
    matrix = np.eye(3)
    for (operation, strengths), rng in zip(chain, _generators(key, len(chain)), strict=True):
        if operation.place:
            step, size = operation.place(size, *strengths, *([rng] if operation.random else []))
            matrix = step @ matrix
    return Placement(matrix, size)


def shared_steps(one: Iterable[str], other: Iterable[str]) -> set[str]:
    """Finds what two lists of perturbations have in common: operations with equal strengths, alone or in a chain.

    Training, the fit at export and a report each have a list of their own, and a report says something only where the
    others have not been. What takes no strength (such as "flip") counts for nothing.

    Returns:
      Spellings such as "jpeg:80"; empty for lists that share none.
    """
    return _steps(one) & _steps(other)


def table() -> str:
    """Lays out all operations with their strengths, units and ranges, for people: at most 100 columns."""
    width = 2 + max(len(operation.example) for operation in PERTURBATIONS.values())
    lines = []
    for operation in PERTURBATIONS.values():
        lines.append(f"  {operation.example:<{width}}{operation.meaning}")
        lines += [f"  {'':<{width}}  {strength.meaning}: {strength.expected()}" for strength in operation.strengths]
    return "\n".join(lines)


def markdown_table() -> str:
    """Lays out all operations as the table of docs/perturbations.md."""
    lines = ["| for example | what it does | strengths | random | moves the picture |", "|---|---|---|---|---|"]
    for operation in PERTURBATIONS.values():
        strengths = "; ".join(f"{strength.meaning}: {strength.expected()}" for strength in operation.strengths)
        marks = " | ".join("yes" if mark else "" for mark in (operation.random, operation.place))
        lines.append(f"| `{operation.example}` | {operation.meaning} | {strengths} | {marks} |")
    return "\n".join(lines) + "\n"


def combine(image: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Applies so many operations of `suites.EDITS`, all different, in any order; each with one of its strengths there."""
    return perturb(_drawn_chain(count, rng), image, _drawn_key(rng))


def place_combination(size: tuple[int, int], count: int, rng: np.random.Generator) -> Placement:
    """Returns where `combine` puts the picture."""
    return placement(_drawn_chain(count, rng), size, _drawn_key(rng))


def _drawn_chain(count: int, rng: np.random.Generator) -> Chain:
    kinds = _edits_by_operation()
    chosen = rng.choice(len(kinds), count, replace=False)
    return tuple(kinds[kind][rng.integers(len(kinds[kind]))] for kind in chosen)


def _drawn_key(rng: np.random.Generator) -> np.random.SeedSequence:
    return np.random.SeedSequence(int(rng.integers(2**63)))


@functools.cache
def _edits_by_operation() -> list[list[Step]]:
    """The steps of EDITS that change anything, by operation."""
    kinds: dict[str, list[Step]] = {}
    for edit in EDITS:
        step, = parse(edit)
        kinds.setdefault(step.operation.name, []).append(step)
    del kinds["png"]
    return list(kinds.values())


def _like_suite(name: str) -> bool:
    """Tells whether a name is that of a suite, or is nearer to one than to any operation."""
    near = difflib.get_close_matches(name.partition(":")[0], [*PERTURBATIONS, *SUITES], n=1)
    return name in SUITES or (":" not in name and near != [] and near[0] in SUITES)


def _generators(key: np.random.SeedSequence, count: int) -> list[np.random.Generator]:
    """A generator for each place in a chain; the same ones for an equal key, however often they are made."""
    return [np.random.default_rng(np.random.SeedSequence(key.entropy, spawn_key=(*key.spawn_key, place)))
            for place in range(count)]


def _step(text: str, spec: str) -> Step:
    name, colon, rest = text.partition(":")
    if name not in PERTURBATIONS:
        near = PERTURBATIONS[difflib.get_close_matches(name, PERTURBATIONS, n=1, cutoff=0)[0]]
        raise FpganError(f"perturbation {spec!r}: there is no {name!r}; the nearest one is {near.name!r}, written like "
                         f"{near.example} (fpgan perturb --help shows all)")
    operation = PERTURBATIONS[name]
    try:
        values = tuple(float(value) for value in rest.split(",")) if colon else ()
    except ValueError:
        raise FpganError(f"perturbation {spec!r}: {rest!r} is no number; write it like {operation.example}") from None
    return Step(operation, operation.checked(values))


def _steps(specs: Iterable[str]) -> set[str]:
    chains = [parse(spec) for spec in specs]
    steps = {step for chain in chains for step in chain}
    if any(step.operation.name == "combine" for step in steps):
        steps |= {step for edit in EDITS for step in parse(edit)}
    return {str(step) for step in steps if step.strengths}


_COMBINE = Perturbation("combine", "different operations of the suite of ordinary edits, in any order", "combine:2", combine,
                        (Strength("how many", 2, 6, whole=True),), random=True, place=place_combination)
PERTURBATIONS: dict[str, Perturbation] = {
    operation.name: operation for operation in (*CODECS, *FILTERS, *GEOMETRY, *SURROUNDINGS, _COMBINE)}

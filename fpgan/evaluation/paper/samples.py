"""Samples, and what the fingerprint looks like: residuals between two of them, where they are, how alike they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fpgan.errors import FpganError
from fpgan.evaluation import metrics
from fpgan.evaluation.paper.blocks import Block, Charts, Picture, Table, Text, interval
from fpgan.evaluation.paper.charts import Panel, Series, line_chart
from fpgan.evaluation.paper.sources import real_images
from fpgan.evaluation.paper.study import Study
from fpgan.io.images import encode_png, grid

_ROWS, _COLUMNS = 4, 8  # of the grids
_SHOWN = 3  # latents whose residuals are drawn
_MOST = 64  # images of which carriers are measured
_PAIRS = 200  # pairs of residuals that are compared
_CELLS = 8  # a side
_BANDS = 8
_WIDTH = 88  # of a picture in a grid, in pixels, where pixels are few


class Pair(NamedTuple):
    """Images of the same latents with two fingerprints each.

    Attributes:
      bits, other_bits: uint8 [N, n].
      images, others: float32 [N, R, R, 3], not clipped.
    """

    bits: np.ndarray
    other_bits: np.ndarray
    images: np.ndarray
    others: np.ndarray


def samples(study: Study) -> list[Block]:
    """Draws grids and residuals, and measures which frequencies and places carry the bits, and how alike residuals are."""
    carriers = study.measured("samples", "carriers", lambda: _carriers(study))
    study.progress("samples", 1, 2)
    likeness = study.measured("samples", "likeness", lambda: _likeness(study))
    study.progress("samples", 2, 2)
    return [*_grids(study), _residuals(study), *_carriers_shown(carriers), *_likeness_shown(likeness)]


def _grids(study: Study) -> list[Block]:
    """A row of images for each of a few fingerprints, and real images."""
    bits, seeds = study.bits(_ROWS, 0), study.latents(_COLUMNS, 0)
    images = study.generate(np.repeat(bits, _COLUMNS, axis=0), np.tile(seeds, _ROWS))
    rows = images.reshape(_ROWS, _COLUMNS, *images.shape[1:])
    blocks: list[Block] = [Picture(
        f"Images of the model: a row for each of {_ROWS} fingerprints, a column for each of {_COLUMNS} latents",
        f"A grid of {_ROWS} times {_COLUMNS} generated images; those of a column look alike, whatever their fingerprint.",
        encode_png(_enlarged(rows)))]
    try:
        real, name = real_images(study, 2 * _COLUMNS)
    except FpganError as error:
        return [*blocks, Text(f"Real images are not shown: {error}", "skipped")]
    return [*blocks, Picture(f"Real images: {name}", f"A grid of {len(real)} real images.",
                             encode_png(_enlarged(real.reshape(2, _COLUMNS, *real.shape[1:]))))]


def _residuals(study: Study) -> Picture:
    """Two fingerprints at each of a few latents, their difference, amplified, and its spectrum."""
    bits, seeds = study.bits(2, 1), study.latents(_SHOWN, 1)
    one, other = (study.generate(np.repeat(bits[i:i + 1], _SHOWN, axis=0), seeds) for i in range(2))
    residuals = one.astype(np.float32) - other  # grey levels
    times = max(1, int(112 / max(np.percentile(np.abs(residuals), 99.5), 1)))
    amplified = np.clip(np.rint(128 + times * residuals), 0, 255).astype(np.uint8)
    cells = np.stack([one, other, amplified, _spectra(residuals)], axis=1)  # [shown, 4, R, R, 3]
    return Picture(
        f"Two fingerprints at {_SHOWN} latents, a row each: image, image with the other fingerprint, their difference "
        f"amplified {times} times around grey, and its spectrum (the mean of the image in its middle; a factor of 1,000 in "
        "power from black to white)",
        "Pairs of images that look alike, their amplified difference, which is a fine pattern, and "
        "the spectrum of the difference.", encode_png(_enlarged(cells)))


def _spectra(residuals: np.ndarray) -> np.ndarray:
    """Power spectra over three decades as grey pictures: [N, R, R, 3] -> uint8 [N, R, R, 3]."""
    power = np.square(np.abs(np.fft.fftshift(np.fft.fft2(residuals, axes=(1, 2)), axes=(1, 2)))).mean(axis=3)  # [N, R, R]
    decades = np.log10(np.maximum(power / power.max(axis=(1, 2), keepdims=True), 1e-9))
    grey = np.clip(255 * (1 + decades / 3), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def _pairs(study: Study, count: int, stream: int) -> Pair:
    """Generates images of other latents, with two other fingerprints each."""
    bits, others, seeds = study.bits(count, stream), study.bits(count, stream + 1), study.latents(count, stream)
    size = study.plan.batch_size
    return Pair(bits, others, *(study.model.generate_float(one, seeds, batch_size=size) for one in (bits, others)))


def _carriers(study: Study) -> dict:
    """Moves a part of the residual alone into the images of another fingerprint, and looks how far the logits follow.

    A part is a ring of spatial frequencies, or a cell of the image. Its evidence is the mean over the bits that differ of
    the change of the logit towards the other bit, as a share of what the whole residual gives.
    """
    pair = _pairs(study, min(study.plan.trial.count, _MOST), 10)
    residual = pair.others - pair.images  # [N, R, R, 3]
    signs = (pair.other_bits.astype(np.float32) - pair.bits)  # [N, n]: 0 where the bits are the same
    before = study.model.decode(pair.images)

    def evidence(part: np.ndarray) -> tuple[float, float]:
        after = study.model.decode((pair.images + part).astype(np.float32))
        change, right = (after - before) * signs, (after > 0) == (pair.other_bits > 0)
        return float(change.sum() / np.abs(signs).sum()), float(right[signs != 0].mean())

    whole, all_read = evidence(residual)
    bands = _band_parts(residual)
    cells = [evidence(residual * mask)[0] / whole for mask in _cell_masks(residual.shape[1])]
    energy = [float(np.square(part).sum()) for _, part in bands]
    content = [float(np.square(part).sum()) for _, part in _band_parts(pair.images - pair.images.mean(axis=(1, 2, 3),
                                                                                                  keepdims=True))]
    found = [evidence(part) for _, part in bands]
    return {"images": len(residual), "read_with_all": all_read, "cells": cells,
            "bands": [{"from": low, "to": high, "evidence": value / whole, "read_alone": read, "energy": e / sum(energy),
                       "energy_of_images": c / sum(content)}
                      for ((low, high), _), (value, read), e, c in zip(bands, found, energy, content, strict=True)]}


def _band_parts(images: np.ndarray) -> list[tuple[tuple[float, float], np.ndarray]]:
    """Splits images [N, R, R, 3] into rings of spatial frequency, in cycles a pixel; the last one has the corners."""
    side = images.shape[1]
    lines = np.fft.fftfreq(side)
    radius = np.hypot(lines[:, None], lines[None, :])  # [R, R]
    spectrum = np.fft.fft2(images, axes=(1, 2))
    edges = np.linspace(0, 0.5, min(_BANDS, side // 2) + 1)
    parts = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (radius >= low) & ((radius < high) | (high == edges[-1]))
        part = np.fft.ifft2(spectrum * inside[None, :, :, None], axes=(1, 2)).real.astype(np.float32)
        parts.append(((float(low), float(high)), part))
    return parts


def _cell_masks(side: int) -> list[np.ndarray]:
    """Masks [R, R, 1] of the cells of a grid over the image, row by row."""
    cells = np.arange(side) * _CELLS // side
    return [((cells[:, None] == row) & (cells[None, :] == column)).astype(np.float32)[..., None]
            for row in range(_CELLS) for column in range(_CELLS)]


def _carriers_shown(found: dict) -> list[Block]:
    bands = found["bands"]
    x = [(band["from"] + band["to"]) / 2 for band in bands]
    kinds = {"evidence": "evidence for the bits", "energy": "energy of the residual", "energy_of_images": "energy of images"}
    shares = [Series(text, x, [band[kind] for band in bands], style=style)
              for (kind, text), style in zip(kinds.items(), ("a", "b", "c dashed"), strict=True)]
    alone = Series("read from this band alone", x, [band["read_alone"] for band in bands])
    cells = np.array(found["cells"]).reshape(_CELLS, _CELLS)
    top, bottom = shares[0].y, Panel("bits read when this band alone is moved", [alone], (0.0, 1.0), 0.5)
    most = max(0.1, *top, *(v for s in shares for v in s.y))
    chart = line_chart("By spatial frequency", "cycles a pixel", [Panel("share", shares, (min(0.0, *top), most)), bottom])
    heat = np.repeat(np.clip(255 * cells / max(cells.max(), 1e-9), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    middle = cells[2:-2, 2:-2].sum()
    return [
        Charts("Which frequencies carry the bits: a ring of frequencies of the residual alone is moved into an image with "
               "another fingerprint. Above, how far the logits of the bits that differ follow, as a share of what the whole "
               "residual does, beside its energy; below, the share of these bits that is then read as the other's "
               f"({found['read_with_all']:.3f} with the whole residual)",
               [chart], {kinds["evidence"]: "a", kinds["energy"]: "b", kinds["energy_of_images"]: "c dashed"}),
        Picture(f"Which places carry the bits: the same with a cell of {_CELLS} x {_CELLS} alone; white: "
                f"{cells.max():.2%} of the evidence. The middle quarter of the area carries {middle:.0%}",
                f"A map of {_CELLS} times {_CELLS} cells, brighter where more of the fingerprint is.",
                encode_png(heat.repeat(24, axis=0).repeat(24, axis=1))),
        Table("By spatial frequency", ["cycles a pixel", "evidence", "energy of the residual", "energy of images",
                                       "bits read when moved alone"],
              [[f"{band['from']:.3g} to {band['to']:.3g}", f"{band['evidence']:.1%}", f"{band['energy']:.1%}",
                f"{band['energy_of_images']:.1%}", f"{band['read_alone']:.3f}"] for band in bands], folded=True)]


def _likeness(study: Study) -> dict:
    """Correlates residuals of the same two fingerprints at two latents, and of other fingerprints at one latent."""
    count = min(study.plan.trial.count, _PAIRS)
    bits, others, strangers = (study.bits(count, stream) for stream in (20, 21, 22))
    latents = [study.latents(count, stream) for stream in (20, 21)]
    one, other = (study.generate(b, latents[0]).astype(np.float32) for b in (bits, others))
    elsewhere = study.generate(bits, latents[1]).astype(np.float32) - study.generate(others, latents[1])
    unrelated = study.generate(strangers, latents[0]).astype(np.float32) - study.generate(study.bits(count, 23), latents[0])
    residual = one - other
    psnr = metrics.psnr(one.astype(np.uint8), other.astype(np.uint8))
    return {"pairs": count, "psnr_db": metrics.mean(psnr)._asdict(),
            "two_latents": metrics.mean(_correlations(residual, elsewhere))._asdict(),
            "two_pairs_of_fingerprints": metrics.mean(_correlations(residual, unrelated))._asdict()}


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each pair of residuals, over pixels and channels: [N, R, R, 3] x 2 -> float64 [N]."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    scale = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    return (a * b).sum(axis=1) / np.where(scale > 0, scale, 1)


def _likeness_shown(found: dict) -> list[Block]:
    return [Table(f"How alike residuals are, over {found['pairs']:,} pairs (1: the fingerprint is one fixed picture, which "
                  "can be copied and subtracted)", ["measure", "mean (95%)"], [
        ["correlation between two latents, the same two fingerprints", interval(found["two_latents"])],
        ["correlation between two other pairs of fingerprints, one latent", interval(found["two_pairs_of_fingerprints"])],
        ["PSNR between two fingerprints at one latent, dB", interval(found["psnr_db"], 1)]])]


def _enlarged(cells: np.ndarray) -> np.ndarray:
    """A grid [rows, columns, R, R, 3] whose pixels are repeated where they are few."""
    return grid(cells, scale=max(1, _WIDTH // cells.shape[2]), pad=3)

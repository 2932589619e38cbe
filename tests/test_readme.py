"""What README shows must run as written."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_python_example_runs_and_names_bob():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(user bob\n){2}user bob \(flipped(, [^)]*)?\)\n", done.stdout)  # what is undone is estimated


def test_every_verb_and_every_path_that_readme_names_exists():
    from fpgan.cli.app import COMMANDS

    assert set(re.findall(r"^\| `fpgan ([a-z-]+)", README, re.M)) == set(COMMANDS)
    for path in re.findall(r"\b(?:configs|docs|launch|fpgan)/[\w./]*\w", README):
        assert (Path(__file__).parents[1] / path).exists(), path

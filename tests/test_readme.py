"""What README shows must run as written; the documents can be read in an editor."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WIDTH = 125  # as of the code


def test_the_python_example_runs_and_names_bob():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(user bob\n){2}user bob \(flipped.*\)\n", done.stdout)  # what is undone is estimated


def test_every_verb_and_every_path_that_readme_names_exists():
    from fpgan.cli.app import COMMANDS

    assert set(re.findall(r"^\| `fpgan ([a-z-]+)", README, re.M)) == set(COMMANDS)
    for path in re.findall(r"\b(?:configs|docs|launch|fpgan)/[\w./]*\w", README):
        assert (ROOT / path).exists(), path


def long_lines(text):
    """Lines of prose that are too long, not counting what links point to: not code, and not tables."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    lines = [re.sub(r"\]\([^)]*\)", "]", line) for line in text.splitlines() if not re.match(r" {4}|\s*\|", line)]
    return [line for line in lines if len(line) > WIDTH]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_lines_of_documents_are_no_longer_than_those_of_the_code(path):
    assert not long_lines(path.read_text())


def test_a_long_line_is_noticed_and_tables_code_and_links_are_not():
    long = "word " * 30
    assert long_lines(f"# title\n{long}\n") == [long]
    assert not long_lines(f"| {long} |\n    {long}\n```\n{long}\n```\n[a link](https://example.org/{'x' * 120})\n")

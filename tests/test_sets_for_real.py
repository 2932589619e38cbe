"""The shipped model in real processes, from the users' file to the verdicts: one process and two, the same files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

USERS = "user,fingerprint\nalice,5b83d0e03bd8602d29549acd8054045f\nbob,00ff00ff00ff00ff0f0f0f0f33335555\n"


def start(*arguments, **environment):
    code = "import sys; from fpgan.cli import main; sys.exit(main())"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.STDOUT,
                            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment)


def ended(processes):
    for process in processes:
        told = process.communicate(timeout=600)[0]
        assert process.returncode == 0, told
        yield told


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.mark.slow
def test_one_process_and_two_make_and_read_the_same_set(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    from pyarrow import dataset

    (tmp_path / "users.csv").write_text(USERS)
    two = [{"FPGAN_PROCESS_ID": str(i), "FPGAN_NUM_PROCESSES": "2"} for i in range(2)]
    make = ("generate", "--users", tmp_path / "users.csv", "--per-user", 20, "--shard-size", 12, "--batch-size", 8, "--out")
    list(ended([start(*make, tmp_path / "one")]))
    list(ended([start(*make, tmp_path / "two", **environment) for environment in two]))
    assert tree(tmp_path / "one") == tree(tmp_path / "two") and len(tree(tmp_path / "one")) == 40 + 4 + 1
    (told,) = ended([start("verify", tmp_path / "two", "--decode", 10, "--fpr", 1e-3)])
    assert "40 right" in told and "10, of which 10 match" in told
    ask = ("attribute", "two", "--registry", "users.csv", "--shard-size", 12, "--format", "parquet", "--out")
    monkeypatch.chdir(tmp_path)
    list(ended([start(*ask, "rows1")]))
    list(ended([start(*ask, "rows2", **environment) for environment in two]))
    assert tree("rows1") == tree("rows2")
    rows = dataset.dataset(tmp_path / "rows2", format="parquet").to_table().to_pylist()
    assert len(rows) == 40 and sum(row["user"] == Path(row["file"]).parent.name for row in rows) >= 36

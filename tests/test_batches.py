"""Reading on an engine: batches in, tables out, the rows of `fpgan attribute`; a worker that dies loses nothing."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import fpgan
from fpgan.attribution.csv_store import CsvStore
from fpgan.decoding import BatchReader, DecodeJob, decode_files
from fpgan.errors import FpganError
from fpgan.generation.generate import generate_set
from fpgan.io.images import read_image
from fpgan.io.listing import image_sources
from fpgan.io.tables import import_pyarrow

pytest.importorskip("pyarrow")
USERS = ["alice", "bob"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of two users with an image that is none, and their registry."""
    folder = tmp_path_factory.mktemp("batches")
    model = fpgan.load()
    registry = CsvStore(folder / "registry.csv", model.n_bits).issue(USERS)
    generate_set(model, registry, folder / "set", per_user=9, seed=0)
    (folder / "set" / "alice" / "broken.png").write_bytes(b"no image")
    return folder


def batch_of(folder):
    """What Ray Data's read_binary_files gives."""
    paths = sorted(map(str, (folder / "set").rglob("*.png")))
    return {"path": np.array(paths, object), "bytes": np.array([Path(path).read_bytes() for path in paths], object)}


def test_a_batch_gives_the_rows_of_the_files(folder):
    batch, reader = batch_of(folder), BatchReader(registry=folder / "registry.csv", batch_size=8)
    table = reader(batch)
    job = DecodeJob(fpgan.load(), CsvStore(folder / "registry.csv", 128).registry(), batch_size=8)
    expected = [row.columns(True) for row in job.rows(image_sources([folder / "set"]))]
    found = {row["file"]: row for row in table.to_pylist()}
    assert len(found) == table.num_rows == len(expected) == 19
    for row in expected:
        if row["error"] is None:
            assert found[row["file"]] == row and row["user"] == Path(row["file"]).parent.name
        else:
            assert "not an image" in found[row["file"]]["error"] and found[row["file"]]["verdict"] is None
    assert table.schema == reader.schema and str(table.schema.field("log10_p").type) == "double"
    nothing = reader({"path": ["x"], "bytes": [b"no image"]})
    assert nothing.schema == table.schema and nothing.num_rows == 1


def test_images_that_are_decoded_already_are_read_alike(folder):
    batch = batch_of(folder)
    files = zip(batch["path"], batch["bytes"], strict=True)
    whole = [(path, read_image(data)[0]) for path, data in files if len(data) > 9]
    reader = BatchReader(batch_size=8, images="image", names="id")
    table = reader({"id": [path for path, _ in whole], "image": np.stack([image for _, image in whole])}).to_pylist()
    files = {row.file: row.columns(False) for row in decode_files(fpgan.load(), [folder / "set"], batch_size=8)}
    assert len(table) == 18 and all(row == files[row["file"]] for row in table)
    odd = reader({"id": ["a", "b", "c"], "image": [np.zeros((4, 4), np.uint8), "text", np.zeros((50, 40, 3), np.uint8)]})
    first, second, third = odd.to_pylist()
    assert "uint8 [4, 4]" in first["error"] and "is str" in second["error"] and third["resized"] and third["error"] is None


def test_mistakes_are_told_before_anything_is_read(folder):
    with pytest.raises(FpganError, match="no column 'path', but bytes, names"):
        BatchReader()({"bytes": [b""], "names": ["a"]})
    with pytest.raises(FpganError, match="false-positive rate|rate"):
        BatchReader(registry=folder / "registry.csv", false_positive_rate=1e-60)
    with pytest.raises(FpganError):
        BatchReader(registry=folder / "none.csv")
    with pytest.raises(FpganError, match="no search 'deep'"):
        BatchReader(registry=folder / "registry.csv", search="deep")
    with pytest.raises(FpganError, match="no search 'deep'"):
        BatchReader(search="deep")


class Mortal(BatchReader):
    """Notes which process reads; the first one that has read a batch is killed, its result not yet handed over."""

    def __init__(self, notes, **options):
        super().__init__(**options)
        self.notes = Path(notes)

    def __call__(self, batch):
        """Reads a batch, and dies if nobody has yet."""
        table = super().__call__(batch)
        (self.notes / f"read-{os.getpid()}").touch()
        try:
            (self.notes / "killed").open("x").write(str(os.getpid()))
        except FileExistsError:
            return table
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_ray_reads_everything_once_though_a_worker_is_killed(folder, tmp_path):
    ray = pytest.importorskip("ray", reason="pip install 'fpgan[ray]'")
    here = Path(__file__).parent
    variables = {"PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    ray.init(num_cpus=3, include_dashboard=False, runtime_env={"env_vars": variables}, log_to_driver=False)
    try:
        images = ray.data.read_binary_files(str(folder / "set"), include_paths=True, file_extensions=["png"],
                                            override_num_blocks=4)
        options = {"registry": str(folder / "registry.csv"), "batch_size": 4, "notes": str(tmp_path)}
        rows = images.map_batches(Mortal, fn_constructor_kwargs=options, batch_size=4, concurrency=2)
        rows.write_parquet(str(tmp_path / "verdicts"))
    finally:
        ray.shutdown()
    _, parquet = import_pyarrow()
    found = parquet.read_table(tmp_path / "verdicts").to_pylist()
    killed = (tmp_path / "killed").read_text()
    assert (tmp_path / f"read-{killed}").exists() and len(list(tmp_path.glob("read-*"))) >= 2
    assert sorted(row["file"] for row in found) == sorted(batch_of(folder)["path"])  # each once
    assert sum(row["error"] is not None for row in found) == 1
    assert all(row["user"] == Path(row["file"]).parent.name for row in found if row["error"] is None)

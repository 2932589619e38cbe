"""What a run says: a line of progress, metrics.jsonl, and TensorBoard where tensorboardX is installed."""

import importlib.util
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fpgan.distributed import devices
from fpgan.io.files import writing

_SHOWN = {"accuracy": "bits", "fingerprint": "fp", "latent": "latent", "adversarial": "adv", "consistency": "cons",
          "discriminator": "disc", "progress": "stage", "eval_accuracy": "held-out bits",
          "eval_frechet_pixels_8": "frechet"}


class Log:
    """Collects scalars on the devices and fetches them once per interval, so that the steps never wait for the host.

    Records in metrics.jsonl after the step at which a run resumes are dropped: they are about to be written again.
    """

    def __init__(self, workdir: str | os.PathLike, start: int, last: int, batch_size: int,
                 report: Callable[[str], None]):
        """Args: the run's directory, first and last step, images per step, and where lines of progress go."""
        self._path = Path(workdir) / "metrics.jsonl"
        self._start, self._last, self._batch, self._report = start, last, batch_size, report
        self._pending: list[tuple[int, dict]] = []
        self._measured: dict[str, float] = {}
        self._began = None  # time and step of the first fetch: the rate leaves compilation out
        self._board = _open_board(workdir, start) if devices.is_main() else None
        if devices.is_main():
            keep_until(self._path, start)

    def add(self, step: int, scalars: dict, measured: dict[str, float] | None = None) -> None:
        """Notes the scalars (arrays [devices]) of a finished step, without waiting for them, and what was measured after it.

        Whoever gives measured values flushes next, so that they stand beside the step that they belong to.
        """
        self._pending.append((step, scalars))
        self._measured |= measured or {}

    def flush(self) -> tuple[int, str] | None:
        """Writes the means since the last flush; returns (step, name) of the first scalar that is not finite."""
        if not self._pending:
            return None
        fetched = [(step, {name: float(value) for name, value in devices.unreplicate(scalars).items()})
                   for step, scalars in self._pending]
        self._pending = []
        for step, scalars in fetched:
            for name, value in scalars.items():
                if not np.isfinite(value):
                    return step, name
        names = dict.fromkeys(name for _, scalars in fetched for name in scalars)
        means = {name: float(np.mean([s[name] for _, s in fetched if name in s])) for name in names}
        self._write(fetched[-1][0], means | self._measured)
        self._measured = {}
        return None

    def close(self) -> None:
        """Writes out what TensorBoard's writer still holds."""
        if self._board:
            self._board.close()

    def _write(self, step: int, means: dict) -> None:
        if not devices.is_main():
            return
        now = time.perf_counter()
        rate = None
        if self._began is None:
            self._began = (now, step)
        elif step > self._began[1]:
            rate = (step - self._began[1]) * self._batch / (now - self._began[0])
        record = {"step": step, "images": step * self._batch, "images_per_second": rate} | means
        with writing(self._path), self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._board:
            for name, value in means.items():
                self._board.add_scalar(name, value, step)
        self._report(progress_line(record, self._last, self._batch))


def _open_board(workdir: str | os.PathLike, start: int):
    """Returns a writer for TensorBoard below the run's directory, or None where tensorboardX is not installed."""
    if not importlib.util.find_spec("tensorboardX"):
        return None
    import tensorboardX

    return tensorboardX.SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=start)


def progress_line(record: dict, last: int, batch_size: int) -> str:
    """Returns one line for people: share done, images seen, images/s, losses, bit accuracy, time left."""
    rate = record["images_per_second"]
    left = "-" if not rate else duration((last - record["step"]) * batch_size / rate)
    shown = "  ".join(f"{label} {record[name]:.3f}" for name, label in _SHOWN.items() if name in record)
    speed = f"{rate:,.0f} images/s" if rate else "compiling"
    return f"{100 * record['step'] / last:5.1f}%  {record['images'] / 1000:,.1f}k images  {speed}  {shown}  left {left}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def keep_until(path: Path, step: int) -> None:
    """Drops the records after a step, and a last line that a kill cut short, from a metrics file."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)

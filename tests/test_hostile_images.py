"""Image files that nobody would make by accident, and many that people do: each is one row, and the others are done."""

import io
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image, features

from fpgan.data.folder import list_own_images, read_own_images
from fpgan.errors import FpganError
from fpgan.io import images as io_images
from fpgan.io.files import write_file
from fpgan.io.images import encode_png, read_image, read_square
from fpgan.io.inputs import Budget
from fpgan.io.listing import contents_of, image_sources, iter_images

GOOD = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow tells of odd metadata and of huge images, too


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff(values, bits, extra=()):
    """A grey TIFF of one strip: bits per sample 12, 16 or 32, more tags as (tag, type, value)."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(np.uint32)
        data = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in pairs)
    else:
        data = values.tobytes()
    tags = sorted([(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
                   (278, 4, height), (279, 4, len(data)), *extra])
    directory = b"".join(struct.pack("<HHI", tag, kind, 1) + struct.pack({3: "<HH", 4: "<I", 11: "<f"}[kind], *(
        (value, 0) if kind == 3 else (value,))) for tag, kind, value in tags)
    data += b"\0" * (len(data) % 2)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + directory + bytes(4)


RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


@pytest.mark.parametrize("content", [
    tiff((RAMP * 4095).astype(np.uint16), 12), tiff((RAMP * 65535).astype(np.uint16), 16),
    tiff(RAMP.astype(np.float32), 32, [(339, 3, 3)]),
    tiff((RAMP * 800 - 100).astype(np.float32), 32, [(339, 3, 3), (340, 11, -100.0), (341, 11, 700.0)]),
    encoded(Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG"),
    encoded(Image.fromarray((RAMP * 255).astype(np.uint8)), "PNG"),
], ids=["12 bits", "16 bits", "float to 1", "float of a stated range", "PNG of 16 bits", "8 bits"])
def test_deep_levels_of_a_known_range_are_scaled(content):
    levels = read_image(content)[0][..., 0].astype(float)
    assert np.abs(levels - RAMP * 255).max() <= 1.01


@pytest.mark.parametrize("content", [
    tiff((RAMP * 700).astype(np.float32), 32, [(339, 3, 3)]), tiff((RAMP - 0.5).astype(np.float32), 32, [(339, 3, 3)]),
    tiff(np.full((4, 4), np.nan, np.float32), 32, [(339, 3, 3)]), tiff((RAMP * 4000).astype(np.uint32), 32),
    tiff((RAMP * 4000).astype(np.int32), 32, [(339, 3, 2)]), tiff((RAMP * 4095).astype(np.uint16), 16),
    tiff((RAMP * 200).astype(np.uint16), 16), encoded(Image.fromarray((RAMP * 1023).astype(np.uint16)), "PNG"),
    encoded(Image.fromarray((RAMP * 9).astype(np.float32)), "TIFF"),
])
def test_deep_levels_of_an_unknown_range_are_refused_and_not_black_or_white(content):
    with pytest.raises(FpganError, match="range is not known"):
        read_image(content, 16)


@pytest.mark.parametrize("ending, format", [("jfif", "JPEG"), ("jpe", "JPEG"), ("avif", "AVIF"), ("jp2", "JPEG2000"),
                                            ("tga", "TGA"), ("pgm", "PPM"), ("apng", "PNG"), ("JPG", "JPEG")])
def test_all_documented_formats_are_found_and_read(tmp_path, ending, format):
    if format == "AVIF" and not features.check("avif") or format == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("this Pillow was built without it")
    write_file(tmp_path / f"a.{ending}", encoded(Image.fromarray(GOOD), format))
    write_file(tmp_path / "b.heic", b"x")
    others = []
    assert [source.name for source in image_sources([tmp_path], others.append)] == [str(tmp_path / f"a.{ending}")]
    assert others == [str(tmp_path / "b.heic")] and read_image(tmp_path / f"a.{ending}", 16)[0].shape == (16, 16, 3)


@pytest.mark.parametrize("content", [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n(x) run\n%%EOF\n", b"%PDF-1.4\n",
    b"DDS " + struct.pack("<I", 124) + bytes(120), bytes.fromhex("41540000") * 64,
    b"\0\0\1\0\1\0" + bytes(40), b"8BPS\0\1" + bytes(40), b"GIF89a",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"", b"P6\n99999 99999\n255\n",
    b"P5\n1000000000 1000000000\n255\nx",
    struct.pack("<3x9x4h2b", 1, 1, 30000, 30000, 24, 0), struct.pack(">f", 1.0) * 64,
])
@pytest.mark.parametrize("ending", ["png", "jpg", "tga", "avif"])
def test_foreign_files_under_any_name_start_nothing(tmp_path, content, ending, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a program was started")
    for name in ("run", "Popen", "call", "check_call"):
        monkeypatch.setattr(subprocess, name, refuse)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    with pytest.raises(FpganError, match=str(path)) as caught:
        read_image(path, 16)
    assert str(caught.value).isprintable()


def test_whatever_a_decoder_raises_is_that_files_row(tmp_path, monkeypatch):
    write_file(tmp_path / "a.png", encode_png(GOOD))
    for error in (SystemError("odd"), RuntimeError("odd"), MemoryError(), AssertionError(), RecursionError("odd")):
        def load(self, error=error):
            raise error
        monkeypatch.setattr(Image.Image, "load", load)
        with pytest.raises(FpganError, match="a.png: cannot be read"):
            read_image(tmp_path / "a.png")


def test_huge_images_are_refused_before_they_are_decoded(tmp_path):
    for side in (8000, 13000, 30000):
        header = encoded(Image.new("L", (1, 1)), "PNG")
        huge = header[:16] + struct.pack(">II", side, side) + header[24:]  # and a wrong checksum, which nobody gets to see
        with pytest.raises(FpganError):
            read_image(huge, 32)
    with pytest.raises(FpganError, match="13,000 x 13,000 pixels, more than the 61 million"):
        read_image(encoded(Image.new("1", (13000, 13000)), "PNG"), 32)


_FOLDER = r"""
import re, sys
from concurrent.futures import ThreadPoolExecutor
from fpgan.io.images import encode_png, read_image
from fpgan.errors import FpganError
import numpy as np, pathlib
read_image(encode_png(np.zeros((8, 8, 3), np.uint8)), 4)
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
before = peak()
def read(path):
    try:
        return read_image(path, 32)[0].shape == (32, 32, 3)
    except FpganError:
        return False
with ThreadPoolExecutor(8) as pool:
    good = sum(pool.map(read, sorted(pathlib.Path(sys.argv[1]).iterdir())))
print(good, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux tells the peak of memory")
def test_memory_of_a_hostile_folder_stays_below_1_gb(tmp_path):
    for i in range(4):
        Image.new("RGBA", (7800, 7800), (i, 2, 3, 40)).save(tmp_path / f"rgba{i}.png")
        Image.new("RGB", (7800, 7800), (1, i, 3)).save(tmp_path / f"progressive{i}.jpg", progressive=True)
        Image.new("L", (13000, 13000)).save(tmp_path / f"huge{i}.png")
        Image.new("RGBA", (5800, 5800), (i, 2, 3, 40)).save(tmp_path / f"w{i}.webp", lossless=True, method=0)
        Image.new("P", (7700, 7700)).save(tmp_path / f"p{i}.gif")
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", _FOLDER, str(tmp_path)], capture_output=True, text=True)
    good, kilobytes = map(int, run.stdout.split())
    print(f"peak memory of a hostile folder: {kilobytes / 1e6:.2f} GB above the start, 8 threads, {good} images read")
    assert good == 16 and kilobytes < 1e6


def test_a_budget_lets_as_many_in_as_it_has_room_for():
    budget, inside, most, lock = Budget(10), 0, 0, threading.Lock()

    def work():
        nonlocal inside, most
        with budget.held(4):
            with lock:
                inside, most = inside + 1, max(most, inside + 1)
            time.sleep(0.01)
            with lock:
                inside -= 1
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2
    with budget.held(99):  # alone
        pass


@pytest.mark.skipif(os.name != "posix", reason="special files of POSIX")
def test_fifos_sockets_and_devices_are_rows_and_nothing_waits(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket.png"))
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "nowhere.png").symlink_to("missing.png")
    (tmp_path / "folder.png").mkdir()
    write_file(tmp_path / "good.png", encode_png(GOOD))
    began = time.monotonic()
    found, told = [], {}
    for name, content in contents_of(image_sources([tmp_path])):
        try:
            read_image(content, 16)
            found.append(os.path.basename(name))
        except FpganError as error:
            told[os.path.basename(name)] = str(error)
    server.close()
    assert found == ["good.png"] and set(told) == {"fifo.png", "socket.png", "device.png", "self.png", "nowhere.png"}
    assert "a FIFO" in told["fifo.png"] and "a socket" in told["socket.png"] and "a device" in told["device.png"]
    listing = list_own_images(tmp_path)  # the same walker, for training images
    items = {item.name: item.problem for item in read_own_images(listing, 16, "center")}
    assert {name for name, problem in items.items() if problem} == set(told) and time.monotonic() - began < 10


def test_zips_with_names_twice_backslashes_and_damage(tmp_path):
    path, png = tmp_path / "photos.zip", encode_png(GOOD)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/1.png", "a/1.png", "b\\2.png", "__MACOSX/._1.png", "c/.DS_Store", "Thumbs.db", "d/3.txt", "e/"):
            archive.writestr(name, png if "1" in name or "2" in name else b"x")
        archive.writestr("bomb.png", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    others = []
    found = [(source.name.removeprefix(f"{path}/"), source.error) for source in image_sources([path], others.append)]
    assert [name for name, _ in found] == ["a/1.png", "a/1.png", "b/2.png", "bomb.png"] and others == [f"{path}/d/3.txt"]
    assert found[0][1] is None and "twice" in str(found[1][1])
    listing = list_own_images(path)
    assert listing.images == ("a/1.png", "b/2.png", "bomb.png") and "d/3.txt" in listing.others
    assert any("twice" in name for name in listing.others)
    good = {item.name for item in read_own_images(listing, 16, "center") if item.image is not None}
    assert good == {"a/1.png", "b/2.png"}
    read = [content for name, content in contents_of(image_sources([path])) if isinstance(content, bytes)]
    assert read[:2] == [png, png]


def test_patterns_with_brackets_in_names(tmp_path):
    write_file(tmp_path / "set [1]" / "a.png", encode_png(GOOD))
    for pattern in ("set [1]", "set [1]/*.png", "set [[]1]/*.png", "*/a.png", "set [1]/[ab].png"):
        if pattern == "set [1]/[ab].png":  # a choice and a name: what finds nothing says what brackets mean
            with pytest.raises(FpganError, match="stand for one letter"):
                list(iter_images([tmp_path / pattern]))
        else:
            assert len(list(iter_images([tmp_path / pattern]))) == 1, pattern


def test_what_operating_systems_leave_is_no_image(tmp_path):
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "lost+found/x.png", "@eaDir/a.png", "a.png"):
        write_file(tmp_path / name, encode_png(GOOD))
    assert [path for path, _ in iter_images([tmp_path])] == [str(tmp_path / "a.png")]
    assert list_own_images(tmp_path).images == ("a.png",) and not list_own_images(tmp_path).others


def test_squares_are_those_of_whole_images():
    image = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    for crop in ("center",):
        square, side = read_square(encode_png(image), 16, crop)
        expected, expected_side = io_images.crop_and_resize(image, 16, crop)
        assert side == expected_side == 50 and (square == expected).all()


def test_strips_change_nothing(monkeypatch):
    pixels = np.random.default_rng(2).integers(0, 256, (31, 17, 4), np.uint8)
    for mode in ("RGBA", "P", "LA", "1"):
        content = encoded(Image.fromarray(pixels).convert(mode), "PNG")
        whole = read_image(content)[0]
        monkeypatch.setattr(io_images, "_STRIP", 40)
        assert (read_image(content)[0] == whole).all()
        monkeypatch.undo()


@pytest.mark.slow
def test_listing_200_000_files_takes_time_linear_in_their_number(tmp_path):
    seconds = []
    for count in (20_000, 200_000):
        folder = tmp_path / str(count)
        for i in range(count):
            if i % 1000 == 0:
                (folder / f"{i // 1000:03d}").mkdir(parents=True)
            open(folder / f"{i // 1000:03d}" / (f"{i}.png" if i % 2 else f"{i}.txt"), "wb").close()
        began, told = time.perf_counter(), []
        listing = list_own_images(folder, lambda done, total, told=told: told.append(done))
        seconds.append(time.perf_counter() - began)
        assert len(listing.images) == len(listing.others) == count // 2 and len(told) == count // 2000
    print(f"listing 20,000 files: {seconds[0]:.2f} s; 200,000 files: {seconds[1]:.2f} s")
    assert seconds[1] < 30 * seconds[0] + 1


@pytest.mark.parametrize("format", sorted(io_images.FORMATS))
def test_damage_of_every_format_is_one_line(format):
    try:
        good = encoded(Image.fromarray(GOOD), format)
    except (KeyError, OSError):
        pytest.skip("this Pillow does not write it")
    rng = random.Random(0)
    for _ in range(150):
        bad = bytearray(good[:rng.randrange(1, len(good))] if rng.random() < 0.4 else good)
        for _ in range(rng.randrange(1, 8)):
            bad[rng.randrange(min(len(bad), 400))] = rng.randrange(256)
        try:
            assert read_image(bytes(bad), 16)[0].shape == (16, 16, 3)
        except FpganError as error:
            assert str(error).isprintable() and len(str(error)) < 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4e6

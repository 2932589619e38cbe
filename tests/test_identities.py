"""Nobody is taken for somebody else: keys in any spelling, lists of users in any dress, ids that look alike."""

import base64
import multiprocessing
import os
import stat
import unicodedata

import numpy as np
import pytest

from fpgan.attribution import append, issue, read, read_key, read_users, write
from fpgan.attribution.csv_store import is_registry, issue_missing
from fpgan.attribution.registry import from_fingerprints
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint, check_user
from fpgan.io.inputs import decode_text

KEY = bytes(np.random.default_rng(7).integers(0, 256, 32, np.uint8))
HEX = KEY.hex()
PAIRS = [HEX[i:i + 2] for i in range(0, 64, 2)]
BASE64, URL_SAFE = base64.b64encode(KEY).decode(), base64.urlsafe_b64encode(KEY).decode()
A, B = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


def wrapped(text, width, end="\n"):
    return end.join(text[i:i + width] for i in range(0, len(text), width))


def saved(tmp_path, content, encoding="utf-8"):
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("text", [
    HEX, HEX + "\n", HEX.upper() + "\r\n", "0x" + HEX, "0X" + HEX.upper(), ":".join(PAIRS), "-".join(PAIRS), " ".join(PAIRS),
    wrapped(HEX, 16), wrapped(HEX, 60, "\r\n"), wrapped(HEX, 32, "\r"),
    "    " + wrapped(":".join(PAIRS), 45, "\n    ") + "\n",
    f"\n\n  {HEX}\t\n", BASE64, BASE64 + "\n", BASE64 + "\r\n\r\n", BASE64.rstrip("="), wrapped(BASE64, 20), URL_SAFE,
    URL_SAFE.rstrip("=") + "\n",
])
def test_every_spelling_of_a_key_is_the_same_key(tmp_path, text, encoding):
    said = []
    assert read_key(saved(tmp_path, text, encoding), said.append) == KEY
    form = "hexadecimal digits" if set(text) <= set("0123456789abcdefABCDEF:- \t\r\nxX") else "base64"
    assert f"32 bytes, read as {form}" in said[0] and HEX not in said[0]


@pytest.mark.parametrize("text", [
    HEX[:-1], HEX + "0", "0x" + HEX[:-1], wrapped(HEX[:-1], 16), HEX[:40] + "O" + HEX[41:], HEX[:20] + "g" + HEX[20:],
    "key=" + HEX, HEX + " # ours", "\u200b" + HEX, HEX + "\x1a", HEX + "\0", '"' + HEX + '"',
    ", ".join("0x" + pair for pair in PAIRS),
    ":".join(PAIRS)[:-1], BASE64[:-2] + "!=", BASE64[:-1] + "\n=", BASE64 + "=", BASE64[:22] + " " + BASE64[22:],
    BASE64[:20] + "=" + BASE64[20:], "correct horse battery staple, and more", "correcthorsebatterystaple12",
    "пароль пароль пароль",
    "-----BEGIN PRIVATE KEY-----\n" + BASE64 + "\n-----END PRIVATE KEY-----\n", '{"key": "' + HEX + '"}',
    base64.b32encode(KEY).decode(), HEX[:40] + "£" + HEX[40:], "".join(chr(0xFEE0 + ord(letter)) for letter in HEX),
])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_what_looks_like_a_key_and_is_none_is_refused(tmp_path, text, encoding):
    try:
        path = saved(tmp_path, text, encoding)
    except UnicodeEncodeError:
        pytest.skip("this encoding does not write it")
    if text == BASE64[:-1] + "\n=":  # wrapped, and right
        assert read_key(path) == KEY
        return
    with pytest.raises(FpganError) as caught:
        read_key(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert HEX[:12] not in str(caught.value) and BASE64[:12] not in str(caught.value)  # a secret stays one


def test_raw_keys_are_taken_as_they_are(tmp_path):
    rng, refused = np.random.default_rng(0), 0
    for _ in range(2000):
        raw = rng.bytes(int(rng.integers(16, 65)))
        try:
            assert read_key(saved(tmp_path, raw)) == raw
        except FpganError:
            refused += 1
    assert refused <= 1
    with pytest.raises(FpganError, match="larger than the 65,536 bytes"):
        read_key(saved(tmp_path, rng.bytes(1 << 17)))


def test_random_keys_of_both_alphabets_are_hardly_ever_refused(tmp_path):
    rng, refused = np.random.default_rng(1), 0
    for _ in range(2000):
        raw = rng.bytes(32)
        try:
            assert read_key(saved(tmp_path, base64.urlsafe_b64encode(raw).rstrip(b"="))) == raw
        except FpganError:  # never another key
            refused += 1
    assert refused <= 8  # without a digit


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_key_that_everybody_may_read_is_told(tmp_path):
    path, said = saved(tmp_path, HEX), []
    for mode, lines in ((0o600, 1), (0o640, 1), (0o644, 2)):
        path.chmod(mode)
        said.clear()
        read_key(path, said.append)
        assert len(said) == lines
    assert "read by everybody" in said[1]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_users_in_any_dress(tmp_path, encoding, end):
    lines = ["alice", "", ",", ";;", "\t", "bob", '"Smith, John"', '"say ""hi"""', '"user"', '"#1"', "o'neil", "a=b", "x"]
    expected = ["alice", "bob", "Smith, John", 'say "hi"', "user", "#1", "o'neil", "a=b", "x"]
    assert read_users(saved(tmp_path, end.join(lines), encoding)) == expected


@pytest.mark.parametrize("text", [
    "user\nalice", "User\nalice", "users\nalice", "User ID\nalice", "user_id\nalice", "id\nalice", "E-Mail\nalice",
    "Name\nalice", "fingerprint\nalice",
    "User,Fingerprint\nalice," + A, "user;fingerprint\nalice;" + A, "user\tfingerprint\nalice\t" + A, "alice," + A,
    "alice;bob;carol", "alice,bob", "alice,", "alice\tadmin", "| alice |", "alice " + A, "alice: " + A, "alice=0x" + A,
    '{"user": "alice"}', '["alice", "bob"]', "- alice", "* alice", "# alice", "// alice", "<user>alice</user>", "'alice'",
    '"alice', '"alice",' + A, '"alice" x', "sep=;\nalice", "alice\nalice", " alice", "alice ", "al\x0bice", "al\x85ice",
    "al\u2028ice", "al\x1cice", "\u200balice", "al\u00adice", "Zoe\u0308", "x" * 257, "\n\n",  ",,\n;",
    b"\xff\xfeal ", b"al\xe9",
    b"alice\0\0", b"PK\x03\x04" + bytes(range(200)),
])
def test_what_is_no_list_of_users_is_refused_and_nobody_is_issued(tmp_path, text):
    path = saved(tmp_path, text)
    with pytest.raises(FpganError) as caught:
        read_users(path)
    assert str(path) in str(caught.value) and str(caught.value).isprintable()


def test_an_odd_word_further_down_is_an_id(tmp_path):
    assert read_users(saved(tmp_path, "alice\nuser\nname")) == ["alice", "user", "name"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_registries_as_spreadsheets_save_them(tmp_path, encoding, delimiter):
    lines = ["User,Fingerprint", "alice," + A, ",", '"Zoë, 2",' + B.upper(), "", " , "]
    text = "\r\n".join(line.replace(",", delimiter) if line[0:1] != '"' else f'"Zoë, 2"{delimiter}{B}' for line in lines)
    path = saved(tmp_path, text, encoding)
    registry = read(path)
    assert is_registry(path) and registry.users == ("alice", "Zoë, 2") and registry.fingerprint("alice").hex == A
    assert issue_missing(path, ["bob", "alice"]).users == ("alice", "Zoë, 2", "bob")
    assert read(path).users == ("alice", "Zoë, 2", "bob") and path.read_bytes().startswith(b"user,fingerprint\n")
    with pytest.raises(FpganError):  # and never as a list of ids
        read_users(path)


@pytest.mark.parametrize("text", ["fingerprint,user\n", "user,fingerprint,note\n", "user fingerprint\n", "user\n", "alice\n",
                                  "\nuser,fingerprint\n", "sep=;\nuser;fingerprint\n"])
def test_other_headers_are_no_registries(tmp_path, text):
    path = saved(tmp_path, text)
    assert not is_registry(path)
    with pytest.raises(FpganError, match="line 1: the header is"):
        read(path)


def test_a_registry_with_a_header_alone_has_no_users_yet(tmp_path):
    path = saved(tmp_path, "user,fingerprint\n")
    assert len(read(path)) == 0 and issue_missing(path, ["alice"]).users == ("alice",)


ALIKE = ["Zoe\u0308", "e\u0301", "\u1112\u1161\u11ab", "al\u200bice", "al\u200dice", "\ufeffalice", "alice\u2060",
         "\u202ealice", "al\u00adice", "a\u00a0b", "a\u3000b", "a\u2009b", "\u0430lice", "p\u0430ypal", "\u0391lpha",
         "a\u034fb", "\u2764\ufe0f", "al\u180eice", "alice\u3164", "x\U000e0061", "a\u0007", "a\x7f", "a\ud800", "a\u2028b",
         " a", "a ", "", "x" * 140_000]


@pytest.mark.parametrize("user", ALIKE, ids=lambda user: ascii(user)[:20])
def test_ids_that_look_alike_are_refused_everywhere(tmp_path, user):
    for refuse in (check_user, lambda u: issue([u]), lambda u: issue([u], key=KEY), lambda u: Fingerprint.derive(KEY, u),
                   lambda u: from_fingerprints([u], [A]), lambda u: issue(["alice"]).select([u])):
        with pytest.raises(FpganError) as caught:
            refuse(user)
        assert len(str(caught.value)) < 2000 and str(caught.value).isprintable()
    normal = unicodedata.normalize("NFC", user)
    if normal != user:
        assert ascii(user) in str(caught.value) and ascii(normal) in str(caught.value)
    try:
        path = saved(tmp_path, f"user,fingerprint\n\"{user}\",{A}\n")
    except UnicodeEncodeError:
        return
    with pytest.raises(FpganError, match="line 2"):
        read(path)


def test_ids_of_all_languages_are_taken():
    for user in ["alice", "Zoë", "田中 太郎", "Иван Петров", "Ωμέγα", "한글", "محمد", "β-team", "bob@example.org", "a/b",
                 "½", "x" * 256, "naïve", "😀"]:
        assert check_user(user) == user and Fingerprint.derive(KEY, user)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_registries_are_private_and_keep_mode_and_link(tmp_path):
    path, link = tmp_path / "real" / "r.csv", tmp_path / "link.csv"
    write(issue(["alice"]), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    link.symlink_to("real/r.csv")
    append(link, issue(["bob"]))
    assert link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o640 and read(path).users == ("alice", "bob")
    assert {p.name for p in path.parent.iterdir()} == {"r.csv", "r.csv.lock"}  # one lock for all names of a file


def _issue(path, i):
    issue_missing(path, ["shared", "alice", f"user{i}"], 64)


def test_processes_that_issue_at_once_share_what_the_first_has_issued(tmp_path):
    pytest.importorskip("fcntl")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_issue, args=(tmp_path / "r.csv", i)) for i in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 5
    assert sorted(read(tmp_path / "r.csv", 64).users) == ["alice", "shared", *(f"user{i}" for i in range(5))]


def test_text_in_every_encoding_is_the_same_text():
    for encoding in ENCODINGS:
        assert decode_text("alice\r\nbob".encode(encoding)) == "alice\r\nbob"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert decode_text("Zoë 田中".encode(encoding)) == "Zoë 田中"
    for content in (b"\xe9", b"a\0b", "Zoë 田中".encode("utf-16-le"), b"\xff\xfea", b"\xff\xfe\x00\xd8a\0"):
        with pytest.raises(ValueError):
            decode_text(content)

from pathlib import Path

import pytest

from liftstudio.core.files import atomic_path, atomic_write, file_kind, stand_in


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a b.txt"
    atomic_write(path, "ü\n")
    assert path.read_bytes() == b"\xc3\xbc\n"
    atomic_write(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [entry.name for entry in path.parent.iterdir()] == ["a b.txt"]


@pytest.mark.parametrize("existing", [None, b"old"])
def test_a_failure_leaves_the_old_file_or_none(tmp_path: Path, existing: bytes | None) -> None:
    path = tmp_path / "image.png"
    if existing is not None:
        path.write_bytes(existing)

    def fail() -> None:
        with atomic_path(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.suffix == ".png"
            temporary.write_bytes(b"half")
            raise RuntimeError("cut short")

    with pytest.raises(RuntimeError, match="cut short"):
        fail()
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([] if existing is None else [existing])


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        atomic_write(tmp_path / "file" / "below.txt", "")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9370000000\n"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (POINTER, "a Git LFS pointer of 135 bytes, not the file itself; run git lfs pull, or download the file"),
        (b"\n<!DOCTYPE html>\n<html>", "an HTML page, not the file itself; download the file again"),
        (b"<?xml version='1.0'?><Error/>", "an XML text"),
        (b"<?xml version='1.0'?><svg/>", "an SVG drawing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF image"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x10\0\0\0\0\0\0\0{}", "a safetensors file"),
        (b"", "an empty file"),
        (b"v 0 0 0\n", ""),
        (b"\0" * 80, ""),
    ],
)
def test_what_a_file_is(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    found = file_kind(tmp_path / "file")
    assert found.startswith(kind) and bool(found) == bool(kind)


def test_the_file_of_a_folder_that_is_only_a_pointer(tmp_path: Path) -> None:
    assert stand_in(tmp_path / "none") == stand_in(tmp_path) == ""
    (tmp_path / "config.json").write_text("{}")
    assert stand_in(tmp_path) == ""
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    assert stand_in(tmp_path).startswith("model.safetensors: a Git LFS pointer of 135 bytes")

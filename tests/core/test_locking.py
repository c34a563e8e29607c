"""A folder is written by one process at a time; locks that killed processes left behind do not count."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

from liftstudio.core.errors import InputError
from liftstudio.core.locking import NAME, exclusive, is_locked

HOLD = """\
import sys, time
from pathlib import Path
from liftstudio.core.locking import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder: Path, seconds: float, **variables: str) -> subprocess.Popen[str]:
    """Start a process that locks `folder` for some seconds, and return it once it has or is refused."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], env=environment, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        _, errors = hold(tmp_path, 0).communicate()
    assert f"InputError: {tmp_path}: process {os.getpid()} writes there; wait until it ends, or stop it" in errors
    assert hold(tmp_path, 0).wait() == 0


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    process = hold(tmp_path, 100)
    with pytest.raises(InputError, match=f"process {process.pid} writes there"), exclusive(tmp_path):
        pass
    assert is_locked(tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / NAME).is_file() and not is_locked(tmp_path)
    with exclusive(tmp_path):
        assert (tmp_path / NAME).read_text().split()[0] == str(os.getpid())
        assert is_locked(tmp_path)
    assert not (tmp_path / NAME).exists() and not is_locked(tmp_path)


def test_a_process_that_got_the_id_of_a_killed_one_holds_no_lock(tmp_path: Path) -> None:
    started_before = "1"
    (tmp_path / NAME).write_text(f"{os.getppid()}\n{socket.gethostname()}\n{started_before}\n")
    if sys.platform == "linux":  # where the start of a process can be read
        with exclusive(tmp_path):
            pass


@pytest.mark.parametrize("text", ["1\nelsewhere\n", ""])
def test_where_it_cannot_be_known_the_message_says_how_to_unlock(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(InputError, match=f"delete {tmp_path / NAME}$") as error, exclusive(tmp_path):
        pass
    assert ("process 1 on elsewhere" in str(error.value)) == bool(text)
    assert is_locked(tmp_path) and (tmp_path / NAME).read_text() == text
    (tmp_path / NAME).unlink()
    with exclusive(tmp_path):
        pass


def test_processes_for_other_devices_take_no_lock(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        assert hold(tmp_path, 0, LOCAL_RANK="1").wait() == 0


def test_an_empty_folder_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bad"), exclusive(tmp_path / "runs" / "a"):
        raise InputError("bad")
    assert not (tmp_path / "runs").exists()
    with exclusive(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "a" / "file").touch()
    assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["file"]

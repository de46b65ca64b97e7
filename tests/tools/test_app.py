"""``score app`` as a process: it starts, says where it is, ends at once, and leaves nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.app.served import png
from tests.geo.rasters import picture
from tests.tiny_model import tiny_folder
from tests.tools.command_line import TOOLS, Call


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_at_once_and_leaves_nothing(tmp_path: Path, ending: signal.Signals) -> None:
    tiny_folder(tmp_path / "model", ["ship"], "input.test.shortest=64")
    (tmp_path / "files").mkdir()
    host = "127.0.0.1" if ending == signal.SIGINT else "0.0.0.0"
    settings = ("model=model", f"host={host}", "port=0", "runtime.device=cpu", "runtime.threads=1")
    server = subprocess.Popen(
        [sys.executable, TOOLS / "app.py", *settings], cwd=tmp_path, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "files")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith(f"http://{host}:") and line.endswith("/   Ctrl-C ends it\n")
        address = line.split()[0].replace("0.0.0.0", "127.0.0.1")
        told = httpx.post(f"{address}images", content=png(picture(600, 6000)), timeout=30).json()
        assert httpx.get(f"{address}images/{told['id']}").json()["state"] in ("waiting", "looking")
        assert [path.stat().st_mode & 0o77 for path in (tmp_path / "files").iterdir()] == [0]
        server.send_signal(ending)
        out, err = server.communicate(timeout=30)  # the network pass that is going on would take longer
    finally:
        server.kill()
    assert not list((tmp_path / "files").iterdir())
    if ending == signal.SIGINT:
        assert (server.returncode, out, err) == (0, "ended\n", "")
    else:
        [warning] = err.splitlines()
        assert warning.startswith("warning: host=0.0.0.0: whoever reaches this machine can use the page")


def test_a_port_that_is_taken_is_told(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call("app", f"port={port}", "model=none")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: host=127.0.0.1 port={port}: Address already in use; choose another port, or 0 for any\n"


@pytest.mark.parametrize(
    "setting", ["port=x", "port=70000", "max_mb=0", "images=0", "max_mpx=nan", "host=no.such.host."]
)
def test_settings_that_cannot_be(call: Call, setting: str) -> None:
    done = call("app", setting, "model=none")
    assert done.code == 2 and done.err.startswith("error: ") and setting.partition("=")[0] in done.err
    assert len(done.err.splitlines()) == 1

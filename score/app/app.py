"""Open a page for images and words: ``score app``, then drop an image or a GeoTIFF on it and type what to look for.

It listens on this machine alone unless told otherwise, and needs no network. Ctrl-C ends it, and removes what was
uploaded.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

from omegaconf import DictConfig

from score.app.command import command, plain
from score.errors import ConfigError, InstallError


@command("commands/app")
def main(config: DictConfig) -> None:
    from score.engine import checks  # not before the settings have been read: PyTorch takes seconds

    at_least = checks.Number(float, 0.001)
    port = checks.Number(int, 0, 65535)
    checks.check_numbers(config, port=port, max_mb=at_least, max_mpx=at_least, images=checks.COUNT)
    settings = plain(config)
    try:
        import uvicorn

        from score.app import page, upload
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "rasterio", "geopandas", "pyproj", "shapely", "affine", "pyogrio"):
            raise
        raise InstallError(f'{error.name} is not installed; pip install "score-segmenter[app]"') from error
    from score import runtime
    from score.segmenter import Segmenter
    from score.weights import folder, known

    runtime.log_to_stdout()
    listening = _listen(settings["host"], settings["port"])
    device = runtime.select_device(config.runtime.device, config.runtime.threads)
    model, _ = folder.load(known.find(settings["model"]), device, [])
    limits = upload.Limits(settings["max_mb"], settings["max_mpx"], settings["images"])
    with tempfile.TemporaryDirectory(prefix="score-page-", ignore_cleanup_errors=True) as place:
        app = page.page(Segmenter(model), Path(place), limits, settings["host"])
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",  # its end stands below, and Ctrl-C at its start would log a traceback
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        if not page.is_loopback(settings["host"]):
            print(
                f"warning: host={settings['host']}: whoever reaches this machine can use the page, without a password; "
                "what is sent can be read on the way",
                file=sys.stderr,
            )
        host = f"[{settings['host']}]" if ":" in settings["host"] else settings["host"]
        print(f"http://{host}:{listening.getsockname()[1]}/   Ctrl-C ends it", flush=True)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            app.state.uploads.close()
    print("ended")
    if any(thread is not threading.main_thread() and thread.is_alive() for thread in threading.enumerate()):
        sys.stdout.flush()
        os._exit(0)  # a question or a tile that is still being answered cannot be broken off, and nobody waits for it


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before the model is read, which takes seconds."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (
            os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        )  # negative: no such host
        raise ConfigError(f"host={host} port={port}: {reason}; choose another port, or 0 for any") from error

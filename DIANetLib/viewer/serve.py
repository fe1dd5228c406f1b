# SPDX-License-Identifier: Apache-2.0
"""Starting the viewer: checks, set-up, and listening on this machine alone until it is stopped."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from DIANetLib.errors import DependencyError, DeviceError, InputError, optional_import
from DIANetLib.viewer.access import HOST, Access
from DIANetLib.viewer.folder import read_folder

__all__ = ["view"]

_FEATURE, _EXTRA = "the browser viewer", "viewer"
# VTK ends the process where it cannot draw; better another one than this.
_DRAW = (
    "import vtkmodules.vtkRenderingOpenGL2; from vtkmodules.vtkRenderingCore import vtkRenderWindow;"
    " w = vtkRenderWindow(); w.SetOffScreenRendering(True); w.Render()"
)


def view(
    directory: Path,
    *,
    port: int = 0,
    image: Path | None = None,
    reviewer: str = "",
    browser: bool = False,
    debug: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Show an output folder in a browser, until Ctrl-C.

    Args:
        directory: An output folder of `dianet segment`.
        port: Where to listen on the loopback address; 0 for any that is free.
        image: Where the segmented image is now; default: where it was read from.
        reviewer: Who judges regions.
        browser: Also open it in the browser.
        debug: Let VTK's and Slicer's own messages through.
        say: Given the lines to print.

    Raises:
        InputError: There is no such output folder, or the port is taken.
        DependencyError: The extra `viewer` is not installed.
        DeviceError: There is no OpenGL to draw with.
    """
    folder = read_folder(directory)
    _check_port(port)
    drawing = subprocess.Popen(
        [sys.executable, "-c", _DRAW], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        # Before anything of Slicer is imported: a missing package is a sentence.
        optional_import("slicer", feature=_FEATURE, extra=_EXTRA, version=">=5.11")
        _trame_slicer()
    finally:
        drawn = drawing.wait()
    if drawn != 0:
        raise DeviceError(
            "The viewer cannot draw: there is no OpenGL on this machine.",
            remedy="Install it, for example with: sudo apt-get install libegl1 libgl1-mesa-dri",
        )
    imported = time.perf_counter()
    from DIANetLib.viewer.app import Viewer

    os.environ["WSLINK_READY_MSG"] = ""  # wslink's own line on stdout
    os.environ["TRAME_ARGS"] = ""  # trame would read this command's arguments as its own
    if not debug:
        _silence_vtk()
    viewer = Viewer(folder, image=image, reviewer=reviewer)
    access = Access()

    def ready(**_: Any) -> None:
        url = access.url(viewer.server.port)
        say(f"Showing {folder.directory} after {time.perf_counter() - imported:.1f} s of loading")
        say(f"Open in a browser:  {url}")
        say("Stop with Ctrl-C. For research use only. Not a medical device.")
        if browser:
            webbrowser.open(url)

    viewer.server.controller.on_server_bind.add(lambda web, **_: guard(web, access))
    viewer.server.controller.on_server_ready.add(ready)
    try:
        viewer.server.start(host=HOST, port=port, open_browser=False, show_connection_info=False, timeout=0)
    except OSError as error:
        raise _taken(port, error) from error


def guard(web: Any, access: Access) -> None:
    """Let `access` judge all that reaches wslink's web server, its websocket included."""
    from aiohttp import web as http

    @http.middleware
    async def judged(request: Any, handler: Any) -> Any:
        port = web.get_port()
        verdict = access.judge(request.headers, request.query, request.cookies, port)
        if verdict.status != 200:
            return http.Response(status=verdict.status, text=f"{verdict.reason}\n")
        try:
            response = await handler(request)
        except http.HTTPException as redirect:
            response = redirect
        if verdict.greets and not response.prepared:
            response.set_cookie(access.cookie(port), access.token, httponly=True, samesite="Strict", path="/")
        if isinstance(response, http.HTTPException):
            raise response
        return response

    web.app.middlewares.append(judged)


def _trame_slicer() -> None:
    optional_import("trame_slicer", feature=_FEATURE, extra=_EXTRA, version=">=2")
    try:
        import trame_slicer.rca_view  # noqa: F401 (the slow part, so that what follows is loading alone)
    except ImportError as error:
        raise DependencyError(
            f"The packages of {_FEATURE} do not fit together: {error}.",
            remedy='Install them anew with: pip install --upgrade "dianet[viewer]"',
        ) from error


def _silence_vtk() -> None:
    """Off-screen and without Slicer's share folder, VTK and MRML warn of what does no harm here."""
    import vtk

    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
    vtk.vtkObject.GlobalWarningDisplayOff()


def _check_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise InputError(f"The port is {port}, expected 0 to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise _taken(port, error) from error


def _taken(port: int, error: OSError) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(
            f"The port {port} is taken.", remedy="Choose another with --port, or leave --port out."
        )
    return InputError(f"The viewer cannot listen on port {port}: {error.strerror or error}.")

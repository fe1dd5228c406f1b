# SPDX-License-Identifier: Apache-2.0
"""Starting the viewer: what cannot work is a sentence and exit code 2; who has no token gets nothing."""

from __future__ import annotations

import asyncio
import socket

import pytest

from DIANetLib import cli
from DIANetLib.errors import DependencyError
from DIANetLib.viewer import serve
from Testing.viewer.conftest import need_viewer


def view(capsys, *arguments) -> str:
    """What the command says as it refuses."""
    assert cli.main(["view", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dianet: error: ")
    assert error.count("\n") == 1
    return error


def test_a_folder_that_is_not_there(capsys, tmp_path):
    assert "does not exist" in view(capsys, tmp_path / "nowhere")


def test_a_folder_of_something_else(capsys, tmp_path):
    assert "no output folder" in view(capsys, tmp_path)


def test_a_port_that_is_taken(capsys, result):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        assert "is taken" in view(capsys, result, "--port", taken.getsockname()[1])


def test_a_port_that_is_none(capsys, result):
    assert "expected 0 to 65535" in view(capsys, result, "--port", 70000)


def test_without_the_extra_the_sentence_names_it(capsys, result, monkeypatch):
    def missing(module, **_):
        raise DependencyError(f"Missing {module}.", remedy='Install it with: pip install "dianet[viewer]"')

    monkeypatch.setattr(serve, "optional_import", missing)

    assert 'pip install "dianet[viewer]"' in view(capsys, result)


def test_without_opengl_the_sentence_says_what_to_install(capsys, result, monkeypatch):
    need_viewer()
    monkeypatch.setattr(serve, "_DRAW", "import os; os.abort()")

    assert "no OpenGL" in view(capsys, result)


@pytest.mark.slow
def test_neither_the_page_nor_the_websocket_answers_without_the_token(running):
    got = asyncio.run(knock(running.address, running.url))

    assert got["without"] == [403] * 5
    assert got["greeting"] == 302
    assert got["with"] == [200, 200]
    assert got["websockets without"] == [403, 403]
    assert got["websocket of another page"] == 403
    assert got["websocket"] == "open"


async def knock(address: str, url: str) -> dict:
    import aiohttp

    async def get(session, path, **options):
        async with session.get(address + path, allow_redirects=False, **options) as answer:
            return answer.status

    async def upgrade(session, path="/ws", **options):
        try:
            async with session.ws_connect(address + path, **options):
                return "open"
        except aiohttp.WSServerHandshakeError as error:
            return error.status

    got: dict = {}
    paths = ("/", "/index.html", "/vue.global.js", "/ws", "/?token=wrong")
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        got["without"] = [await get(session, path) for path in paths]
        got["websockets without"] = [await upgrade(session), await upgrade(session, "/ws?token=wrong")]
        got["greeting"] = await get(session, url.removeprefix(address))
        got["with"] = [await get(session, path) for path in ("/index.html", "/vue.global.js")]
        got["websocket of another page"] = await upgrade(session, headers={"Origin": "http://evil.example"})
        got["websocket"] = await upgrade(session)
    return got

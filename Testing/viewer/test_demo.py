# SPDX-License-Identifier: Apache-2.0
"""The demo ends with what to type to look at its result."""

from __future__ import annotations

from pathlib import Path

from DIANetLib import demo


def test_with_the_viewer_installed_the_command_shows_the_folder(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda _: object())

    command = demo._view_command(Path("a folder"))

    assert command.split(" ", 1)[0].endswith("dianet")
    assert command.endswith("view 'a folder'")


def test_without_it_make_installs_it_and_shows_the_demo(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda _: None)

    assert demo._view_command(Path("demo-output")) == "make view"

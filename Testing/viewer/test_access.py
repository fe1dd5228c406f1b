# SPDX-License-Identifier: Apache-2.0
"""Only who knows the token gets in, and only through the loopback address."""

from __future__ import annotations

import pytest

from DIANetLib.viewer.access import Access

HOST = {"Host": "127.0.0.1:8000"}


@pytest.fixture
def access():
    return Access("secret")


def test_two_runs_have_two_long_tokens():
    tokens = {Access().token for _ in range(2)}

    assert len(tokens) == 2
    assert all(len(token) >= 43 for token in tokens)  # 256 bits


def test_the_address_that_is_printed_opens_the_page_and_leaves_the_cookie(access):
    assert access.url(8000) == "http://127.0.0.1:8000/?token=secret"

    verdict = access.judge(HOST, {"token": "secret"}, {}, 8000)

    assert (verdict.status, verdict.greets) == (200, True)


def test_the_cookie_alone_is_enough_afterwards(access):
    verdict = access.judge(HOST, {}, {access.cookie(8000): "secret"}, 8000)

    assert (verdict.status, verdict.greets) == (200, False)


@pytest.mark.parametrize(
    ("query", "cookies"),
    [
        ({}, {}),
        ({"token": "wrong"}, {}),
        ({"token": ""}, {}),
        ({}, {"dianet-viewer-8000": "wrong"}),
        ({}, {"dianet-viewer-8001": "secret"}),
        ({"token": "sécret"}, {}),
    ],
)
def test_without_the_token_nothing_is_answered(access, query, cookies):
    verdict = access.judge(HOST, query, cookies, 8000)

    assert verdict.status == 403
    assert "token" in verdict.reason


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:9000", "evil.example:8000", ""])
def test_another_host_name_is_refused_even_with_the_token(access, host):
    assert access.judge({"Host": host}, {"token": "secret"}, {}, 8000).status == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9000", "null"])
def test_another_page_is_refused_even_with_the_cookie(access, origin):
    cookies = {access.cookie(8000): "secret"}

    assert access.judge({**HOST, "Origin": origin}, {}, cookies, 8000).status == 403
    assert access.judge({**HOST, "Origin": "http://127.0.0.1:8000"}, {}, cookies, 8000).status == 200

# SPDX-License-Identifier: Apache-2.0
"""Who may talk to the viewer: this machine's loopback address, with the token of this run.

Other users of the machine, and web pages in the same browser, can reach a port on the loopback address. The
token in the address that the viewer prints opens the page and leaves a cookie, which the page's further
requests and its websocket carry. A host name other than the loopback's is refused (DNS rebinding), and so is
a websocket that another page opens.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["HOST", "Access", "Verdict"]

HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Verdict:
    """What becomes of a request.

    Args:
        status: 200 if it goes on, else the HTTP status of the refusal.
        reason: Why it is refused, as a sentence.
        greets: Whether it came with the token itself, so that the answer leaves the cookie.
    """

    status: int = 200
    reason: str = ""
    greets: bool = False


class Access:
    """The token of one run and what may be done with it.

    Args:
        token: The secret; a fresh one of 256 bits when None.
    """

    def __init__(self, token: str | None = None) -> None:
        self.token = token or secrets.token_urlsafe(32)

    def url(self, port: int) -> str:
        """The address to open in a browser."""
        return f"http://{HOST}:{port}/?token={self.token}"

    def cookie(self, port: int) -> str:
        """Name of the cookie: cookies are shared by all ports, so each viewer has one of its own."""
        return f"dianet-viewer-{port}"

    def judge(
        self, headers: Mapping[str, str], query: Mapping[str, str], cookies: Mapping[str, str], port: int
    ) -> Verdict:
        """Decide on a request, to open a websocket or for anything else.

        Args:
            headers: Its headers, by name in any case.
            query: Parameters of its address.
            cookies: Its cookies.
            port: The port that the viewer listens on.
        """
        if headers.get("Host", "") not in {f"{name}:{port}" for name in _NAMES}:
            return Verdict(403, f"This viewer answers to the address {HOST}:{port} alone.")
        origin = headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("Host"):
            return Verdict(403, "This viewer answers its own page alone.")
        if self._fits(query.get("token")):
            return Verdict(greets=True)
        if self._fits(cookies.get(self.cookie(port))):
            return Verdict()
        return Verdict(
            403, "The token is missing or wrong: open the whole address that `dianet view` printed."
        )

    def _fits(self, token: str | None) -> bool:
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())

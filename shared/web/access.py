"""Who may read what a server shows and ask it for something: whoever has its token, if it has one.

A program sends the token with each request (`Authorization: Bearer TOKEN`). A browser sends it once and gets
a cookie that proves it had it: an event stream, a picture or a link carry no header of ours. The cookie is
signed, not remembered: it outlives the server's process, and ends with its time or when the token changes.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping

SESSION_SEC = 30 * 24 * 3600
"""How long a browser is not asked again."""
SCHEME = "bearer"


class Access:
    """Compares in constant time. Without a token everybody may.

    Args:
        token: The server's.
        clock: Unix time.
    """

    def __init__(self, token: str | None, clock: Callable[[], float] = time.time) -> None:
        self._token = token.encode() if token else None
        self._clock = clock
        # slow on purpose: who has stolen a cookie cannot try tokens against it fast
        salt = b"worldloop session"
        self._key = hashlib.scrypt(self._token, salt=salt, n=2**14, r=8, p=1) if self._token else b""
        self.cookie_name = f"worldloop-{self._signed('name')[:8]}"
        """Cookies do not tell ports apart: servers with other tokens on this machine have other names."""

    def granted(self, authorization: str | None, cookies: Mapping[str, str]) -> bool:
        """Whether a request with this header and these cookies comes from somebody who has the token."""
        if self._token is None:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == SCHEME and self.knows(token.strip().encode("latin-1", "replace")):
            return True
        until, _, proof = cookies.get(self.cookie_name, "").partition("-")
        genuine = hmac.compare_digest(proof.encode(), self._signed(until).encode())
        return genuine and int(until) > self._clock()

    def knows(self, token: bytes) -> bool:
        """Whether this is the token."""
        return self._token is None or hmac.compare_digest(token, self._token)

    def cookie(self) -> str:
        """A new cookie's value."""
        until = str(int(self._clock()) + SESSION_SEC)
        return f"{until}-{self._signed(until)}"

    def _signed(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

"""Who may read what a server shows and ask it for something: whoever has its token.

A program sends the token with each request (`Authorization: Bearer TOKEN`). A browser sends it once and gets
a cookie that proves it had it: an event stream, a picture or a link carry no header of ours. The cookie is
signed, not remembered: it outlives the server's process, and ends with its time or when the token changes.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping

from shared.web.guesses import Guesses

SESSION_SEC = 30 * 24 * 3600
"""How long a browser is not asked again."""
SCHEME = "bearer"


class Access:
    """Compares in constant time, and looks at no more tokens of who has shown many wrong ones.

    Args:
        token: The server's; not empty.
        clock: Unix time.
        guesses: What is known of wrong tokens.
    """

    def __init__(
        self, token: str, clock: Callable[[], float] = time.time, guesses: Guesses | None = None
    ) -> None:
        if not token:
            raise ValueError("an empty token lets everybody in")
        self._token = token.encode()
        self._clock = clock
        self._guesses = Guesses() if guesses is None else guesses
        # slow on purpose: who has stolen a cookie cannot try tokens against it fast
        salt = b"worldloop session"
        self._key = hashlib.scrypt(self._token, salt=salt, n=2**14, r=8, p=1)
        self.cookie_name = f"worldloop-{self._signed('name')[:8]}"
        """Cookies do not tell ports apart: servers with other tokens on this machine have other names."""

    def granted(self, authorization: str | None, cookies: Mapping[str, str], host: str) -> bool:
        """Whether a request with this header and these cookies comes from somebody who has the token.

        Raises:
            TooManyGuessesError: As of `knows`; a cookie is good all the same.
        """
        until, _, proof = cookies.get(self.cookie_name, "").partition("-")
        genuine = hmac.compare_digest(proof.encode(), self._signed(until).encode())
        if genuine and int(until) > self._clock():
            return True
        scheme, _, token = (authorization or "").partition(" ")
        return scheme.lower() == SCHEME and self.knows(token.strip().encode("latin-1", "replace"), host)

    def knows(self, token: bytes, host: str) -> bool:
        """Whether this is the token.

        Args:
            token: What was shown; nothing is no guess.
            host: Address of who showed it.

        Raises:
            TooManyGuessesError: It was not looked at.
        """
        if not token:
            return False
        self._guesses.check(host)
        if hmac.compare_digest(token, self._token):
            return True
        self._guesses.wrong(host)
        return False

    def cookie(self) -> str:
        """A new cookie's value."""
        until = str(int(self._clock()) + SESSION_SEC)
        return f"{until}-{self._signed(until)}"

    def _signed(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

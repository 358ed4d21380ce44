"""Why a server and a client do not come together where waiting helps nothing, and what to do about it."""

from __future__ import annotations

import ssl

from shared.bus.identity import Identity

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""What OpenSSL says when the other side does not speak TLS."""
_CURES = {
    10: "It has ended: `worldloop keys renew` where ca-key.pem is, then SIGHUP to nats-server",
    62: "It is for other names: `worldloop keys renew --host NAME` where ca-key.pem is",
    64: "It is for other addresses: `worldloop keys renew --host ADDRESS` where ca-key.pem is",
}
"""By OpenSSL's verify code: expired, host name mismatch, address mismatch."""
_OTHER_CURE = "WORLDLOOP_NATS_CA has to be the ca.pem that was made together with the server's certificate"


def refusal(error: Exception, url: str, identity: Identity) -> str | None:
    """A sentence for the person at the terminal; none for an error that may pass by itself.

    Args:
        error: What nats-py told.
        url: The server's address, for people.
        identity: As whom it was asked.
    """
    if "authorization violation" in str(error).lower():
        if identity.key is None:
            return (
                f"the NATS server at {url} lets nobody in without a key: set WORLDLOOP_NATS_KEY to the .nk "
                "file of this user (docs/security.md)"
            )
        return (
            f"the NATS server at {url} does not know the key {identity.key}: give the server the "
            "nats-auth.conf that lies beside that key and reload it, or use the key it knows"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = identity.ca or "the system's certificates (WORLDLOOP_NATS_CA is not set)"
        return (
            f"the certificate of the NATS server at {url} does not hold: {error.verify_message}. "
            f"Trusted: {trusted}. {_CURES.get(error.verify_code, _OTHER_CURE)}"
        )
    if without_tls(error):
        return (
            f"the NATS server at {url} does not begin with TLS: its configuration needs a tls block with "
            "`handshake_first` (docs/security.md), or the address is nats://"
        )
    return None


def without_tls(error: Exception) -> bool:
    """Whether the server did not speak TLS, as one that may do without when the client was slow to begin."""
    return isinstance(error, ssl.SSLError) and error.reason in _NO_TLS

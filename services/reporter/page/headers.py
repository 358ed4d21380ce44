"""What every answer of the page's server says about itself, so that a browser takes it for nothing else."""

from __future__ import annotations

POLICY = (
    "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "object-src 'none'"
)
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
}
NEVER_KEPT = SAFE | {"Cache-Control": "no-store"}
CHECKED = SAFE | {"Cache-Control": "no-cache"}
"""May be kept, but the server is asked each time."""

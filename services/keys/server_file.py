"""`nats-auth.conf`: the users and what each may do, to be included by a nats-server configuration.

Two accounts: one has the streams and everybody who works with them, the other the observer (`permissions`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from services.keys import permissions
from services.keys.permissions import OBSERVER

ACCOUNT, OUTSIDE = "WORLDLOOP", "WORLDLOOP_OBSERVER"
"""The account with the streams, and the observer's."""


def text(public_keys: Mapping[str, str]) -> str:
    """The file.

    Args:
        public_keys: User -> public key.
    """
    shared = [("service", json.dumps(each)) for each in permissions.looking()]
    shared += [("stream", json.dumps(each)) for each in permissions.HEARD]
    exports = (f"{{ {kind}: {subject}, accounts: [{OUTSIDE}] }}" for kind, subject in shared)
    imports = (f"{{ {kind}: {{ account: {ACCOUNT}, subject: {subject} }} }}" for kind, subject in shared)
    users = {user: _user(user, key) for user, key in public_keys.items()}
    observer = users.pop(OBSERVER)
    return "\n".join(
        (
            "# Written by `worldloop keys`: made from the code, do not edit. Public keys only.",
            "authorization { timeout: 5 }",
            "accounts {",
            f"  {ACCOUNT} {{",
            "    jetstream: enabled",
            *_block("users", users.values()),
            *_block("exports", exports),
            "  }",
            f"  {OUTSIDE} {{",
            *_block("users", [observer]),
            *_block("imports", imports),
            "  }",
            "}\n",
        )
    )


def _block(name: str, items: Iterable[str]) -> tuple[str, ...]:
    return f"    {name}: [", *(f"      {item}" for item in items), "    ]"


def _user(user: str, public_key: str) -> str:
    may = permissions.of(user)
    return (
        f"# {user}\n"
        f"      {{ nkey: {public_key}, permissions: {{\n"
        f"        publish: {{ allow: {_list(may.publish)}, deny: {_list(may.deny_publish)} }}\n"
        f"        subscribe: {{ allow: {_list(may.subscribe)} }}\n"
        "      } }"
    )


def _list(subjects: tuple[str, ...]) -> str:
    if not subjects:
        return "[]"
    return "[\n" + "".join(f"          {json.dumps(each)}\n" for each in subjects) + "        ]"

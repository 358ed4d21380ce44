"""`nats-auth.conf`: the users and what each may do, to be included by a nats-server configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping

from services.keys import permissions


def text(public_keys: Mapping[str, str]) -> str:
    """The file.

    Args:
        public_keys: User -> public key.
    """
    users = "\n".join(_user(user, key) for user, key in public_keys.items())
    return (
        "# Written by `worldloop keys`: made from the code, do not edit. Public keys only: nothing secret.\n"
        f"authorization {{\n  timeout: 5\n  users: [\n{users}\n  ]\n}}\n"
    )


def _user(user: str, public_key: str) -> str:
    may = permissions.of(user)
    return (
        f"    # {user}\n"
        f"    {{ nkey: {public_key}, permissions: {{\n"
        f"      publish: {{ allow: {_list(may.publish)}, deny: {_list(may.deny_publish)} }}\n"
        f"      subscribe: {{ allow: {_list(may.subscribe)} }}\n"
        "    } }"
    )


def _list(subjects: tuple[str, ...]) -> str:
    if not subjects:
        return "[]"
    return "[\n" + "".join(f"        {json.dumps(each)}\n" for each in subjects) + "      ]"

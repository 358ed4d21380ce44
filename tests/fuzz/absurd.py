"""Messages that are valid, and absurd: numbers out of all proportion, unknown runs, texts of any length.

Most are a message of an ordinary run with a few of its fields replaced, so that they get as far as those do.
"""

from __future__ import annotations

import json
import types
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel

from shared.bus.protocol import Recorded
from shared.bus.wire import decode
from shared.errors import MessageError
from shared.events import MESSAGES, Event, Message, as_document
from tests.unit.gatekeeper.story import HEALTHY, run_spec
from tests.unit.gatekeeper.world import World

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
OTHER_RUN = "20010101_000000"
"""One that was never started."""


def ordinary() -> list[Event]:
    """The events of a run that passed."""
    world = World()
    world.start(0, run_spec())
    world.settle(0)
    while world.move(HEALTHY, {"mse": 0.01}):
        pass
    return [record.message for record in world.log.records if isinstance(record.message, Event)]


ORDINARY = ordinary()
PATHS = (
    "a",
    ".",
    "docs",
    "a/./b",
    "superseded",
    "results//x",
    "\u202e\n`|",
    "CON",
    "b/a:c",
    "n" * 255,
    "/".join(["d" * 200] * 10),
)
numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, -(2**63), 2**64, 10**30, 10**400]), st.integers(-5, 5), st.integers()
)
reals = st.one_of(
    st.sampled_from([0.0, -0.0, float("nan"), float("inf"), float("-inf"), 5e-324, 1.7e308, -1e300]),
    st.floats(),
    numbers,
)
long = st.sampled_from([500, 5_000, 100_000]).map(lambda length: "x" * length)
texts = st.one_of(
    st.sampled_from(["", "dynamics", "\0", "a/b", "..", "<b>|`\n\x1b[31m", "</script><script>"]),
    st.text(max_size=9),
    long,
)
keys = st.sampled_from(["spec", "stage", "changes", "reason"]) | texts
"""Those of documents that somebody looks into, and others."""
documents = st.recursive(
    st.none() | st.booleans() | numbers | reals | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)


def of_type(wanted: Any) -> st.SearchStrategy[Any]:
    """JSON values that a field of a type may have, whatever its limits."""
    origin, inside = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        kind = of_type(inside[0])
        return st.sampled_from(PATHS) if "_inside" in repr(inside[1:]) else kind
    if origin in (Union, types.UnionType):
        return st.one_of([of_type(each) for each in inside])
    if origin is Literal:
        return st.sampled_from(inside)
    if origin is list:
        return st.lists(of_type(inside[0]), max_size=3)
    if origin is tuple:
        return st.tuples(*(of_type(each) for each in inside))
    if origin is dict:
        return st.dictionaries(of_type(inside[0]), of_type(inside[1]), max_size=3)
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        return objects(wanted)
    simple = {int: numbers, float: reals, str: texts, bool: st.booleans(), type(None): st.none()}
    return simple.get(wanted, documents)


def fields_of(cls: type[BaseModel]) -> dict[str, st.SearchStrategy[Any]]:
    """Values for each field of a model."""
    return {
        name: of_type(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)
        for name, field in cls.model_fields.items()
        if name != "run_id"
    }


def objects(cls: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """A model's fields, those that may be left out sometimes left out."""
    fields, models = fields_of(cls), cls.model_fields
    needed = {name: each for name, each in fields.items() if models[name].is_required()}
    return st.fixed_dictionaries(needed, optional={name: fields[name] for name in fields.keys() - needed})


def distorted(message: Message) -> st.SearchStrategy[Message]:
    """A message with one to three fields replaced."""
    fields = fields_of(type(message))
    names = st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=3, unique=True)
    changes = names.flatmap(lambda chosen: st.fixed_dictionaries({name: fields[name] for name in chosen}))
    return _valid(changes.map(lambda changed: as_document(message) | changed), type(message), message.run_id)


def invented(kind: str, run_id: str) -> st.SearchStrategy[Message]:
    """A message of any class of a kind, made up from nothing."""
    classes = [cls for (of, _), cls in MESSAGES.items() if of == kind]
    return st.sampled_from(classes).flatmap(lambda cls: _valid(objects(cls), cls, run_id))


def _valid(
    found: st.SearchStrategy[dict[str, Any]], cls: type[Message], run_id: str
) -> st.SearchStrategy[Message]:
    host = ".1" if cls.__name__ == "JoinChunk" else ""
    kind = next(f"{of}.{name}" for (of, name), each in MESSAGES.items() if each is cls)
    on_subject = f"worldloop.{run_id}.{kind}{host}"

    def message(document: dict[str, Any]) -> Message | None:
        try:
            return decode(on_subject, json.dumps(document | {"run_id": run_id}).encode())
        except MessageError:
            return None

    return found.map(message).filter(lambda each: each is not None)  # type: ignore[return-value]


def recorded(messages: Sequence[Message]) -> list[Recorded]:
    """Messages as the log has them, a second apart; telemetry has no place in it."""
    return [
        Recorded(at if isinstance(each, Event) else 0, NOON + timedelta(seconds=at), "/worldloop/x", each)
        for at, each in enumerate(messages, start=1)
    ]


def histories(ordinary: Sequence[Event]) -> st.SearchStrategy[list[Message]]:
    """A run up to some event, with absurd ones among those after it, out of order and repeated."""
    run_id = ordinary[0].run_id
    any_of_them = st.integers(0, len(ordinary) - 1).map(lambda at: ordinary[at])
    absurd = st.one_of(
        any_of_them.flatmap(distorted),
        any_of_them.flatmap(distorted),
        any_of_them,
        invented("event", run_id),
        invented("telemetry", run_id),
        invented("event", OTHER_RUN),
    )
    return st.integers(0, len(ordinary)).flatmap(
        lambda until: st.lists(absurd, min_size=1, max_size=6).map(
            lambda more: [*ordinary[:until], *more, *ordinary[until : until + 3]]
        )
    )

"""What each user of the NATS server may publish and subscribe to, derived from who sends and reads what.

The one table of traffic is `services.schemas.traffic`; the streams are `shared.bus.streams`. Nobody gets a
subject that does not follow from them, and nobody may delete or purge anything.

JetStream is asked on `$JS.API.CONSUMER.CREATE.<stream>.<consumer>.<filter>` and
`$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`, and acknowledged on `$JS.ACK.<stream>.<consumer>.>`. A
wildcard stands for a whole name. So where a user's consumers have names that nobody can know before (readers
of the log, notifications), all names are allowed and the durable consumers of the others, on all `HOSTS`, are
denied. The request without a name, `$JS.API.CONSUMER.CREATE.<stream>`, is nobody's: its body may name any
consumer, also one of another's (fact: tested on nats-server 2.15.1). The observer makes no consumer at all:
it reads the past message by message, and hears what is new.

JetStream answers on whatever subject a request names, without asking whether the asker may publish there. So
the observer is a user of another account, into which only what it reads is imported: what it has answers sent
to stays there (fact: tested on nats-server 2.15.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.schemas.traffic import Party, consumers, senders
from shared.bus import streams
from shared.bus.identity import inbox_prefix
from shared.bus.protocol import Consumer
from shared.events import MESSAGES, SERVICES, Command, JoinChunk, Message, Service

OPERATOR = "operator"
"""Whoever sits at the control CLI."""
OBSERVER = "observer"
"""Tools that only read."""
USERS: tuple[str, ...] = (*SERVICES, OPERATOR, OBSERVER)
HOSTS = 64
"""Hosts of a chunk whose consumers have a place in the allow-lists; further ones are not let in."""
HEARD = ("worldloop.*.event.*", "worldloop.*.telemetry.*")
"""What everybody may listen to."""
_API = "$JS.API"


@dataclass(frozen=True, slots=True)
class Permissions:
    """What one user may do; what is not allowed is refused, and what is denied as well."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    deny_publish: tuple[str, ...] = ()


def of(user: str) -> Permissions:
    """The permissions of one of `USERS`."""
    subscribe = (f"{inbox_prefix(user)}.>", *HEARD)
    if user == OBSERVER:
        return Permissions(looking(), subscribe)
    if user == OPERATOR:
        publish = (*_messages("cli"), *looking(), *_reading(streams.DEAD), *_making(user))
        return Permissions(publish, subscribe, _of_others(None))
    service = next(each for each in SERVICES if each == user)
    publish = (*_messages(service), *looking(), *_making(user), *_working(service))
    return Permissions(tuple(dict.fromkeys(publish)), subscribe, _of_others(service))


def address(message: type[Message]) -> str:
    """The subject of a message in any run."""
    owner = f"{message.service}." if issubclass(message, Command) else ""
    host = ".*" if issubclass(message, JoinChunk) else ""
    return f"worldloop.*.{message.kind}.{owner}{message.name}{host}"


def _messages(party: Party) -> tuple[str, ...]:
    """What a party publishes, and reading the log, which all of them do."""
    sent = (address(each) for each in MESSAGES.values() if party in senders(each))
    return (*sent, *_reading(streams.EVENTS))


def looking() -> tuple[str, ...]:
    """Asking what there is, and for a single event or reading."""
    return (
        f"{_API}.INFO",
        *(f"{_API}.STREAM.INFO.{stream.name}" for stream in streams.STREAMS),
        *(f"{_API}.CONSUMER.LIST.{stream}" for stream in (streams.EVENTS, streams.COMMANDS)),
        *(f"{_API}.STREAM.MSG.GET.{stream}" for stream in (streams.EVENTS, streams.TELEMETRY)),
    )


def _reading(stream: str) -> tuple[str, ...]:
    """Consumers of one's own under any name, which take nothing from anyone (`shared.bus.reading`)."""
    (subject,) = next(each.subjects or [] for each in streams.STREAMS if each.name == stream)
    return f"{_API}.CONSUMER.CREATE.{stream}.*.{subject}", f"{_API}.CONSUMER.MSG.NEXT.{stream}.*"


def _making(user: str) -> tuple[str, ...]:
    """Making the streams and keeping them as they are to be, for those who may."""
    return tuple(
        f"{_API}.STREAM.{verb}.{each.name}"
        for each in (streams.STREAMS if user in streams.MAKERS else ())
        for verb in ("CREATE", "UPDATE")
    )


def _working(service: Service) -> tuple[str, ...]:
    """A service's durable consumers, their acknowledgements, and its dead letters."""
    own = [each for each in _on_all_hosts() if each.service == service]
    found = [subject for each in own for subject in _consuming(each.durable, _stream(each), each.subjects)]
    if service == "reporter":  # a consumer for each name in a notification file
        found += _consuming("*", streams.EVENTS, [])
    return (*found, f"worldloop.*.dead.{service}.>")


def _of_others(service: Service | None) -> tuple[str, ...]:
    """What a service, or the operator, may not do with the durable consumers of the others.

    Of commands there is nothing to deny: nobody may do anything there under any name.
    """
    others = [each for each in _on_all_hosts() if each.service != service and each.kind == "event"]
    return tuple(
        denied
        for each in others
        for subject in _consuming(each.durable, _stream(each), [])
        for denied in ((subject, f"{subject}.>") if ".CREATE." in subject else (subject,))
    )


def _on_all_hosts() -> list[Consumer]:
    return [each for rank in range(HOSTS) for each in consumers(rank)]


def _consuming(durable: str, stream: str, filters: Sequence[str]) -> list[str]:
    """Making a durable consumer, with its filter in the request if it is one, pulling, and settling."""
    only = f".{filters[0]}" if len(filters) == 1 else ""
    return [
        f"{_API}.CONSUMER.CREATE.{stream}.{durable}{only}",
        f"{_API}.CONSUMER.MSG.NEXT.{stream}.{durable}",
        f"$JS.ACK.{stream}.{durable}.>",
    ]


def _stream(consumer: Consumer) -> str:
    return streams.COMMANDS if consumer.kind == "command" else streams.EVENTS

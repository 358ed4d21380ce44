"""The wire form: CloudEvents 1.0 in binary mode over NATS: attributes in headers, the message as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote
from uuid import uuid4

from pydantic import ValidationError

from shared.bus.protocol import DeadLetter
from shared.errors import MessageError, complaints
from shared.events import SERVICES, Command, Message, Service, message_class, schema_urn, subject
from shared.finite import not_finite

MOST_REASON = 2000
"""Characters of a dead letter's reason: it travels in a header, and may quote what somebody sent."""
MOST_TOKEN = 200
"""Characters of what a dead letter's subject takes from the message's own."""
_SAFE = "!#$&'()*+,/:;<=>?@[]^`{|}~"  # printable, and not to be percent-encoded in a CloudEvents header


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message ready for the bus."""

    subject: str
    data: bytes
    headers: dict[str, str]


def encode(message: Message, *, source: str, time: datetime) -> Envelope:
    """The message as it travels.

    Args:
        message: What to send; telemetry gets a random `ce-id`, everything else its own id.
        source: `/worldloop/<service or cli>`.
        time: When it is published, UTC.
    """
    headers = {
        "ce-specversion": "1.0",
        "ce-id": quote(message.id, safe=_SAFE) or uuid4().hex,
        "ce-type": f"worldloop.{message.kind}.{message.name}",
        "ce-source": source,
        "ce-time": time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "ce-datacontenttype": "application/json",
        "ce-dataschema": schema_urn(type(message)),
    }
    return Envelope(subject(message), message.model_dump_json().encode(), headers)


def decode(on_subject: str, data: bytes) -> Message:
    """The message behind the bytes; its subject says which class it has.

    Facts and readings stay readable for other versions: fields that this one does not know, of a later one or
    long gone, are left out. Of a command every word counts.

    Raises:
        MessageError: No message of ours; names the subject, the field and the problem.
    """
    cls = message_class(on_subject)
    if cls is None:
        raise MessageError(f"{on_subject}: no message of worldloop has this subject")
    try:
        message = cls.model_validate_json(data, extra="forbid" if issubclass(cls, Command) else "ignore")
    except ValidationError as error:
        problems = "; ".join(complaints(error, "payload")[:5])
        raise MessageError(shortened(f"{on_subject}: no valid {cls.name}: {problems}")) from None
    if (at := not_finite(message)) is not None:
        problem = "a number that is not finite, or larger than any double"
        raise MessageError(shortened(f"{on_subject}: no valid {cls.name}: {'.'.join(at)}: {problem}"))
    if subject(message) != on_subject:
        raise MessageError(f"{on_subject}: run_id: the payload is of run {message.run_id}")
    return message


def published(headers: Mapping[str, str] | None, otherwise: datetime) -> tuple[datetime, str]:
    """When (`ce-time`) and by whom (`ce-source`) a message was published.

    Args:
        headers: The message's headers.
        otherwise: Time to take when there is no readable `ce-time`.
    """
    headers = headers or {}
    try:
        time = datetime.fromisoformat(headers.get("ce-time", ""))
    except ValueError:
        time = otherwise
    return (time if time.tzinfo else time.replace(tzinfo=UTC)), unquote(headers.get("ce-source", ""))


def dead(envelope: Envelope, service: Service, reason: str, deliveries: int = 1) -> DeadLetter:
    """The dead letter of a message that `service` cannot handle."""
    _, run_id, _, *name = envelope.subject.split(".")
    return DeadLetter(
        run_id=run_id[:MOST_TOKEN],
        service=service,
        name=".".join(name)[:MOST_TOKEN].rstrip("."),
        subject=envelope.subject,
        reason=shortened(reason),
        deliveries=deliveries,
        data=envelope.data,
        headers=envelope.headers,
    )


def shortened(reason: str) -> str:
    """A reason of a bounded length."""
    return reason if len(reason) <= MOST_REASON else f"{reason[:MOST_REASON]}..."


def service_of(source: str) -> Service | None:
    """The service a bus belongs to; none for the CLI and other outsiders."""
    return next((service for service in SERVICES if service == source), None)

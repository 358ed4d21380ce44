"""JSON Schema of our pydantic models, with the line under each field as its description."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from shared.events import MESSAGES, VERSION, Command, Message, schema_urn

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def key_of(message: type[Message]) -> str:
    """How files and documents name a message: `event.chunk_done`, `command.trainer.start`."""
    owner = f"{message.service}." if issubclass(message, Command) else ""
    return f"{message.kind}.{owner}{message.name}"


def messages() -> list[type[Message]]:
    """All messages, in pipeline order."""
    return list(MESSAGES.values())


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of one model, complete in itself; a message's says its version."""
    (schema,), definitions = _schemas([model], "#/$defs/{model}")
    named = definitions.pop(schema["$ref"].rpartition("/")[2])
    head: dict[str, Any] = {"$schema": DIALECT}
    if issubclass(model, Message):
        head |= {"$id": schema_urn(model), "x-version": VERSION}
    return head | named | ({"$defs": definitions} if definitions else {})


def shared_schemas(models: Sequence[type[BaseModel]], template: str) -> dict[str, Any]:
    """The schemas of several models and all they consist of, by class name; `template` is how they refer."""
    return _schemas(models, template)[1]


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """A model's fields: name, type as JSON Schema says it, and what it means."""
    schema = schema_of(model)
    for name, each in schema.get("properties", {}).items():
        yield name, type_of(each), each.get("description", "")


@functools.cache
def field_texts(model: type[BaseModel]) -> dict[str, str]:
    """The docstring under each field, as the source has it; a subclass's own goes first."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel:
            found |= _texts_in(cls.__module__).get(cls.__qualname__, {})
    return found


@functools.cache
def _texts_in(module: str) -> dict[str, dict[str, str]]:
    """Class -> field -> docstring, of a module's classes."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            texts = found.setdefault(node.name, {})
            for field, text in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                    and isinstance(text.value.value, str)
                ):
                    texts[field.target.id] = inspect.cleandoc(text.value.value)
    return found


def summary(message: type[BaseModel]) -> str:
    """The first sentence or so of a class's docstring."""
    return " ".join((message.__doc__ or "").partition("\n\n")[0].split())


def _schemas(
    models: Sequence[type[BaseModel]], template: str
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    by_model, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=template
    )
    found: dict[str, dict[str, Any]] = definitions["$defs"]
    classes = {cls.__name__: cls for model in models for cls in _within(model)}
    for name, schema in found.items():
        texts = field_texts(classes[name]) if name in classes else {}
        for field, each in schema.get("properties", {}).items():
            each.pop("title", None)  # the field's name again
            if field in texts:
                each["description"] = texts[field]
    return [dict(by_model[model, "validation"]) for model in models], found


def _within(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A model and every model in its fields."""
    found: set[type[BaseModel]] = set()
    left: list[Any] = [model]
    while left:
        each = left.pop()
        if isinstance(each, type) and issubclass(each, BaseModel) and each not in found:
            found.add(each)
            left += [field.annotation for field in each.model_fields.values()]
        left += getattr(each, "__args__", ())
    return found


def type_of(schema: dict[str, Any]) -> str:
    """A field's type in a few words: `number | null`, `list of Reason`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " \\| ".join(type_of(each) for each in schema["anyOf"])
    match schema.get("type"):
        case "array":
            return f"list of {type_of(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"map to {type_of(schema['additionalProperties'])}"
        case None:
            return "any"
        case kind:
            return str(kind)

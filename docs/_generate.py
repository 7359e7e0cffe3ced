"""A Sphinx extension that fills the reference pages from the code at each build.

A page holds a line `<!-- generated: NAME -->`; the build puts in its place what `GENERATED[NAME]` returns, as Markdown.
So the reference cannot drift from the code, and nothing generated is committed. The extension also turns links that
leave the documentation (`../helm/...`) into downloads, because a built site has no repository around it.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import darkroom
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.jobs import TRANSITIONS, JobState
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.hooks.hooks import Metrics as HooksMetrics
from darkroom.consumer.weights.usage import CacheUsage
from darkroom.consumer.worker.metrics import Metrics, WorkerGauges
from darkroom.inference.engine.lane_engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.gateway.access.assembly import access_of
from darkroom.producer.gateway.app import create_app
from darkroom.producer.gateway.metrics import Metrics as GatewayMetrics
from darkroom.schemas import publish
from darkroom.schemas.errors import ErrorCode, describe
from darkroom.schemas.settings import Settings, load_settings
from darkroom.schemas.settings.sources import env_name

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
_MARK = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\.?/[^)\s#]+)(#[^)\s]*)?\)")
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} entries",
}
"""JSON Schema's keywords for limits, each as a reader says it."""
_FORMATS = {"path": "path", "password": "secret, or the variable with `_FILE`", "date-time": "time"}
_STORE_PREFIX = {"$ref": "#/$defs/StorePrefix"}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    text = _MARK.sub(lambda mark: GENERATED[mark[1]](), source[0])
    folder = Path(str(app.srcdir)).joinpath(page).parent
    source[0] = _LINK.sub(lambda link: _downloaded(folder, Path(str(app.srcdir)), link), text)


def _downloaded(folder: Path, pages: Path, link: re.Match[str]) -> str:
    """Return a link into the repository as a download, or as its path where it names a folder."""
    target = Path(os.path.normpath(folder / link[2]))
    if target.is_relative_to(pages) or not target.exists():
        return link[0]
    if target.is_dir():
        path = f"`{target.relative_to(ROOT)}`"
        return path if link[1].strip("`") == path.strip("`") else f"{link[1]} ({path})"
    return f"{{download}}`{link[1].strip('`')} <{os.path.relpath(target, folder)}>`"


def _text(words: str) -> str:
    """Return plain words as one line of Markdown that a table's cell can hold; code in backticks stays code."""
    parts = " ".join(words.split()).split("`")
    escaped = [re.sub(r"([*_<>\[\]\\{])", r"\\\1", part) if at % 2 == 0 else part for at, part in enumerate(parts)]
    return "`".join(escaped).replace("|", r"\|")


def _code(value: object) -> str:
    return f"`{value}`".replace("|", r"\|")


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


# --- events ----------------------------------------------------------------------------------------------------------


def events() -> str:
    """Return each published event with its topic, its fields and their limits."""
    parts: list[str] = []
    told: set[str] = set()
    for name, (_, event_type, topic) in publish.EVENTS.items():
        schema = publish.document(name)
        definitions: Mapping[str, Any] = schema.pop("definitions", {})
        parts += [f"## {schema['title']}", f"Topic `{topic.value}`, CloudEvents type `{event_type.value}`.", ""]
        parts += [_text(schema.get("description", "")), "", _fields(schema)]
        for part, definition in definitions.items():
            if part not in told:
                told.add(part)
                parts += [f"### {part}", _text(definition.get("description", "")), "", _definition(definition)]
    return "\n\n".join(parts)


def _definition(schema: Mapping[str, Any]) -> str:
    return _fields(schema) if "properties" in schema else f"{_kind(schema)}. {_limits(schema)}".strip()


def _fields(schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = [
        [
            _code(name) + (" (required)" if name in required else ""),
            _kind(field),
            _limits(field),
            _text(field.get("description", "")),
        ]
        for name, field in schema["properties"].items()
    ]
    return _table(["field", "type", "limits", "meaning"], rows)


def _kind(schema: Mapping[str, Any]) -> str:
    """Return a JSON Schema's type in words, null left out: every optional field accepts it."""
    if schema == _STORE_PREFIX:
        return "`s3://bucket/prefix`"
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if alternatives := schema.get("oneOf") or schema.get("anyOf") or schema.get("allOf"):
        return " or ".join(dict.fromkeys(_kind(one) for one in alternatives if one != {"type": "null"}))
    if "const" in schema or "enum" in schema:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return ", ".join(_code(value) for value in values if value is not None)
    return _FORMATS.get(schema.get("format", "")) or _kind_by_type(schema)


def _kind_by_type(schema: Mapping[str, Any]) -> str:
    kinds = schema.get("type", "any")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    items = schema.get("items")
    if "array" in kinds and items:
        return f"list of {', '.join(_kind(one) for one in (items if isinstance(items, list) else [items]))}"
    if "object" in kinds and isinstance(schema.get("additionalProperties"), Mapping):
        return f"map of {_kind(schema['additionalProperties'])}"
    return " or ".join(kind for kind in kinds if kind != "null") or "null"


def _limits(schema: Mapping[str, Any]) -> str:
    found = []
    if "minimum" in schema and "maximum" in schema:
        found.append(f"{_number(schema['minimum'])} to {_number(schema['maximum'])}")
        schema = {name: value for name, value in schema.items() if name not in ("minimum", "maximum")}
    if schema.get("minLength") == 1:
        found.append("not empty")
        schema = {name: value for name, value in schema.items() if name != "minLength"}
    found += [words.format(_number(schema[name])) for name, words in _BOUNDS.items() if name in schema]
    if "pattern" in schema and len(schema["pattern"]) <= 60:
        found.append(_code(schema["pattern"]))
    found += filter(None, (_limits(one) for one in schema.get("oneOf") or schema.get("anyOf") or ()))
    if isinstance(schema.get("items"), Mapping) and (inner := _limits(schema["items"])):
        found.append(f"each {inner}")
    return ", ".join(found)


# --- errors ----------------------------------------------------------------------------------------------------------


def errors() -> str:
    """Return each error code with its sentence, its remedy, and whether a further try may succeed."""
    return "\n\n".join(
        f"## {code.value}\n\n{_text(told.sentence)}\n\n**Remedy:** {_text(told.remedy)}\n\n"
        f"**A new try under a new request id:** {'may succeed' if told.retryable else 'fails the same way'}."
        for code in ErrorCode
        for told in [describe(code)]
    )


# --- settings --------------------------------------------------------------------------------------------------------


def settings() -> str:
    """Return each setting with its variable, its meaning, its values and its default, a table for each section."""
    parts: list[str] = []
    alone: list[list[str]] = []
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            rows = list(_settings_in(field.annotation, (name,)))
            parts += [f"## {name}", _text(field.description or ""), "", _table(_SETTING_HEADS, rows)]
            parts += _objects_in(field.annotation)
        else:
            alone += _setting(Settings, (), name)
    return "\n\n".join(["## Without a section", _table(_SETTING_HEADS, alone), *parts])


def _objects_in(section: type[BaseModel]) -> Iterator[str]:
    """Yield what the objects are that a section's settings hold."""
    for part, definition in section.model_json_schema().get("$defs", {}).items():
        reference = {"$ref": f"#/$defs/{part}"}
        if any(field.get("items") == reference for field in section.model_json_schema()["properties"].values()):
            yield from (f"### {part}", _text(definition.get("description", "")), _fields(definition))


_SETTING_HEADS = ("variable", "meaning, values and default")


def _settings_in(section: type[BaseModel], path: tuple[str, ...]) -> Iterator[list[str]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings_in(field.annotation, (*path, name))
        else:
            yield from _setting(section, path, name)


def _setting(section: type[BaseModel], path: tuple[str, ...], name: str) -> Iterator[list[str]]:
    field = section.model_fields[name]
    schema = section.model_json_schema()["properties"][name]
    values = ", ".join(part for part in (_kind(schema), _limits(schema)) if part)
    default = _default(field.default)
    told = [_text(field.description or ""), f"*{values[0].upper()}{values[1:]}.*"]
    yield [_code(env_name((*path, name))), " ".join(told + ([f"*Default:* {default}."] if default else []))]


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "computed"
    if isinstance(value, Enum):
        value = value.value
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, bool):
        return _code(str(value).lower())
    if isinstance(value, tuple):
        return ", ".join(_code(one) for one in value)
    return _code(value)


# --- metrics ---------------------------------------------------------------------------------------------------------


def metrics() -> str:
    """Return each metric that a worker, a gateway and the hooks export, with its type, its labels and its meaning."""
    return "\n\n".join(
        f"## {who}\n\n{_table(['metric', 'type', 'labels', 'meaning'], _exported(registry))}"
        for who, registry in (("Worker", _worker()), ("Gateway", _gateway()), ("Hooks", HooksMetrics().registry))
    )


def _exported(registry: CollectorRegistry) -> Iterator[list[str]]:
    for family in sorted(registry.collect(), key=lambda family: family.name):
        name = family.name + ("_total" if family.type == "counter" else "")
        collector = registry._names_to_collectors.get(name) or registry._names_to_collectors.get(family.name)
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        labels |= set(getattr(collector, "_labelnames", ())) | set(getattr(family, "_labelnames", ()))
        yield [_code(name), family.type, ", ".join(_code(one) for one in sorted(labels)), _text(family.documentation)]


def _worker() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(CacheUsage(load_settings(environ={}).model))
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=1)
    registry.register(WorkerGauges(Core(Limits()).snapshot, engine, {}, {}, Metrics(registry), rows_max=1))
    return registry


def _gateway() -> CollectorRegistry:
    own = GatewayMetrics()
    access_of(load_settings(environ={}), own.registry)
    return own.registry


# --- HTTP ------------------------------------------------------------------------------------------------------------


def http() -> str:
    """Return each call of the gateway's OpenAPI document with its parameters, bodies and answers."""
    own = GatewayMetrics()
    settings_in_force = load_settings(environ={})
    document = create_app(settings_in_force, access_of(settings_in_force, own.registry), own).openapi()
    calls = [
        _call(method, path, call, document)
        for path, methods in document["paths"].items()
        for method, call in methods.items()
        if method != "head"
    ]
    shapes = [
        f"### {name}\n\n{_text(schema.get('description', ''))}\n\n{_definition(schema)}"
        for name, schema in document["components"]["schemas"].items()
    ]
    return "\n\n".join([*calls, "## Shapes", *shapes])


def _call(method: str, path: str, call: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    parts = [f"## {_text(f'{method.upper()} {path}')}", _paragraphs(call.get("description") or call.get("summary", ""))]
    parameters = [
        [_code(one["name"]), one["in"], _kind(one["schema"]), _limits(one["schema"]), _text(one.get("description", ""))]
        for one in (_resolved(one, document) for one in call.get("parameters", ()))
    ]
    if parameters:
        parts.append(_table(["parameter", "in", "type", "limits", "meaning"], parameters))
    if body := call.get("requestBody"):
        parts.append("Body: " + ", ".join(_content(body)) + ".")
    answers = [
        [status, ", ".join(_content(answer)), _text(answer.get("description", ""))]
        for status, answer in ((status, _resolved(one, document)) for status, one in call["responses"].items())
    ]
    parts.append(_table(["status", "body", "meaning"], answers))
    return "\n\n".join(parts)


def _resolved(part: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in part:
        found: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def _content(part: Mapping[str, Any]) -> Iterator[str]:
    for kind, content in part.get("content", {}).items():
        reference = content.get("schema", {}).get("$ref")
        yield f"{_code(kind)} ({_kind({'$ref': reference})})" if reference else _code(kind)


def _paragraphs(words: str) -> str:
    return "\n\n".join(_text(paragraph) for paragraph in words.split("\n\n"))


def problems() -> str:
    """Return the codes of the gateway's own problems, each with its status and, where it is fixed, its remedy."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for path in sorted((ROOT / "producer" / "gateway").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem"):
                continue
            status, code, *words = node.args
            for one in _texts(code):
                statuses, remedies = found.setdefault(one, (set(), set()))
                statuses |= {str(HTTPStatus[status.attr].value)} if isinstance(status, ast.Attribute) else set()
                remedies |= set(_texts(words[-1])) if len(words) > 1 else set()
    rows = (
        [_code(code), ", ".join(sorted(statuses)), " ".join(_text(remedy) for remedy in sorted(remedies))]
        for code, (statuses, remedies) in sorted(found.items())
    )
    return _table(["code", "status", "remedy"], rows)


def _texts(node: ast.expr) -> Iterator[str]:
    """Yield the texts that an expression of constants can be; none where it is computed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


# --- commands --------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Return each command with its help, its arguments and its options."""
    main: click.Group = darkroom.main
    context = click.Context(main, info_name="darkroom")
    return "\n\n".join(_command(command, name, context, 2) for name, command in _of(main, context))


def _of(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        if command := group.get_command(context, name):
            yield name, command


def _command(command: click.Command, name: str, parent: click.Context, level: int) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    told = _paragraphs(inspect.cleandoc(command.help or ""))
    parts = [f"{'#' * level} {context.command_path}", f"```text\n{usage}\n```", told]
    if command.epilog:
        kind, _, examples = command.epilog.partition(": ")
        lines = re.sub(r" {4,}", "\n", examples)
        parts.append(f"{kind}:\n\n```text\n{lines}\n```")
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    if options:
        parts.append(_table(["option", "value", "meaning"], (_option(one, context) for one in options)))
    if isinstance(command, click.Group):
        parts += [_command(one, name, context, level + 1) for name, one in _of(command, context)]
    return "\n\n".join(parts)


def _option(option: click.Option, context: click.Context) -> list[str]:
    named = ", ".join(_code(one) for one in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else _code(option.make_metavar(context))
    return [named, value, _text(option.help or "")]


# --- states ----------------------------------------------------------------------------------------------------------


def states() -> str:
    """Return the states of a record as a drawing: the way onward at the right, the way back at the left."""
    places = {state: at for at, state in enumerate(JobState)}
    middle, half, apart = 220, 60, 44
    drawn = [
        f'<rect x="{middle - half}" y="{apart * at + 8}" width="{2 * half}" height="26" rx="6"/>'
        f'<text x="{middle}" y="{apart * at + 26}">{state.value}</text>'
        for state, at in places.items()
    ]
    for state, following in TRANSITIONS.items():
        for one in following:
            start, end = places[state], places[one]
            if end == start + 1:
                line = f"M {middle} {apart * start + 34} V {apart * end + 4}"
            else:
                side = 1 if end > start else -1
                edge, bow = middle + side * half, side * (18 + 14 * abs(end - start))
                y, to = apart * start + 21 + 6, apart * end + 21 - 6
                line = f"M {edge} {y} C {edge + bow} {y}, {edge + bow} {to}, {edge + 4 * side} {to}"
            drawn.append(f'<path d="{line}"/>')
    arrow = '<marker id="end" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    head = f'{arrow}<path class="head" d="M 0 0 L 8 4 L 0 8 z"/></marker>'
    box = f'viewBox="0 0 {2 * middle} {apart * len(places)}" role="img" aria-label="The states of a record"'
    return "\n".join(["```{raw} html", f'<svg class="states" {box}>{head}', *drawn, "</svg>", "```"])


# --- modules ---------------------------------------------------------------------------------------------------------


def modules() -> str:
    """Return every module of the product with the first sentence of its docstring, a table for each folder."""
    parts: list[str] = []
    for package in ("schemas", "inference", "producer", "consumer"):
        folders = sorted({path.parent for path in (ROOT / package).rglob("*.py")})
        for folder in folders:
            rows = [[_code(path.stem), _first(path)] for path in sorted(folder.glob("*.py")) if _first(path)]
            if rows:
                heading = "##" if folder.name == package else "###"
                parts.append(f"{heading} {folder.relative_to(ROOT)}/\n\n{_table(['module', 'purpose'], rows)}")
    return "\n\n".join(parts)


def _first(path: Path) -> str:
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return _text(told.partition("\n\n")[0])


def changelog() -> str:
    """Return the changelog, its links as they are from the documentation's folder."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?![a-z]+:|#|docs/)", "](../", text).replace("](docs/", "](./")


GENERATED: Mapping[str, Callable[[], str]] = {
    "events": events,
    "errors": errors,
    "settings": settings,
    "metrics": metrics,
    "http": http,
    "problems": problems,
    "commands": commands,
    "states": states,
    "modules": modules,
    "changelog": changelog,
}
"""What a page may ask for."""

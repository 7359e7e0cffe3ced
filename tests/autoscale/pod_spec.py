"""What a container of a pod is started with: its environment, its command, its volumes. Pure but for one look-up.

A pod that is a process of this machine has no file system and no network of its own. In their place it has a folder and
a loopback address of its own, and whatever in its environment and arguments names a mounted path or "all addresses"
is made to name those. What cannot be had so is not imitated: `Unsupported` says what.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

Kind = Literal["configmaps", "secrets"]
Lookup = Callable[[Kind, str], Mapping[str, str] | None]
"""The data of a ConfigMap or Secret of the pod's namespace, decoded; None where there is none."""
Spec = Mapping[str, Any]
Token = Callable[[Spec], str]
"""A token of the pod's service account, as a projected source asks for it."""

ALL_ADDRESSES: Final = "0.0.0.0"
_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)|\$\$")
_INDEXED = re.compile(r"^metadata\.(labels|annotations)\['(.+)'\]$")
_SECTION: Final[Mapping[str, Kind]] = {"configMap": "configmaps", "secret": "secrets"}


class Unsupported(Exception):  # noqa: N818
    """This pod needs what a process on this machine cannot have, or names what is not there: one sentence."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod runs: what differs from a container of its own."""

    address: str
    """Its own address on loopback."""
    mounts: Mapping[str, Path]
    """Mount paths, and the folders that stand for them."""

    def moved(self, text: str) -> str:
        """The same, on this machine: mounted paths in their folder, all addresses as the pod's one."""
        if text == ALL_ADDRESSES:
            return self.address
        for mount in sorted(self.mounts, key=len, reverse=True):
            if text == mount or text.startswith(f"{mount}/"):
                return str(self.mounts[mount]) + text[len(mount) :]
        return text


def environment(pod: Spec, container: Spec, place: Place, lookup: Lookup) -> dict[str, str]:
    """The container's variables, those of `envFrom` first. Raises `Unsupported`."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        ref, kind = _from(source)
        data = _data(ref, kind, lookup) or {}
        variables |= {f"{source.get('prefix', '')}{name}": value for name, value in data.items()}
    for entry in container.get("env", []):
        value = _value(pod, entry, place, lookup)
        if value is not None:
            variables[entry["name"]] = expanded(value, variables)
    return {name: place.moved(value) for name, value in variables.items()}


def command(container: Spec, entrypoint: Sequence[str], place: Place, variables: Mapping[str, str]) -> list[str]:
    """The container's command, or the image's entry point; then its arguments."""
    words = [*container.get("command", entrypoint), *container.get("args", [])]
    return [place.moved(expanded(word, variables)) for word in words]


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` as its value; as it stands where there is none, as Kubernetes does. `$$` is a dollar."""

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return _REFERENCE.sub(replaced, text)


def files_of(pod: Spec, volume: Spec, lookup: Lookup, token: Token) -> dict[str, str]:
    """What a volume holds at the start, by path in it; nothing for an empty folder. Raises `Unsupported`."""
    if "emptyDir" in volume:
        return {}
    if "configMap" in volume:
        return _items(volume["configMap"], volume["configMap"]["name"], "configmaps", lookup)
    if "secret" in volume:
        return _items(volume["secret"], volume["secret"]["secretName"], "secrets", lookup)
    if "projected" not in volume:
        raise Unsupported(
            f"the volume {volume['name']} is of a kind that a process here cannot mount: {sorted(volume)}"
        )
    files: dict[str, str] = {}
    for source in volume["projected"]["sources"]:
        for what, section in source.items():
            if what == "serviceAccountToken":
                files[section["path"]] = token(section)
            elif what == "downwardAPI":
                files |= {item["path"]: _field(pod, item["fieldRef"]["fieldPath"], "") for item in section["items"]}
            elif what in _SECTION:
                files |= _items(section, section["name"], _SECTION[what], lookup)
            else:
                raise Unsupported(f"the volume {volume['name']} projects a {what}, which is not known here")
    return files


def port_of(container: Spec, port: int | str) -> int:
    """The number of a port that a probe names. Raises `Unsupported`."""
    if isinstance(port, int):
        return port
    for one in container.get("ports", []):
        if one.get("name") == port:
            return int(one["containerPort"])
    raise Unsupported(f"the container {container['name']} has no port named {port}")


def _value(pod: Spec, entry: Spec, place: Place, lookup: Lookup) -> str | None:
    source = entry.get("valueFrom")
    if source is None:
        return str(entry.get("value", ""))
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"], place.address)
    for what, kind in (("configMapKeyRef", _SECTION["configMap"]), ("secretKeyRef", _SECTION["secret"])):
        if what in source:
            ref = source[what]
            data = _data(ref, kind, lookup)
            if data is not None and ref["key"] in data:
                return data[ref["key"]]
            if ref.get("optional"):
                return None
            raise Unsupported(f"{ref['name']} of {kind} has no {ref['key']}, which {entry['name']} is to be")
    raise Unsupported(f"{entry['name']} comes from {sorted(source)}, which is not known here")


def _field(pod: Spec, path: str, address: str) -> str:
    metadata, spec = pod["metadata"], pod["spec"]
    simple = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": address,
    }
    if path in simple:
        return str(simple[path])
    indexed = _INDEXED.match(path)
    if indexed is None:
        raise Unsupported(f"the field {path} is not known here")
    return str(metadata.get(indexed[1], {}).get(indexed[2], ""))


def _from(source: Spec) -> tuple[Spec, Kind]:
    if "configMapRef" in source:
        return source["configMapRef"], "configmaps"
    return source["secretRef"], "secrets"


def _data(ref: Spec, kind: Kind, lookup: Lookup) -> Mapping[str, str] | None:
    data = lookup(kind, ref["name"])
    if data is None and not ref.get("optional"):
        raise Unsupported(f"there is no {ref['name']} among the {kind} of the pod's namespace")
    return data


def _items(section: Spec, name: str, kind: Kind, lookup: Lookup) -> dict[str, str]:
    data = _data({"name": name, "optional": section.get("optional", False)}, kind, lookup) or {}
    if "items" not in section:
        return dict(data)
    return {item["path"]: data[item["key"]] for item in section["items"]}

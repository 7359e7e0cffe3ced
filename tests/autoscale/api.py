"""The Kubernetes API as this proof uses it: JSON over one authenticated connection pool, and no library in between."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import urllib3

Json = dict[str, Any]

MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
"""Server-side apply; JSON is YAML."""
FIELD_MANAGER: Final = "darkroom-proof"
ANSWER_S_MAX: Final = 15.0


class ApiError(Exception):
    """The API server refused, or did not answer (`status` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api(Protocol):
    """One call. Raises `ApiError`."""

    def call(self, method: str, path: str, body: Json | None = None, *, content: str = "application/json") -> Json:
        """The answer's JSON."""


class KubeApi:
    """Implements `Api` on a real API server, as whoever the certificate names."""

    def __init__(self, url: str, *, authority: Path, identity: Path) -> None:
        """`identity` holds key and certificate."""
        self._url = url
        self._http = urllib3.PoolManager(
            ca_certs=str(authority),
            cert_file=str(identity),
            key_file=str(identity),
            timeout=ANSWER_S_MAX,
            retries=False,
            maxsize=4,
        )

    def call(self, method: str, path: str, body: Json | None = None, *, content: str = "application/json") -> Json:
        """The answer's JSON. Raises `ApiError`."""
        try:
            answer = self._http.request(
                method,
                self._url + path,
                body=None if body is None else json.dumps(body),
                headers={"Content-Type": content, "Accept": "application/json"},
            )
        except urllib3.exceptions.HTTPError as error:
            reason = type(error).__name__
            raise ApiError(0, f"no answer from the API server ({reason}); it has ended, or is too busy") from error
        if answer.status >= 300:
            raise ApiError(answer.status, _message(answer.data))
        found: Json = json.loads(answer.data)
        return found

    def is_ready(self) -> bool:
        """Whether the server does its work."""
        try:
            answer = self._http.request("GET", f"{self._url}/readyz", timeout=2.0)
        except urllib3.exceptions.HTTPError:
            return False
        return answer.status == 200


class Manifests:
    """Puts manifests of any kind where the server says that they belong."""

    def __init__(self, api: Api, namespace: str) -> None:
        """`namespace` is where manifests go that name none."""
        self._api = api
        self._namespace = namespace
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}

    def apply(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """Server-side apply. A field that the kind does not have is an error, not a warning. Raises `ApiError`."""
        query = f"?fieldManager={FIELD_MANAGER}&force=true&fieldValidation=Strict{'&dryRun=All' if dry_run else ''}"
        return self._api.call("PATCH", self.path(manifest) + query, dict(manifest), content=APPLY)

    def path(self, manifest: Mapping[str, Any]) -> str:
        """The address of the object. Raises `ApiError` where the server has no such kind."""
        version, kind, metadata = manifest["apiVersion"], manifest["kind"], manifest["metadata"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if kind not in self._kinds.get(root, {}):
            resources = self._api.call("GET", root)["resources"]
            self._kinds[root] = {
                one["kind"]: (one["name"], one["namespaced"]) for one in resources if "/" not in one["name"]
            }
        if kind not in self._kinds[root]:
            raise ApiError(404, f"the server has no {kind} in {version}")
        plural, namespaced = self._kinds[root][kind]
        place = f"/namespaces/{metadata.get('namespace', self._namespace)}" if namespaced else ""
        return f"{root}{place}/{plural}/{metadata['name']}"


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data).get("message", ""))
    except (ValueError, AttributeError):
        return data[:300].decode(errors="replace")

"""A real S3 server with a real token service, and stand-ins of the services that hand out its keys in Amazon's cloud.

SeaweedFS checks the token of an OpenID provider by its published keys and gives keys for a time (`-s3.iam.config`), so
whoever is let in has been let in by a real server. The stand-ins answer as AWS documents IMDSv2 and the EKS Pod
Identity agent, with keys of that server.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import urllib3

from darkroom.consumer.stack.objects import ObjectServer
from darkroom.consumer.stack.state import Credentials
from tests.loopback import QuietHandler, served
from tests.producer.issuer import AUDIENCE, Issuer, answer

ROLES: Final = "arn:aws:iam::role/"
ROLE: Final = f"{ROLES}writer"
READY_S_MAX: Final = 60.0


class TokenStore:
    """The server, running."""

    def __init__(self, folder: Path, *, life: str = "15m", policies: Mapping[str, Any] | None = None) -> None:
        """`policies` are those of further roles, by the last part of the role's name."""
        self.folder = folder
        self._policies = policies or {}
        self.issuer = Issuer()
        self._life = life
        self.root = Credentials("root-key", "root-secret-of-this-test", "darkroom")
        self.url = ""
        self.ports: dict[str, int] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        server = _WithTokens(self.folder, self.root)
        with ExitStack() as open_:
            open_.enter_context(self.issuer.serving())
            (self.folder / "iam.json").write_text(json.dumps(self._configuration()))
            self.ports = server.choose_ports()
            self.url = f"http://{server.address(self.ports)}"
            process = subprocess.Popen(
                server.command(self.ports),
                env=server.environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            open_.callback(server.tidy, self.ports)
            open_.callback(process.wait)
            open_.callback(process.kill)
            until = time.monotonic() + READY_S_MAX
            while not server.is_ready(self.ports):
                assert time.monotonic() < until, "the store did not start"
                time.sleep(0.05)
            yield

    def temporary(self) -> dict[str, str]:
        """New keys of the server's own token service: AccessKeyId, SecretAccessKey, SessionToken, Expiration."""
        fields = {
            "Version": "2011-06-15",
            "Action": "AssumeRoleWithWebIdentity",
            "WebIdentityToken": self.issuer.token(),
            "RoleArn": ROLE,
            "RoleSessionName": "stand-in",
        }
        with urllib3.PoolManager() as http:
            found = http.request("POST", self.url, fields=fields, encode_multipart=False)
        assert found.status == 200, found.data
        return {one.tag.rpartition("}")[2]: one.text or "" for one in ElementTree.fromstring(found.data).iter()}

    def _configuration(self) -> dict[str, Any]:
        everything = {"Effect": "Allow", "Action": ["s3:*", "sts:ValidateSession"], "Resource": ["*"]}
        trust = {"Effect": "Allow", "Principal": {"Federated": "*"}, "Action": ["sts:AssumeRoleWithWebIdentity"]}
        issuer = self.issuer.url
        oidc = {"issuer": issuer, "clientId": AUDIENCE, "jwksUri": f"{issuer}/keys"}
        return {
            "sts": {
                "tokenDuration": self._life,
                "maxSessionLength": "12h",
                "issuer": "store",
                "signingKey": base64.b64encode(b"k" * 32).decode(),
            },
            "providers": [{"name": "oidc", "type": "oidc", "enabled": True, "config": oidc}],
            "policy": {"defaultEffect": "Deny", "storeType": "memory"},
            "roles": [
                {
                    "roleName": name,
                    "roleArn": f"{ROLES}{name}",
                    "trustPolicy": {"Version": "2012-10-17", "Statement": [trust]},
                    "attachedPolicies": [name],
                }
                for name in ("writer", *self._policies)
            ],
            "policies": [
                {"name": "writer", "document": {"Version": "2012-10-17", "Statement": [everything]}},
                *({"name": name, "document": _that_may_be_used(one)} for name, one in self._policies.items()),
            ],
        }


def _that_may_be_used(policy: dict[str, Any]) -> dict[str, Any]:
    """SeaweedFS (4.48) asks for a right of its own before it takes the session that a policy belongs to."""
    session = {"Effect": "Allow", "Action": ["sts:ValidateSession"], "Resource": ["*"]}
    return policy | {"Statement": [*policy["Statement"], session]}


class _WithTokens(ObjectServer):
    def command(self, ports: Any) -> list[str]:
        return [*super().command(ports), f"-s3.iam.config={self.folder / 'iam.json'}"]


class Service:
    """Stands in for a service that hands out keys, and counts its answers and refusals.

    It can be away, hang, or tell other ends. The keys are the store's own, new ones in each answer.
    """

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self.url = ""
        self.answers = 0
        self.refusals = 0
        self.is_away = False
        self.goes_on = threading.Event()
        """Cleared, answers are held back."""
        self.goes_on.set()
        self.life_s: float | None = None
        """The life that answers claim; None for the true one."""

    def document(self) -> dict[str, str]:
        """The next answer, as both services write it."""
        self.answers += 1
        keys = self._store.temporary()
        ends = keys["Expiration"]
        if self.life_s is not None:
            ends = (datetime.now(UTC) + timedelta(seconds=self.life_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "Code": "Success",
            "AccessKeyId": keys["AccessKeyId"],
            "SecretAccessKey": keys["SecretAccessKey"],
            "Token": keys["SessionToken"],
            "Expiration": ends,
        }

    def before(self, handler: QuietHandler) -> bool:
        """Whether the service answers this request at all."""
        self.goes_on.wait(60)
        if self.is_away:
            self.refusals += 1
            answer(handler, 503, b"", "text/plain")
        return not self.is_away


@contextmanager
def instance_metadata(store: TokenStore) -> Iterator[Service]:
    """IMDSv2 (Amazon EC2 User Guide): a session's token first, then the role's name, then its keys."""
    service = Service(store)

    class Handler(QuietHandler):
        def do_PUT(self) -> None:  # noqa: N802 - as the base class looks for it
            assert self.path == "/latest/api/token"
            assert int(self.headers["x-aws-ec2-metadata-token-ttl-seconds"]) > 0
            if service.before(self):
                answer(self, 200, b"session", "text/plain")

        def do_GET(self) -> None:  # noqa: N802 - as the base class looks for it
            if not service.before(self):
                return
            role = "/latest/meta-data/iam/security-credentials/"
            if self.headers.get("x-aws-ec2-metadata-token") != "session":
                answer(self, 401, b"", "text/plain")
            elif self.path == role:
                answer(self, 200, b"writer", "text/plain")
            elif self.path == f"{role}writer":
                answer(self, 200, json.dumps(service.document()).encode(), "application/json")
            else:
                answer(self, 404, b"", "text/plain")

    with served(Handler) as service.url:
        yield service


@contextmanager
def pod_identity(store: TokenStore, token_file: Path) -> Iterator[Service]:
    """The EKS Pod Identity agent (Amazon EKS User Guide): the pod's token, as the file has it now, for keys."""
    service = Service(store)

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - as the base class looks for it
            if not service.before(self):
                return
            if self.headers.get("Authorization") != token_file.read_text():
                answer(self, 403, b"", "text/plain")
            else:
                answer(self, 200, json.dumps(service.document()).encode(), "application/json")

    with served(Handler) as url:
        service.url = f"{url}/v1/credentials"
        yield service

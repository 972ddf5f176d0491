"""An S3-compatible server in this process, for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import boto3
import msgspec
from moto.server import ThreadedMotoServer


class Storage(msgspec.Struct):
    """How to reach it."""

    url: str
    key: str = "storage-key"
    secret: str = "storage-secret-value"

    @property
    def access(self) -> dict[str, str]:
        """Inputs of `file/transfer`."""
        return {"endpoint": self.url, "access-key": self.key, "secret-key": self.secret}

    def client(self) -> Any:
        """Return another library's client: the judge of what is stored."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )


@contextlib.contextmanager
def serving(*buckets: str) -> Iterator[Storage]:
    """Serve *buckets* on a free port of loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        storage = Storage(f"http://{host}:{port}")
        client = storage.client()
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        client.close()
        yield storage
    finally:
        server.stop()

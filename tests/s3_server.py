"""An S3 server in this process, for slides and output folders at s3://; child processes find it by the environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import boto3
import pytest
from moto.server import ThreadedMotoServer


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket, which begins empty."""

    url: str  # s3://name
    client: object

    def put(self, key: str, data: bytes) -> str:
        """The URL of what was put."""
        self.client.put_object(Bucket=self.url.removeprefix("s3://"), Key=key, Body=data)  # type: ignore[attr-defined]
        return f"{self.url}/{key}"


@contextmanager
def bucket(name: str) -> Iterator[Bucket]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        server.start()
        try:
            host, port = server.get_host_and_port()
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(key, "testing")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            client = boto3.client("s3")
            client.create_bucket(Bucket=name)
            yield Bucket(f"s3://{name}", client)
        finally:
            server.stop()

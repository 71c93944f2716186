"""A real S3 server in this process, through moto."""

import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec

_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class ObjectStore:
    """An S3 server with one bucket; the AWS_ variables of this process name it, and so those of its children."""

    bucket = "preceptor-test"

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        fsspec.filesystem("s3", use_listings_cache=False).mkdir(f"s3://{self.bucket}")

    def check_credentials(self) -> None:
        """From now on keys that the server did not give out are refused, as are all of ours."""
        _post(f"{self.endpoint}/moto-api/reset-auth", "0")

    def forget(self) -> None:
        """What moto keeps outlives its server."""
        _post(f"{self.endpoint}/moto-api/reset-auth", "inf")
        _post(f"{self.endpoint}/moto-api/reset", "")


def _post(url: str, data: str) -> None:
    plain = {"Content-Type": "text/plain"}
    request = urllib.request.Request(url, data=data.encode(), method="POST", headers=plain)
    urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = {name: os.environ.get(name) for name in [*_VARIABLES, "AWS_ENDPOINT_URL"]}
    os.environ |= {**_VARIABLES, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    fsspec.filesystem("s3").clear_instance_cache()
    store = ObjectStore(os.environ["AWS_ENDPOINT_URL"])
    try:
        yield store
    finally:
        store.forget()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        fsspec.filesystem("s3").clear_instance_cache()
        server.stop()

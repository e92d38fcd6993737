"""Opens any store or corpus location as an fsspec filesystem, and puts storage failures into words.

Credentials come from the environment or the AWS profile only: never from a URI, so that no URI in a log,
a manifest or an error can hold one.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from botocore import exceptions as boto
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from assay.schemas.errors import AssayError, StorageError, printable, unknown_name

S3_PROTOCOLS = ("s3", "s3a")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_USERINFO = re.compile(r"://(?P<user>[^/@\s]*):(?P<password>[^@\s]*)@")
_HTTP_QUERY = re.compile(r"(?<=://)([^?\s]*)\?.*", re.DOTALL)
_ATTEMPTS = 8


def filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The filesystem of `uri` and the path in it; listings are never cached, so others' writes are seen.

    A plain path or file:// becomes an absolute path; s3:// takes endpoint, keys, region and profile from the
    usual AWS variables and files. Other protocols are fsspec's.

    Raises AssayError for a URI that holds a password, an unknown protocol or a package that isn't installed.
    """
    uri = absolute(uri)
    protocol = _protocol(uri)
    if not protocol:
        return LocalFileSystem(), uri
    with storage_errors(uri):
        if protocol in S3_PROTOCOLS:
            fs = _s3()
            return fs, fs._strip_protocol(uri)
        return _other(uri, protocol)


def absolute(uri: str) -> str:
    """`uri` as every process of a run understands it: an absolute path, or a URI that isn't file://.

    Raises AssayError if it is empty or holds a password.
    """
    if not uri:
        raise AssayError("the location is empty", hint="give a directory or a URI such as s3://bucket/prefix")
    _refuse_password(uri, "the URI")
    protocol = _protocol(uri)
    if protocol in ("file", "local"):
        return str(LocalFileSystem._strip_protocol(uri))
    return uri if protocol else os.path.abspath(Path(uri).expanduser())  # noqa: PTH100 (keeps symlinks)


def join(uri: str, *parts: str) -> str:
    """`uri` and `parts` with exactly one slash between them."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def is_local(fs: AbstractFileSystem) -> bool:
    """Whether `fs` is this machine's own file tree, where os.link and fsync work."""
    return isinstance(fs, LocalFileSystem)


def is_s3(fs: AbstractFileSystem) -> bool:
    """Whether `fs` speaks S3: object metadata and conditional writes are available."""
    protocol = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return any(name in S3_PROTOCOLS for name in protocol)


def public(uri: str) -> str:
    """`uri` without what may be a secret: a password, or the query of a signed URL."""
    return _HTTP_QUERY.sub(r"\1?...", _USERINFO.sub("://...@", uri))


def error_code(error: BaseException | None) -> str:
    """The S3 error code behind `error` or its cause ("NoSuchBucket", "403"), or ""."""
    while error is not None:
        if isinstance(error, boto.ClientError):
            return str(error.response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turns the failures of a storage operation on `uri` into StorageErrors that name it and hold no secret."""
    try:
        yield
    except (OSError, boto.BotoCoreError, boto.ClientError) as error:
        what, hint = _explain(error)
        raise StorageError(what, where=public(uri), hint=hint) from error


def _protocol(uri: str) -> str:
    head, found, _ = uri.partition("://")
    return head.rsplit("::", 1)[-1].lower() if found else ""


def _refuse_password(uri: str, what: str) -> None:
    match = _USERINFO.search(uri)
    if not match or match["user"].startswith("arn:"):
        return
    port = re.match(r"\d{1,5}/", match["password"])  # http://host:8080/a@b holds no password
    if port and _protocol(uri) not in S3_PROTOCOLS:
        return
    raise AssayError(
        f"{what} holds a user name and password",
        where=public(uri),
        hint="take them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    )


def _s3() -> AbstractFileSystem:
    # aiobotocore itself reads keys, AWS_PROFILE, AWS_ENDPOINT_URL[_S3] and ~/.aws/config (endpoint_url,
    # addressing_style; path style with an own endpoint). It doesn't read AWS_REGION.
    import s3fs  # here, since it takes longer to import than many commands take to run

    for name in _ENDPOINT_VARIABLES:
        endpoint = os.environ.get(name, "")
        _refuse_password(endpoint, name)
        if endpoint and _protocol(endpoint) not in ("http", "https"):
            raise AssayError(f"{name} isn't an http:// or https:// address", hint="such as http://127.0.0.1:8333")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    wanted = os.environ.get("AWS_MAX_ATTEMPTS", "")
    attempts = int(wanted) if wanted.isdigit() else _ATTEMPTS
    fs = s3fs.S3FileSystem(
        use_listings_cache=False,
        default_cache_type="none",
        default_block_size=16 * 2**20,
        max_concurrency=4,
        client_kwargs={"region_name": region} if region else {},
        config_kwargs={
            "retries": {"mode": "standard", "max_attempts": attempts},
            "connect_timeout": 10,
            "read_timeout": 60,
            "max_pool_connections": 32,
        },
    )
    fs.retries = _ATTEMPTS
    return fs


def _other(uri: str, protocol: str) -> tuple[AbstractFileSystem, str]:
    if protocol in ("http", "https") and "?" in uri:
        raise AssayError(
            "a URL with a query may hold a signature, and URLs are written into plans and manifests",
            where=public(uri),
            hint="name the bucket by its own protocol (s3://...), with keys in the environment",
        )
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        known = {"file", "s3", *known_implementations}
        raise unknown_name("protocol", printable(protocol), known, where=public(uri)) from error
    except ImportError as error:
        advice = known_implementations.get(protocol, {}).get("err", f"install the package for {protocol}://")
        what = f"{protocol}:// needs a package that isn't installed"
        raise AssayError(what, where=public(uri), hint=advice) from error
    try:
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except TypeError:
        fs, path = fsspec.core.url_to_fs(uri)
    return fs, str(path)


def _explain(error: Exception) -> tuple[str, str]:
    """What happened and what to do, in words that repeat nothing a secret could be in."""
    code = error_code(error)
    for table, key in ((_S3_CODES, code), (_ERRNOS, getattr(error, "errno", None))):
        if key in table:
            return table[key]
    for kinds, words in _KINDS:
        if isinstance(error, kinds):
            return words
    system = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    detail = printable(code or system or type(error).__name__)
    return f"the storage failed: {detail}", "try again; if it stays, look at the store's log"


_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE and its ~/.aws files"
_ENDPOINT = "check AWS_ENDPOINT_URL (or endpoint_url in ~/.aws/config), that the store runs, and the network"
_DENIED = ("the store refused access (403)", f"{_KEYS}; the key must list, read and write under this prefix")
_NO_BUCKET = ("the bucket doesn't exist", "create it, or check its name and AWS_ENDPOINT_URL")
_ABSENT = ("there is nothing here", "check the path; an S3 name starts with its bucket")
_FULL = ("the disk is full", "free space or choose another place; nothing half-written is visible")
_LOCAL_DENIED = ("the system refused access", "check the owner and the permissions of this path")
_NO_FOLDER = ("a part of this path is a file, not a directory", "check the path")
_CONFLICT = ("the store refuses to create this object, though it has none", "if another run writes here, try again")
_BUSY = ("the store is overloaded and kept refusing", "try again later or with fewer workers")
_UNREACHABLE = ("the store can't be reached", _ENDPOINT)

_S3_CODES: dict[Any, tuple[str, str]] = {
    "InvalidAccessKeyId": ("the store doesn't know this access key", _KEYS),
    "SignatureDoesNotMatch": ("the store refused the secret key (signature doesn't match)", _KEYS),
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "ExpiredToken": ("the session token has expired", "get a new one, then run the same command again"),
    "RequestTimeTooSkewed": ("this machine's clock is off by minutes", "set the clock"),
    "NoSuchBucket": _NO_BUCKET,
    "InvalidBucketName": ("this isn't a valid bucket name", "S3 URIs look like s3://bucket/prefix"),
    "NoSuchKey": _ABSENT,
    "404": _ABSENT,
    "PermanentRedirect": ("the bucket is in another region", "set AWS_REGION to the bucket's region"),
    "AuthorizationHeaderMalformed": ("the request was signed for another region", "set AWS_REGION"),
    "PreconditionFailed": _CONFLICT,
    "ConditionalRequestConflict": _CONFLICT,
    "SlowDown": _BUSY,
    "503": _BUSY,
}
_ERRNOS: dict[Any, tuple[str, str]] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: ("the disk quota is used up", _FULL[1]),
    errno.EROFS: ("the file system is read-only", "choose a place that can be written"),
    errno.EACCES: _LOCAL_DENIED,
    errno.EPERM: _LOCAL_DENIED,
    errno.ENAMETOOLONG: ("the name is too long for this file system", "choose a shorter place"),
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
    errno.EMFILE: ("too many open files", "raise the limit with `ulimit -n`"),
}
_KINDS: tuple[tuple[tuple[type[Exception], ...], tuple[str, str]], ...] = (
    ((boto.NoCredentialsError, boto.PartialCredentialsError), ("no S3 credentials were found", _KEYS)),
    ((boto.ProfileNotFound,), ("AWS_PROFILE names a profile that isn't in ~/.aws", _KEYS)),
    ((boto.SSLError,), ("the store's TLS certificate wasn't accepted", f"set AWS_CA_BUNDLE, or {_ENDPOINT}")),
    ((boto.ConnectionError, boto.HTTPClientError, ConnectionError, TimeoutError), _UNREACHABLE),
    ((boto.ParamValidationError,), _S3_CODES["InvalidBucketName"]),
    ((PermissionError,), _DENIED),
    ((FileNotFoundError,), _ABSENT),
)

"""The encoder cache: what is in it, when it is made again, and that its users share it."""

import json
import logging
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from assay.sae_runtime import encoder_cache, file_hash
from assay.sae_runtime.encoder_cache import cached_encoder
from assay.sae_runtime.encoder_file import CachedEncoder
from assay.sae_runtime.file_hash import file_sha256
from assay.sae_runtime.sae_files import SaeFile, find_sae
from assay.sae_runtime.sae_weights import EncoderWeights, read_encoder, row_blocks
from assay.schemas.errors import AssayError

F, D, K = 64, 32, 5
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ASSAY_CACHE", str(folder))
    forget()
    return folder


def forget() -> None:
    """As a new process starts."""
    file_hash._hashes.clear()
    encoder_cache._warned.clear()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def save_qwen_scope(folder: Path, *, seed: int = 0, k: int = K, **changed: Tensor) -> SaeFile:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": random(F, D, seed=seed), "b_enc": random(F, seed=seed)} | changed
    torch.save(tensors, folder / "layer3.sae.pt")
    (folder / "config.json").write_text(json.dumps({"k": k}))
    return find_sae(folder, 3)


def save_saelens(folder: Path, *, f: int = F, d: int = D, **config: Any) -> SaeFile:
    """A SAELens SAE that needs its rows scaled and b_dec folded in."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": random(d, f), "W_dec": random(f, d), "b_enc": random(f), "b_dec": random(d)}
    tensors |= {"threshold": random(f).abs(), "topk_threshold": torch.tensor(0.5)}
    save_file(tensors, folder / "sae_weights.safetensors")
    fields = {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True, **config}
    (folder / "cfg.json").write_text(json.dumps({**fields, "hook_name": "blocks.3.hook_resid_post"}))
    return find_sae(folder, 3)


def encoder_files(cache: Path) -> list[Path]:
    return sorted((cache / "encoders").glob("*.safetensors"))


def leftovers(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.tmp"))


def run(script: str, *arguments: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import torch\ntorch.set_num_threads(1)\n" + textwrap.dedent(script)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=check, timeout=120
    )


# Content


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_cache_holds_what_the_source_says_in_the_type_asked_for(cache: Path, tmp_path: Path, dtype: Any) -> None:
    for sae in (save_qwen_scope(tmp_path / "q"), save_saelens(tmp_path / "s")):
        source, encoder = read_encoder(sae), cached_encoder(sae, dtype)
        assert encoder.W_enc_FD.dtype == getattr(torch, dtype)
        assert encoder.W_enc_FD.is_contiguous()
        assert encoder.W_enc_FD.equal(source.W_enc_FD.to(encoder.W_enc_FD.dtype))
        assert encoder.b_enc_F.equal(source.b_enc_F)
        assert encoder[2:] == (None, None, None, "topk", K, F, D)


def test_jumprelu_keeps_its_thresholds_and_has_no_k(cache: Path, tmp_path: Path) -> None:
    sae = save_saelens(tmp_path / "s", architecture="jumprelu")
    encoder, again = cached_encoder(sae, "float16"), cached_encoder(sae, "float16")
    assert encoder.threshold_F is not None
    assert again.threshold_F is not None
    assert encoder.threshold_F.equal(read_encoder(sae).threshold_F)  # type: ignore[arg-type]
    assert again.threshold_F.equal(encoder.threshold_F)
    assert (again.activation, again.k) == ("jumprelu", None)


def test_int8_rows_are_within_half_a_step_of_the_weights(cache: Path, tmp_path: Path) -> None:
    W_enc = random(F, D)
    W_enc[0] = 0
    W_enc[1] *= 1e4
    W_enc[2] *= 1e-30
    W_enc[3] = 1e-44
    encoder = cached_encoder(save_qwen_scope(tmp_path / "q", W_enc=W_enc), "float32", int8=True)
    assert encoder.W_int8_FD is not None
    assert encoder.scale_F is not None
    assert (encoder.W_int8_FD.dtype, encoder.scale_F.dtype) == (torch.int8, torch.float32)
    assert encoder.scale_F.equal(W_enc.abs().amax(1) / 127)
    error = (encoder.W_int8_FD * encoder.scale_F[:, None] - W_enc).abs()
    assert (error <= encoder.scale_F[:, None] * 0.5001 + 1e-40).all()
    assert encoder.W_int8_FD[[1, 2, *range(4, F)]].abs().amax(1).eq(127).all()
    assert not encoder.W_int8_FD[[0, 3]].any(), "the steps of these rows are 0"


@pytest.mark.parametrize(("f", "d"), [(7, 3), (1, 1), (33, 5)])
def test_odd_sizes_are_read_back(cache: Path, tmp_path: Path, f: int, d: int) -> None:
    sae = save_saelens(tmp_path / "s", f=f, d=d, k=1)
    source, encoder = read_encoder(sae), cached_encoder(sae, "float16", int8=True)
    assert encoder.W_enc_FD.equal(source.W_enc_FD.half())
    assert encoder.b_enc_F.equal(source.b_enc_F)


def test_matrices_of_several_blocks_are_whole(cache: Path, tmp_path: Path) -> None:
    f, d = 1500, 1024
    sae = save_saelens(tmp_path / "s", f=f, d=d, architecture="batchtopk")
    source, encoder = read_encoder(sae), cached_encoder(sae, "float16", int8=True)
    assert len(list(row_blocks(source.W_enc_FD))) > 1
    assert encoder.W_enc_FD.equal(source.W_enc_FD.half())
    W_FD = random(d, f).T.double() * random(f, d).double().norm(dim=1)[:, None]
    assert torch.allclose(source.W_enc_FD.double(), W_FD, rtol=1e-6)
    assert encoder.scale_F is not None
    assert encoder.scale_F.equal(source.W_enc_FD.abs().amax(1) / 127)


def test_the_file_is_plain_safetensors_that_says_where_it_comes_from(cache: Path, tmp_path: Path) -> None:
    sae = save_qwen_scope(tmp_path / "q")
    cached_encoder(sae, "float16", int8=True)
    (path,) = encoder_files(cache)
    with safe_open(path, "pt") as f:
        metadata = f.metadata()
        assert set(f.keys()) == {"W_enc_FD", "b_enc_F", "W_int8_FD", "scale_F"}
    assert metadata["source"] == "layer3.sae.pt"
    assert metadata["source_sha256"] == file_sha256(sae.weights)
    assert (metadata["k"], metadata["activation"], metadata["key"]) == (str(K), "topk", path.stem)


@pytest.mark.parametrize("value", [65520.0, -1e6])
def test_values_beyond_fp16_are_refused_in_fp16_only(cache: Path, tmp_path: Path, value: float) -> None:
    W_enc = random(F, D)
    W_enc[3, 4] = value
    sae = save_qwen_scope(tmp_path / "q", W_enc=W_enc)
    with pytest.raises(AssayError, match="exact mode"):
        cached_encoder(sae, "float16")
    assert encoder_files(cache) == leftovers(cache) == []
    assert cached_encoder(sae, "float32").W_enc_FD.equal(W_enc)
    W_enc[3, 4] = 65504.0
    assert cached_encoder(save_qwen_scope(tmp_path / "q", W_enc=W_enc), "float16").W_enc_FD[3, 4] == 65504.0


def test_a_wrong_source_is_refused_and_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    W_enc = random(F, D)
    W_enc[5] = torch.nan
    with pytest.raises(AssayError, match="NaN"):
        cached_encoder(save_qwen_scope(tmp_path / "q", W_enc=W_enc), "float16")
    sae = save_qwen_scope(tmp_path / "q")
    sae.weights.unlink()
    with pytest.raises(AssayError, match="not a file"):
        cached_encoder(sae, "float16")
    assert encoder_files(cache) == leftovers(cache) == []


# When it is made, and when not


def test_it_is_written_once(cache: Path, tmp_path: Path) -> None:
    sae = save_qwen_scope(tmp_path / "q")
    cached_encoder(sae, "float16")
    (path,) = encoder_files(cache)
    before = path.stat()
    forget()
    cached_encoder(sae, "float16")
    assert encoder_files(cache) == [path]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert leftovers(cache) == []


def test_the_same_bytes_elsewhere_are_served_from_the_same_file(cache: Path, tmp_path: Path) -> None:
    first = cached_encoder(save_qwen_scope(tmp_path / "one"), "float16")
    second = cached_encoder(save_qwen_scope(tmp_path / "two"), "float16")
    assert len(encoder_files(cache)) == 1
    assert first.W_enc_FD.equal(second.W_enc_FD)


def test_each_type_has_its_own_file(cache: Path, tmp_path: Path) -> None:
    sae = save_qwen_scope(tmp_path / "q")
    for dtype in ("float16", "float32"):
        for int8 in (False, True):
            assert (cached_encoder(sae, dtype, int8=int8).W_int8_FD is not None) == int8  # type: ignore[arg-type]
    assert len(encoder_files(cache)) == 4


def test_a_changed_source_is_never_answered_from_an_old_file(cache: Path, tmp_path: Path) -> None:
    old = cached_encoder(save_qwen_scope(tmp_path / "q", seed=1), "float32").W_enc_FD
    times = (tmp_path / "q" / "layer3.sae.pt").stat()
    sae = save_qwen_scope(tmp_path / "q", seed=2)
    os.utime(sae.weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert sae.weights.stat().st_size == times.st_size
    assert cached_encoder(sae, "float32").W_enc_FD.equal(random(F, D, seed=2))
    assert old.equal(random(F, D, seed=1))


def test_a_changed_configuration_makes_another_file(cache: Path, tmp_path: Path) -> None:
    assert cached_encoder(save_qwen_scope(tmp_path / "q", k=3), "float16").k == 3
    assert cached_encoder(save_qwen_scope(tmp_path / "q", k=4), "float16").k == 4


def test_a_configuration_of_the_same_shape_that_folds_otherwise_makes_another_file(cache: Path, tmp_path: Path) -> None:
    for subtract in (True, False):
        sae = save_saelens(tmp_path / "s", apply_b_dec_to_input=subtract)
        assert cached_encoder(sae, "float16").b_enc_F.equal(read_encoder(sae).b_enc_F)
    assert len(encoder_files(cache)) == 2


def test_k_in_a_folders_name_counts_although_the_bytes_are_the_same(cache: Path, tmp_path: Path) -> None:
    for k in (3, 4):
        sae = save_qwen_scope(tmp_path / f"suite-L0_{k}")
        assert sae.config is not None
        sae.config.unlink()
        assert cached_encoder(find_sae(sae.weights.parent, 3), "float16").k == k


def test_a_source_that_is_replaced_while_it_is_read_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = save_qwen_scope(tmp_path / "q", seed=1)
    newer = save_qwen_scope(tmp_path / "newer", seed=2)

    def read_and_replace(at: SaeFile) -> EncoderWeights:
        weights = read_encoder(at)
        newer.weights.replace(at.weights)
        return weights

    with monkeypatch.context() as patch:
        patch.setattr(encoder_cache, "read_encoder", read_and_replace)
        with pytest.raises(AssayError, match="changed while it was read"):
            cached_encoder(sae, "float32")
    assert encoder_files(cache) == leftovers(cache) == []
    assert cached_encoder(sae, "float32").W_enc_FD.equal(random(F, D, seed=2))


@pytest.mark.parametrize("damage", ["empty", "header", "half", "last byte", "flipped bit", "k", "other", "text"])
def test_a_damaged_file_is_noticed_and_made_again(
    cache: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    sae = save_qwen_scope(tmp_path / "q")
    cached_encoder(sae, "float16", int8=True)
    (path,) = encoder_files(cache)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.unlink()
    path.write_bytes(
        {
            "empty": b"",
            "header": whole[:20],
            "half": whole[:middle],
            "last byte": whole[:-1],
            "flipped bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "k": whole.replace(b'"k": "5"', b'"k": "6"'),
            "other": whole.replace(path.stem.encode(), b"0" * 64),
            "text": b"not a safetensors file" * 100,
        }[damage]
    )
    forget()
    with caplog.at_level(logging.WARNING):
        encoder = cached_encoder(sae, "float16", int8=True)
    assert [record.name for record in caplog.records] == ["assay.sae_runtime.encoder_cache"]
    assert "damaged" in caplog.text
    assert encoder.k == K
    assert encoder.W_enc_FD.equal(random(F, D).half())
    assert path.read_bytes() == whole


def test_a_file_of_another_sae_under_the_wrong_name_is_not_believed(cache: Path, tmp_path: Path) -> None:
    saes = [save_qwen_scope(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    for sae in saes:
        cached_encoder(sae, "float32")
    one, other = encoder_files(cache)
    one.unlink()
    one.write_bytes(other.read_bytes())
    for sae in saes:
        assert same_as_source(cached_encoder(sae, "float32"), sae)


def test_remains_of_killed_processes_are_removed_after_a_day(cache: Path, tmp_path: Path) -> None:
    folder = cache / "encoders"
    folder.mkdir(parents=True)
    old, new = folder / ".old.safetensors.1-00.tmp", folder / ".new.safetensors.2-00.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    cached_encoder(save_qwen_scope(tmp_path / "q"), "float16")
    assert leftovers(cache) == [new]


# Where it is


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"ASSAY_CACHE": "{}/own", "XDG_CACHE_HOME": "{}/xdg"}, "own"),
        ({"XDG_CACHE_HOME": "{}/xdg"}, "xdg/assay"),
        ({"XDG_CACHE_HOME": "relative/is/ignored"}, "home/.cache/assay"),
        ({"ASSAY_CACHE": "~/mine"}, "home/mine"),
        ({}, "home/.cache/assay"),
    ],
)
def test_the_cache_lies_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], place: str
) -> None:
    for name in ("ASSAY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "{}/home", **variables}.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    monkeypatch.chdir(tmp_path)
    cached_encoder(save_qwen_scope(tmp_path / "q"), "float16")
    assert len(encoder_files(tmp_path / place)) == 1
    assert not (tmp_path / "relative").exists()


def same_as_source(encoder: CachedEncoder, sae: SaeFile) -> bool:
    return encoder.W_enc_FD.equal(read_encoder(sae).W_enc_FD) and encoder.k == K


def test_where_nothing_can_be_written_it_converts_in_memory_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "file" / "cache"))
    forget()
    saes = [save_qwen_scope(tmp_path / "q"), save_saelens(tmp_path / "s", architecture="jumprelu", k=None)]
    with caplog.at_level(logging.WARNING):
        first, second = (cached_encoder(sae, "float32", int8=True) for sae in saes)
    assert same_as_source(first, saes[0])
    assert second.threshold_F is not None
    assert second.threshold_F.equal(read_encoder(saes[1]).threshold_F)  # type: ignore[arg-type]
    assert second.W_int8_FD is not None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ASSAY_CACHE" in caplog.text
    assert file_sha256(saes[0].weights) == file_sha256(saes[0].weights)


def test_a_disk_that_fills_up_while_writing_leaves_no_file(cache: Path, tmp_path: Path) -> None:
    sae = save_saelens(tmp_path / "s", f=4096, d=256)
    done = run(
        """
        import logging, resource, signal, sys
        from pathlib import Path
        from assay.sae_runtime.encoder_cache import cached_encoder
        from assay.sae_runtime.sae_files import find_sae
        from assay.sae_runtime.sae_weights import read_encoder
        logging.basicConfig(level=logging.WARNING)
        sae = find_sae(Path(sys.argv[1]), 3)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
        encoder = cached_encoder(sae, "float32")
        assert encoder.W_enc_FD.equal(read_encoder(sae).W_enc_FD)
        """,
        sae.weights.parent,
    )
    assert "converted in memory" in done.stderr
    assert encoder_files(cache) == leftovers(cache) == []


def test_a_cache_that_cannot_be_written_still_serves_the_file_in_it(cache: Path, tmp_path: Path) -> None:
    sae = save_qwen_scope(tmp_path / "q")
    cached_encoder(sae, "float32")
    (path,) = encoder_files(cache)
    path.with_suffix(".lock").unlink()
    changed = path.parent.stat().st_mtime_ns
    done = run(
        """
        import resource, signal, sys
        from pathlib import Path
        from assay.sae_runtime import file_hash
        from assay.sae_runtime.encoder_cache import cached_encoder
        from assay.sae_runtime.sae_files import find_sae
        from assay.sae_runtime.sae_weights import read_encoder
        file_hash._SETTLED_NS = -(10**12)
        sae = find_sae(Path(sys.argv[1]), 3)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        encoder = cached_encoder(sae, "float32")
        assert encoder.W_enc_FD.equal(read_encoder(sae).W_enc_FD)
        """,
        sae.weights.parent,
    )
    assert done.stderr == "", "it warned of nothing"
    assert list(path.parent.iterdir()) == [path]
    assert path.parent.stat().st_mtime_ns == changed, "no lock was taken, no file begun"
    assert leftovers(cache) == []


# Several processes


@pytest.mark.parametrize("locks", [True, False])
def test_processes_that_convert_at_once_agree_on_one_file(cache: Path, tmp_path: Path, locks: bool) -> None:
    sae = save_saelens(tmp_path / "s", f=4096, d=256)
    script = """
        import hashlib, os, sys, time
        from pathlib import Path
        import torch
        from assay.sae_runtime import encoder_cache
        from assay.sae_runtime.sae_files import find_sae
        torch.set_num_threads(1)
        sae, go, ready, locks = find_sae(Path(sys.argv[1]), 3), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
        if locks == "False":
            encoder_cache.fcntl = None
        ready.touch()
        while not go.exists():
            time.sleep(0.001)
        encoder = encoder_cache.cached_encoder(sae, "float16", int8=True)
        (path,) = (Path(os.environ["ASSAY_CACHE"]) / "encoders").glob("*.safetensors")
        inode = path.stat().st_ino if locks == "True" else "any"
        print(inode, hashlib.sha256(encoder.W_enc_FD.numpy().tobytes()).hexdigest())
        """
    go, ready = tmp_path / "go", [tmp_path / f"ready{n}" for n in range(2)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), sae.weights.parent, go, flag, str(locks)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for flag in ready
    ]
    try:
        wait_for(lambda: all(flag.exists() for flag in ready), children)
        go.touch()
        said = [child.communicate(timeout=120)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert [child.returncode for child in children] == [0, 0], said
    assert said[0] == said[1], "each process saw the same file and the same bytes, and warned of nothing"
    assert len(said[0].splitlines()) == 1
    assert len(encoder_files(cache)) == 1
    assert leftovers(cache) == []


def wait_for(condition: Any, children: list["subprocess.Popen[str]"]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        assert all(child.poll() is None for child in children), "a child died"
        time.sleep(0.01)


def test_a_process_killed_while_converting_does_no_harm(cache: Path, tmp_path: Path) -> None:
    sae = save_saelens(tmp_path / "s", f=4096, d=256)
    killed = run(
        """
        import os, signal, sys
        from pathlib import Path
        from assay.sae_runtime import encoder_cache
        from assay.sae_runtime.sae_files import find_sae
        class Kill:
            def write(self, event, args):
                if event == "os.rename":
                    os.kill(os.getpid(), signal.SIGKILL)
        sae = find_sae(Path(sys.argv[1]), 3)
        sys.addaudithook(Kill().write)
        encoder_cache.cached_encoder(sae, "float16")
        """,
        sae.weights.parent,
        check=False,
    )
    assert killed.returncode == -9
    assert encoder_files(cache) == []
    assert len(leftovers(cache)) == 1
    assert cached_encoder(sae, "float16").W_enc_FD.equal(read_encoder(sae).W_enc_FD.half())


def private_and_resident(pid: int | str, path: Path) -> tuple[int, int]:
    """Bytes of the file's mapping in a process: private to it, and in memory at all."""
    private = resident = 0
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            inside = line.endswith(os.path.realpath(path))
        elif inside and words[0] in ("Private_Clean:", "Private_Dirty:"):
            private += int(words[1]) * 1024
        elif inside and words[0] == "Rss:":
            resident += int(words[1]) * 1024
    return private, resident


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux's smaps")
def test_two_processes_share_one_copy_in_memory(cache: Path, tmp_path: Path) -> None:
    W_enc = random(8192, 1024)
    sae = save_qwen_scope(tmp_path / "q", W_enc=W_enc, b_enc=random(8192))
    script = """
        import sys
        from pathlib import Path
        import torch
        from assay.sae_runtime.encoder_cache import cached_encoder
        from assay.sae_runtime.sae_files import find_sae
        encoder = cached_encoder(find_sae(Path(sys.argv[1]), 3), "float32")
        print(float(encoder.W_enc_FD.amax()), flush=True)
        sys.stdin.read()
        """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), sae.weights.parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        largest = child.stdout.readline()
        encoder = cached_encoder(sae, "float32")
        assert float(encoder.W_enc_FD.amax()) == float(largest)
        (path,) = encoder_files(cache)
        size = path.stat().st_size
        assert size > 30 * 2**20
        for pid in (child.pid, os.getpid()):
            private, resident = private_and_resident(pid, path)
            assert resident > 0.9 * size
            assert private < 0.05 * size
    finally:
        child.communicate()
    assert child.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's status")
def test_converting_needs_little_more_memory_than_one_fp32_encoder(cache: Path, tmp_path: Path) -> None:
    f, d = 32768, 1024
    one = 4 * f * d
    tensors = {"W_enc": torch.ones(d, f), "W_dec": torch.ones(f, d), "b_enc": torch.ones(f), "b_dec": torch.ones(d)}
    sae = save_saelens(tmp_path / "s")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, sae.weights)
    done = run(
        """
        import sys, threading
        from pathlib import Path
        from assay.sae_runtime.encoder_cache import cached_encoder
        from assay.sae_runtime.sae_files import find_sae
        from assay.sae_runtime.sae_weights import read_shape
        def anonymous():
            status = Path("/proc/self/status").read_text()
            return 1024 * int(status.split("RssAnon:")[1].split()[0])
        sae = find_sae(Path(sys.argv[1]), 3)
        read_shape(sae)
        torch.randn(64, 64) @ torch.randn(64, 64)
        start = most = anonymous()
        done = threading.Event()
        def watch():
            global most
            while not done.is_set():
                most = max(most, anonymous())
        thread = threading.Thread(target=watch)
        thread.start()
        cached_encoder(sae, "float16", int8=True)
        done.set()
        thread.join()
        print(most - start)
        """,
        sae.weights.parent,
    )
    most = int(done.stdout)
    assert most > 0.5 * one, "the watcher saw the folded copy"
    assert most < 1.25 * one + 32 * 2**20


# Hashes


def test_a_files_hash_is_that_of_its_bytes(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert file_sha256(path) == EMPTY
    path.write_bytes(b"abc")
    assert file_sha256(path).startswith("ba7816bf")
    with pytest.raises(AssayError, match="can't read"):
        file_sha256(tmp_path / "missing")


def test_files_rewritten_at_once_with_the_same_size_are_told_apart(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen = set()
    for n in range(50):
        path.write_bytes(b"%04d" % n)
        seen.add(file_sha256(path))
    assert len(seen) == 50


def memo_of(cache: Path, path: Path) -> Path:
    file_sha256(path)
    (memo,) = (cache / "hashes").glob("*.json")
    return memo


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the hash of a file that has just changed be remembered."""
    monkeypatch.setattr(file_hash, "_SETTLED_NS", -(10**12))


def test_a_hash_is_remembered_across_processes_while_the_file_stays_as_it_is(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    file_sha256(path)
    assert not (cache / "hashes").exists(), "too fresh to be told from its next change"
    time.sleep(max(0.0, path.stat().st_ctime + 2.1 - time.time()))
    memo = memo_of(cache, path)
    told = json.loads(memo.read_text())
    told["sha256"] = "0" * 64
    memo.write_text(json.dumps(told))
    assert file_sha256(path).startswith("ba7816bf"), "this process remembers by itself"
    forget()
    assert file_sha256(path) == "0" * 64, "a new process believes the memo"
    (tmp_path / "link").symlink_to(path)
    assert file_sha256(tmp_path / "link") == "0" * 64, "links lead to the same file"
    for change in (lambda: path.write_bytes(b"abcd"), lambda: os.utime(path, (1, 1)), lambda: replace(path, b"abc")):
        change()
        forget()
        assert file_sha256(path) != "0" * 64


def replace(path: Path, content: bytes) -> None:
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


@pytest.mark.parametrize("damage", ["", "{", "[]", "[" * 10_000, '{"sha256": 5}', "null", "bad hash", "folder"])
def test_a_damaged_memo_is_made_again(cache: Path, tmp_path: Path, damage: str, no_wait: None) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    memo = memo_of(cache, path)
    good = memo.read_text()
    if damage == "folder":
        memo.unlink()
        memo.mkdir()
    elif damage == "bad hash":
        memo.write_text(good.replace("ba7816bf", "BA7816BF"))
    else:
        memo.write_text(damage)
    forget()
    assert file_sha256(path).startswith("ba7816bf")
    if damage != "folder":
        assert memo.read_text() == good
    assert leftovers(cache) == []


def test_a_cache_whose_folders_are_files_costs_time_only(cache: Path, tmp_path: Path, no_wait: None) -> None:
    cache.mkdir()
    (cache / "hashes").write_text("in the way")
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_sha256(path).startswith("ba7816bf")

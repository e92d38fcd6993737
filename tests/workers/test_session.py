"""The Ray cluster that a run starts for itself is this user's alone."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

OWN = """
import os, subprocess, sys
import ray
from assay.workers.session import ray_session

with ray_session("local"):
    print("dashboard", repr(ray._private.worker._global_node.webui_url or ""))
    print("usage statistics", os.environ["RAY_USAGE_STATS_ENABLED"])
    address = ray.get_runtime_context().gcs_address
    join = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print(ray.cluster_resources())"
    plain = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    stranger = subprocess.run([sys.executable, "-c", join, address], env=plain, capture_output=True, text=True)
    print("stranger", stranger.returncode != 0, "CPU" in stranger.stdout)
"""


def test_a_cluster_of_this_machine_has_no_dashboard_and_lets_nobody_in_without_the_token_of_its_user(
    tmp_path: Path,
) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ran = subprocess.run(
        [sys.executable, "-c", OWN], env={**plain, "HOME": str(tmp_path)}, capture_output=True, encoding="utf-8",
        check=False, timeout=200,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["dashboard ''", "usage statistics 0", "stranger True False"]
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64


def test_a_token_that_others_can_read_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.workers import session

    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("a token")
    token.chmod(0o644)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    session._guard()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() == "a token"


def test_a_cluster_without_a_token_is_not_started(tmp_path: Path) -> None:
    code = "from assay.workers.session import ray_session\nwith ray_session('local'): print('open')"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"},
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert ran.returncode != 0
    assert ran.stdout == ""
    assert "RAY_AUTH_MODE would open the workers to everyone" in ran.stderr

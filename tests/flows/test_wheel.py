"""The wheel holds all of the package and its data, and runs from where it is unpacked."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.corpora import assay_environment

ROOT = Path(__file__).parents[2]
FOLDERS = ("configs", "dashboard", "flows", "sae_runtime", "schemas", "taggers", "workers")
DATA = (".css", ".html", ".json", ".jsonl", ".safetensors", ".yaml", ".md", ".txt", ".pt")
TRY = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
where = {}
for name in sys.argv[2:]:
    where[name] = importlib.import_module(name).__file__
from assay.flows.cli import app
app(["scopes", "--json"], result_action="return_value")
print("---")
print(json.dumps(where))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel was installed; it is built from a copy, so the tree stays as it was."""
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / "tree" / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / "tree" / name)
    (folder / "tree" / "README.md").touch()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", folder / "tree", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder / "dist"]
    subprocess.run(build, check=True)
    (wheel,) = (folder / "dist").glob("assay-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def modules() -> list[str]:
    """Every module of the source tree, by the name it is installed as."""
    paths = [path.relative_to(ROOT) for name in FOLDERS for path in (ROOT / name).rglob("*.py")]
    return sorted(".".join(["assay", *path.with_suffix("").parts]) for path in paths if path.name != "__main__.py")


def fits(name: str) -> bool:
    """Whether a module needs the extra `fit`."""
    return name == "assay.flows.fit" or name.startswith("assay.taggers.")


def test_every_module_and_data_file_is_in_the_wheel(installed: Path) -> None:
    package = installed / "assay"
    for name in FOLDERS:
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and path.suffix in (".py", *DATA):
                copy = package / path.relative_to(ROOT)
                assert copy.is_file(), f"{path.relative_to(ROOT)} is not in the wheel"
                assert copy.read_bytes() == path.read_bytes()
    for name in ("configs/scopes/embedded.yaml", "configs/recipes/demo.yaml", "dashboard/report.css",
                 "flows/demo_documents.jsonl"):  # fmt: skip
        assert (package / name).is_file()


def test_the_wheel_runs_from_its_own_folder(installed: Path, tmp_path: Path) -> None:
    names = [name.removesuffix(".__init__") for name in modules() if ".training" not in name and not fits(name)]
    ran = subprocess.run(
        [sys.executable, "-c", TRY, installed, *names], env=assay_environment(tmp_path), cwd=tmp_path,
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    listed, _, where = ran.stdout.partition("---\n")
    assert "embedded" in {row["scope"] for row in json.loads(listed)}
    outside = {name: path for name, path in json.loads(where).items() if not path.startswith(f"{installed}/")}
    assert not outside


def test_the_command_of_the_wheel_is_the_same(installed: Path) -> None:
    (metadata,) = installed.glob("assay-*.dist-info")
    assert "assay = assay.flows.cli:main" in (metadata / "entry_points.txt").read_text("utf-8")

"""The generated code is what the .proto files say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path("ha/wire/grpc")


def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--plugin={_plugin('py')}"]
    command += [f"--plugin={_plugin('connectrpc')}", f"--py_out={tmp_path}"]
    command += [f"--connectrpc_out={tmp_path}"]
    command += [str(FOLDER / path.name) for path in sorted((ROOT / FOLDER).glob("*.proto"))]
    subprocess.run(command, cwd=ROOT, check=True)
    made = sorted((tmp_path / FOLDER).glob("*_*.py"))
    made = [path for path in made if path.name != "__init__.py"]
    assert [path.name for path in made] == [
        "health_connect.py",
        "health_pb.py",
        "leader_connect.py",
        "leader_pb.py",
        "sql_connect.py",
        "sql_pb.py",
    ]
    for path in made:
        assert path.read_text() == (ROOT / FOLDER / path.name).read_text(), (
            f"{path.name} is old: run the command at the head of sql.proto"
        )


def _plugin(name: str) -> str:
    plugin = Path(sys.executable).with_name(f"protoc-gen-{name}")
    if not plugin.exists():
        pytest.skip(f"protoc-gen-{name} is not installed")
    return f"protoc-gen-{name}={plugin}"

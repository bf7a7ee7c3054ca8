from pathlib import Path

import pytest

from scripts import generate_pb

SERVER, CLIENT = generate_pb.TARGETS


def modules(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*.py*"))
        if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("target", generate_pb.TARGETS, ids=lambda target: target.package)
def test_committed_modules_are_what_the_proto_files_give(target, tmp_path):
    generate_pb.generate(target, tmp_path)
    assert modules(tmp_path) == modules(target.folder), (
        "run: .venv/bin/python scripts/generate_pb.py"
    )


def test_every_proto_file_has_its_modules_in_the_server(tmp_path):
    generate_pb.generate(SERVER, tmp_path)
    for proto in generate_pb.PROTO_DIR.rglob("*.proto"):
        stem = tmp_path / proto.relative_to(generate_pb.PROTO_DIR).with_suffix("")
        for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"):
            assert Path(f"{stem}{suffix}").is_file()


@pytest.mark.parametrize("target", generate_pb.TARGETS, ids=lambda target: target.package)
def test_imports_stay_inside_the_package(target, tmp_path):
    generate_pb.generate(target, tmp_path)
    source = (tmp_path / "antipode/v1/generation_pb2_grpc.py").read_text()
    assert f"from {target.package}.antipode.v1 import generation_pb2" in source
    assert "\nfrom antipode.v1" not in source


def test_no_package_is_called_after_a_protocol():
    root = generate_pb.ROOT
    assert not list(generate_pb.PROTO_DIR.rglob("__init__.py"))
    assert not (root / "antipode").exists()

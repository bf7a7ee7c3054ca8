"""Versions in a bucket, against an emulator on loopback."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

# Not imported: that takes seconds, in every worker that collects the tests.
if find_spec("google.cloud.storage") is None:
    pytest.skip("the extra gcs is not installed", allow_module_level=True)
emulator = pytest.importorskip("gcp_storage_emulator.server", reason="there is no emulator")

from models.checkpoint import manifest  # noqa: E402
from models.checkpoint.checkpoint import CheckpointError  # noqa: E402
from models.checkpoint.gcs import GcsError, GcsFiles  # noqa: E402
from models.checkpoint.verified_reading import ReadLimits  # noqa: E402
from models.checkpoint.version_folder import open_version  # noqa: E402
from server.config.engine_config import EngineConfig  # noqa: E402
from server.versions.model_file.model_file import ModelFile  # noqa: E402
from server.versions.served_model import ModelNotFoundError, find_model, prepare_model  # noqa: E402

TINY = Path("models/tiny")
QUICK = ReadLimits(attempts=1, timeout_seconds=10)


@pytest.fixture(scope="module")
def bucket():
    """Its address; versions 1 and 2 of tiny are in it, and 3 without its manifest."""
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="models")
    server.start()
    host, port = server._api._httpd.socket.getsockname()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
        for version in ("1", "2", "3"):
            GcsFiles(f"gs://models/tiny/{version}").upload(
                TINY / ("1" if version == "3" else version)
            )
        torn = GcsFiles("gs://models/tiny/3")
        torn._bucket.blob(f"tiny/3/{manifest.NAME}").delete()
        yield "gs://models/tiny"
    server.stop()


def test_a_bucket_holds_what_was_uploaded(bucket):
    files = GcsFiles(f"{bucket}/1")
    assert files.names() == sorted(path.name for path in (TINY / "1").iterdir())
    weights = (TINY / "1" / "model.safetensors").read_bytes()
    assert files.size("model.safetensors") == len(weights)
    assert files.read("model.safetensors", 1000, 500) == weights[1000:1500]


def test_a_version_is_read_and_verified(bucket, tmp_path):
    version = open_version(GcsFiles(f"{bucket}/2"), tmp_path, QUICK)
    version.read_everything()
    assert version.is_published
    assert version.golden is not None
    assert (tmp_path / "tokenizer.json").read_bytes() == (TINY / "2/tokenizer.json").read_bytes()
    assert "model.norm.weight" in version.checkpoint()


def test_a_replaced_object_is_found_out(bucket, tmp_path):
    files = GcsFiles(f"{bucket}/4")
    files.upload(TINY / "1")
    size = (TINY / "1" / "model.safetensors").stat().st_size
    files._bucket.blob("tiny/4/model.safetensors").upload_from_string(bytes(size))
    version = open_version(GcsFiles(f"{bucket}/4"), tmp_path, QUICK)
    with pytest.raises(CheckpointError, match="does not have the checksum"):
        version.read_everything()


def test_nothing_is_overwritten(bucket):
    with pytest.raises(FileExistsError, match="never overwritten"):
        GcsFiles(f"{bucket}/1").upload(TINY / "1")


def test_the_latest_version_is_the_last_that_was_published_whole(bucket):
    file = ModelFile("tiny", bucket, None)
    assert file.wanted_version() in ("2", "4")
    assert file.path_of("2") == "gs://models/tiny/2"


def test_a_server_finds_its_model_there(bucket, tmp_path):
    config = EngineConfig(model=f"{bucket}/1/", model_root=str(tmp_path))
    served = prepare_model(config)
    assert (served.name, served.version, served.source) == ("tiny", "1", f"{bucket}/1")
    assert (served.path / "tokenizer.json").is_file()
    assert not (served.path / "model.safetensors").exists()
    assert find_model(config) == served


def test_what_is_not_there_is_said(bucket, tmp_path):
    config = EngineConfig(model=f"{bucket}/9", model_root=str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="gs://models/tiny/9"):
        prepare_model(config)


@pytest.mark.parametrize("path", ["gs://", "/models", "s3://bucket/x"])
def test_a_path_that_names_no_bucket(path):
    with pytest.raises(GcsError, match="is no bucket path"):
        GcsFiles(path)


def test_the_copy_is_made_anew(bucket, tmp_path):
    config = EngineConfig(model=f"{bucket}/1", model_root=str(tmp_path))
    folder = prepare_model(config).path
    (folder / "chat_template.jinja").write_text("of another version")
    assert not (prepare_model(config).path / "chat_template.jinja").exists()
    shutil.rmtree(folder)

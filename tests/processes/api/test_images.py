"""What an API process takes of images, by files and settings."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

from server.api.images.image_reader import ImageLimits
from server.config.server_config import ServerConfig
from server.processes.api.images import image_format_of, image_limits, room_for_images
from tests.api.images.pictures import FORM


def test_files_that_contradict_each_other_leave_the_server_without_images(tmp_path, caplog):
    config = {"architectures": ["Gemma3ForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING):
        assert image_format_of(tmp_path, 1) is None
    assert "requests may have no images: tokenizer.json has no added token" in caplog.text


def test_the_bounds_are_the_operators():
    config = replace(
        ServerConfig(),
        max_image_bytes=1,
        max_request_image_bytes=30,
        max_image_pixels=3,
        allowed_image_hosts="a.example",
    )
    limits = image_limits(config)
    assert (limits.max_bytes, limits.max_request_bytes, limits.max_pixels) == (1, 30, 3)
    assert limits.hosts == {"a.example"}
    assert (room_for_images(config, FORM), room_for_images(config, None)) == (40, 0)


def test_the_defaults_of_settings_and_reader_are_the_same():
    assert image_limits(ServerConfig()) == ImageLimits()

from __future__ import annotations

import argparse
import dataclasses

import pytest

from server.config.config import Config, settings
from server.config.engine_config import EngineConfig
from server.config.server_config import ServerConfig
from server.config.setting import ConfigError
from server.config.sources import add_flags, load_config


@pytest.fixture
def config_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "serve.yaml"
        path.write_text(text)
        return str(path)

    return write


def parsed(*arguments: str) -> dict[str, str]:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return vars(parser.parse_args(arguments))


def test_nothing_given_is_the_defaults():
    assert load_config({}, {}) == Config(engine=EngineConfig(), server=ServerConfig())


def test_every_field_is_a_setting_with_a_description():
    keys = {setting.key for setting in settings()}
    fields = [*dataclasses.fields(EngineConfig), *dataclasses.fields(ServerConfig)]
    assert keys == {field.name for field in fields}
    assert all(setting.description for setting in settings())


def test_every_default_is_an_allowed_value():
    for setting in settings():
        assert setting.parse(setting.default, setting.key) == setting.default


# What an empty setting of text may be set to, where that is not any text.
_EXAMPLES = {
    "cors_origins": "http://x",
    "objectives": "batch=-1",
    "compiler_options": "decode:",
}


@pytest.mark.parametrize("setting", list(settings()), ids=lambda setting: setting.key)
def test_one_spelling_in_flag_variable_and_file(setting, config_file):
    text = str(setting.choices[-1] if setting.choices else setting.default).lower()
    text = text or _EXAMPLES.get(setting.key, "x")
    path = config_file(f"{setting.key}: '{text}'")
    by_flag = load_config(parsed(setting.flag, text), {})
    by_variable = load_config({}, {setting.variable: text})
    by_file = load_config({"config": path}, {})
    assert by_flag == by_variable == by_file


def test_a_flag_beats_a_variable_beats_the_file(config_file):
    path = config_file("max_num_seqs: 1\nblock_size: 1\nhttp_port: 1\ngrpc_port: 4")
    environment = {"ANTIPODE_MAX_NUM_SEQS": "2", "ANTIPODE_BLOCK_SIZE": "2"}
    config = load_config(parsed("--config", path, "--max-num-seqs", "3"), environment)
    assert (config.engine.max_num_seqs, config.engine.block_size) == (3, 2)
    assert (config.server.http_port, config.server.grpc_port) == (1, 4)


def test_the_file_can_be_named_by_a_variable(config_file):
    path = config_file("log_format: json")
    assert load_config({}, {"ANTIPODE_CONFIG": path}).server.log_format == "json"


def test_an_empty_file_sets_nothing(config_file):
    assert load_config({"config": config_file("# nothing yet\n")}, {}) == Config()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("prefix_caching", "false", False),
        ("overlap", "TRUE", True),
        ("hbm_utilization", "0.5", 0.5),
        ("drain_timeout_seconds", "3", 3.0),
        ("kv_cache_bytes", "1073741824", 1 << 30),
        ("served_model_name", "7", "7"),
    ],
)
def test_text_becomes_the_type_of_the_field(key, text, value):
    config = load_config({key: text}, {})
    section = config.engine if hasattr(config.engine, key) else config.server
    assert getattr(section, key) == value
    assert type(getattr(section, key)) is type(value)


@pytest.mark.parametrize(
    ("flags", "environment", "sentence"),
    [
        (
            {"max_num_seqs": "many"},
            {},
            "--max-num-seqs is 'many'; it must be an integer of at least 1",
        ),
        ({"max_num_seqs": "0"}, {}, "--max-num-seqs is '0'; it must be an integer of at least 1"),
        (
            {},
            {"ANTIPODE_DTYPE": "fp8"},
            "ANTIPODE_DTYPE is 'fp8'; it must be one of auto, float32, bfloat16",
        ),
        (
            {},
            {"ANTIPODE_HTTP_PORT": "tcp://10.0.0.1:8000"},
            "ANTIPODE_HTTP_PORT is 'tcp://10.0.0.1:8000'; it must be an integer from 0 to 65535",
        ),
        ({"overlap": "maybe"}, {}, "--overlap is 'maybe'; it must be true or false"),
        (
            {"hbm_utilization": "nan"},
            {},
            "--hbm-utilization is 'nan'; it must be a number from 0.01 to 1",
        ),
        (
            {"drain_timeout_seconds": "inf"},
            {},
            "--drain-timeout-seconds is 'inf'; it must be a number of at least 0",
        ),
        (
            {"http_port": "9000"},
            {},
            "http_port and grpc_port are both 9000; each needs a port of its own",
        ),
        (
            {"max_num_seqs": "64", "max_num_batched_tokens": "32"},
            {},
            "max_num_batched_tokens is 32; it must be at least max_num_seqs, 64: "
            "each running sequence takes one token per step",
        ),
        (
            {"exact": "true", "speculation": "prompt_lookup"},
            {},
            "exact is true and speculation is prompt_lookup; exact computes every token by one "
            "program, and speculation checks guesses by another: turn one of them off",
        ),
    ],
)
def test_a_wrong_value_names_its_source_and_what_is_allowed(flags, environment, sentence):
    with pytest.raises(ConfigError) as caught:
        load_config(flags, environment)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_num_seqs: true", "max_num_seqs in {path} is True; it must be an integer"),
        ("served_model_name: 7", "served_model_name in {path} is 7; it must be text"),
        ("max_num_seq: 8", "max_num_seq in {path} is not a setting; did you mean max_num_seqs?"),
        ("maxNumSeqs: 8", "maxNumSeqs in {path} is not a setting; did you mean max_num_seqs?"),
        ("42: 8", "42 in {path} is not a setting; see `antipode serve --help`"),
        ("- 8", "the configuration file {path} must hold one mapping of settings"),
        ("a: [", "the configuration file {path} is not YAML: "),
        ("max_num_seqs: 4\nexact: true\nmax_num_seqs: 8", "max_num_seqs stands twice in {path};"),
        ("[" * 20_000, "the configuration file {path} is not YAML: maximum recursion depth"),
        ("#" * ((1 << 20) + 1), "the configuration file {path} has more than 1048576 characters"),
        ("? [exact]\n: 1", "the configuration file {path} is not YAML: "),
    ],
)
def test_a_wrong_file_says_which_and_why(config_file, text, sentence):
    path = config_file(text)
    with pytest.raises(ConfigError) as caught:
        load_config({"config": path}, {})
    assert str(caught.value).startswith(sentence.format(path=path))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: .*No such file"):
        load_config({"config": str(tmp_path / "none.yaml")}, {})


def test_an_admin_port_clashes_with_another_only_if_a_token_opens_it():
    flags = {"http_port": "8001", "admin_port": "8001"}
    assert load_config(flags, {}).server.admin_port == 8001
    with pytest.raises(ConfigError, match="http_port and admin_port are both 8001"):
        load_config(flags | {"admin_token_file": "token"}, {})


def test_two_ephemeral_ports_do_not_clash():
    config = load_config({"http_port": "0", "grpc_port": "0"}, {})
    assert config.server.http_port == config.server.grpc_port == 0


def test_foreign_variables_of_the_prefix_are_ignored():
    environment = {"ANTIPODE_SERVICE_HOST": "10.0.0.1", "ANTIPODE_PORT_80_TCP_PROTO": "tcp"}
    assert load_config({}, environment) == Config()


def test_help_shows_each_default():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = " ".join(parser.format_help().split())
    assert "--max-num-seqs INT sequences that run at once on each data rank (default: 32)" in text
    assert "(default: true)" in text
    assert "--log-format text|json" in text

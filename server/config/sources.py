"""Reads the settings from flags, variables and a configuration file.

A flag beats a variable, and a variable beats the file. Refuses what is wrong in one sentence that
names its source; knows no setting by name but those that must agree with each other.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from server.config.compiler_options import read_compiler_options
from server.config.config import Config, settings
from server.config.cors_origins import read_origins
from server.config.engine_config import EngineConfig
from server.config.image_hosts import read_image_hosts
from server.config.priorities import read_priorities
from server.config.server_config import ServerConfig
from server.config.setting import ENVIRONMENT_PREFIX, ConfigError

_MAX_FILE_CHARS = 1 << 20


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and one flag per setting. A flag that is not given sets no attribute."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"YAML file of settings (variable {ENVIRONMENT_PREFIX}CONFIG)",
    )
    for setting in settings():
        parser.add_argument(
            setting.flag,
            metavar="|".join(setting.choices) or setting.type.__name__.upper(),
            default=argparse.SUPPRESS,
            help=f"{setting.description} (default: {_shown(setting.default)})".replace("%", "%%"),
        )


def _shown(default: object) -> str:
    return "empty" if default == "" else str(default).lower()


def load_config(flags: Mapping[str, str], environment: Mapping[str, str]) -> Config:
    """Merge flags, variables and the configuration file over the defaults.

    `flags` holds only the given flags, by field name. Variables with the prefix that name no
    setting are ignored, because Kubernetes adds such variables for a Service called antipode.
    Raises ConfigError for a wrong value, an unknown key, or settings that contradict each other.
    """
    path = flags.get("config", environment.get(f"{ENVIRONMENT_PREFIX}CONFIG", ""))
    file = _read_file(Path(path)) if path else {}
    sections: dict[str, dict[str, Any]] = {"engine": {}, "server": {}}
    for setting in settings():
        key = setting.key
        if key in flags:
            value = setting.parse(flags[key], setting.flag)
        elif setting.variable in environment:
            value = setting.parse(environment[setting.variable], setting.variable)
        elif key in file:
            value = setting.parse(file[key], f"{key} in {path}")
        else:
            continue
        sections[setting.section][key] = value
    config = Config(
        engine=EngineConfig(**sections["engine"]), server=ServerConfig(**sections["server"])
    )
    _check(config)
    return config


def _read_file(path: Path) -> dict[str, object]:
    text = _read_text(path)
    try:
        _check_each_key_once(text, path)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(f"the configuration file {path} is not YAML: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"the configuration file {path} must hold one mapping of settings")
    known = [setting.key for setting in settings()]
    for key in content:
        if key not in known:
            _refuse_key(str(key), path, known)
    return content


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_FILE_CHARS + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error}") from error
    if len(text) > _MAX_FILE_CHARS:
        raise ConfigError(
            f"the configuration file {path} has more than {_MAX_FILE_CHARS} characters, the most"
            " that are read"
        )
    return text


def _check_each_key_once(text: str, path: Path) -> None:
    """PyYAML keeps the last of two equal keys, so the first would be ignored without a word."""
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(document, yaml.MappingNode):
        return
    keys = [key.value for key, _ in document.value]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            raise ConfigError(f"{key} stands twice in {path}; write it once")


def _refuse_key(key: str, path: Path, known: list[str]) -> NoReturn:
    near = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
    hint = f"did you mean {near[0]}?" if near else "see `antipode serve --help`"
    raise ConfigError(f"{key} in {path} is not a setting; {hint}")


def _check(config: Config) -> None:
    engine, server = config.engine, config.server
    if 0 < engine.max_num_batched_tokens < engine.max_num_seqs:
        raise ConfigError(
            f"max_num_batched_tokens is {engine.max_num_batched_tokens}; it must be at least "
            f"max_num_seqs, {engine.max_num_seqs}: each running sequence takes one token per step"
        )
    if engine.exact and engine.speculation != "off":
        raise ConfigError(
            f"exact is true and speculation is {engine.speculation}; exact computes every token by"
            " one program, and speculation checks guesses by another: turn one of them off"
        )
    _check_ports(server)
    _check_objectives(server)
    read_origins(server.cors_origins)
    read_image_hosts(server.allowed_image_hosts)
    read_compiler_options(engine.compiler_options)


def _check_objectives(server: ServerConfig) -> None:
    try:
        read_priorities(server.objectives)
    except ValueError as error:
        raise ConfigError(f"objectives: {error}") from error


def _check_ports(server: ServerConfig) -> None:
    """Two of the server's own ports would else be refused as another process's."""
    ports = {"http_port": server.http_port, "grpc_port": server.grpc_port}
    if server.admin_token_file:
        ports |= {"admin_port": server.admin_port, "admin_grpc_port": server.admin_grpc_port}
    seen: dict[int, str] = {}
    for key, port in ports.items():
        if port and port in seen:
            raise ConfigError(
                f"{seen[port]} and {key} are both {port}; each needs a port of its own"
            )
        seen[port] = key

"""The Terraform configuration as data: every module's blocks, and what its expressions refer to.

Reads text only; knows neither Terraform's functions nor the schema of a provider.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hcl2

ROOT = Path(__file__).parents[3] / "k8s" / "terraform"

type Json = Any
# The text of each file of a configuration, by its path below ROOT.
type Texts = dict[str, str]

_REFERENCE = re.compile(r"(?<![\w.\"-])((?:data\.)?[a-z_][\w-]*(?:\.[\w-]+|\[[^\]]*\](?=\.))+)")
_KINDS = ("variable", "output", "module", "resource", "data", "locals", "check")


@dataclass(frozen=True, slots=True)
class Module:
    """The blocks of one folder, by kind and then by name; a resource's name is TYPE.NAME."""

    folder: str
    blocks: dict[str, dict[str, Json]]

    @property
    def references(self) -> set[str]:
        """What its expressions name, such as var.region or google_compute_network.this."""
        return set(_references(self.blocks))


def texts() -> Texts:
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.rglob("*.tf"))}


def modules(of: Texts) -> dict[str, Module]:
    """Each module by its folder; the root's folder is ""."""
    found: dict[str, Module] = {}
    for path, text in of.items():
        folder = str(Path(path).parent).removeprefix(".")
        module = found.setdefault(folder, Module(folder, {kind: {} for kind in _KINDS}))
        _add(_parsed(text), module.blocks)
    return found


@cache
def _parsed(text: str) -> Json:
    options = hcl2.SerializationOptions(with_comments=False, strip_string_quotes=True)
    return hcl2.loads(text, serialization_options=options)


def _add(parsed: Json, blocks: dict[str, dict[str, Json]]) -> None:
    for kind in _KINDS:
        for block in parsed.get(kind, []):
            if kind == "locals":
                blocks[kind].update({n: v for n, v in block.items() if n != "__is_block__"})
                continue
            for name, body in block.items():
                if kind in ("resource", "data"):
                    blocks[kind].update({f"{name}.{label}": one for label, one in body.items()})
                elif name != "__is_block__":
                    blocks[kind][name] = body
    # A check may have a data source of its own.
    for block in parsed.get("check", []):
        for body in block.values():
            _add(
                {"data": body["data"]} if isinstance(body, dict) and "data" in body else {}, blocks
            )


def _references(thing: Json) -> Iterator[str]:
    match thing:
        case str():
            for whole in re.findall(r"\$\{.*\}", thing, re.DOTALL):
                yield from (_name_of(found) for found in _REFERENCE.findall(whole))
        case dict():
            for key, value in thing.items():
                yield from _references(key)
                yield from _references(value)
        case list():
            for value in thing:
                yield from _references(value)


def _name_of(reference: str) -> str:
    """The part that says what is referred to: two names, three of a data source or an output."""
    parts = re.sub(r"\[[^\]]*\]", "", reference).split(".")
    return ".".join(parts[: 3 if parts[0] in ("data", "module") else 2])


def values(body: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every argument of a block by its dotted path; a dynamic block counts as what it makes."""
    for name, value in body.items():
        here = f"{path}.{name}".removeprefix(".")
        if name == "dynamic":
            for block in value:
                for label, one in block.items():
                    for content in one["content"] if label != "__is_block__" else []:
                        yield from values(content, f"{path}.{label}".removeprefix("."))
        elif isinstance(value, list) and value and _is_block(value[0]):
            for one in value:
                yield from values(one, here)
        elif name != "__is_block__":
            yield here, value


def _is_block(thing: Json) -> bool:
    return isinstance(thing, dict) and "__is_block__" in thing

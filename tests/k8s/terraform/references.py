"""Names that a Terraform configuration uses and lacks, or has and never uses.

Terraform finds most of them too, but only with the provider, which is not everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.k8s.terraform.configuration import Json, Module, Texts, modules

# Arguments of a call that are Terraform's own.
_OF_A_CALL = {"source", "version", "for_each", "count", "depends_on", "providers", "__is_block__"}
_OURS = ("var.", "local.", "data.", "google_")


def problems(of: Texts) -> list[str]:
    """A sentence for each name that is missing or left over."""
    found = modules(of)
    calls = found[""].blocks["module"]
    called = {"", *map(_folder_of, calls.values())}
    return [
        *(f"nothing calls {folder}" for folder in found.keys() - called),
        *(line for module in found.values() for line in _within(module)),
        *(line for name, call in calls.items() for line in _of_call(name, call, found)),
        *_of_outputs(found),
    ]


def _folder_of(call: Json) -> str:
    return call["source"].removeprefix("./")


def _within(module: Module) -> Iterator[str]:
    blocks, used = module.blocks, module.references
    inner = {f"var.{name}" for name in blocks["variable"]}
    inner |= {f"local.{name}" for name in blocks["locals"]}
    there = {*inner, *blocks["resource"], *(f"data.{name}" for name in blocks["data"])}
    for name in {name for name in used if name.startswith(_OURS)} - there:
        yield f"{module.folder}: {name} is not there"
    for name in inner - used:
        yield f"{module.folder}: {name} is never used"


def _of_call(name: str, call: Json, found: dict[str, Module]) -> Iterator[str]:
    variables = found[_folder_of(call)].blocks["variable"]
    given = call.keys() - _OF_A_CALL
    for argument in given - variables.keys():
        yield f"module {name} has no variable {argument}"
    for variable in variables.keys() - given:
        if "default" not in variables[variable]:
            yield f"module {name} does not get {variable}"


def _of_outputs(found: dict[str, Module]) -> Iterator[str]:
    there = {
        f"module.{name}.{output}"
        for name, call in found[""].blocks["module"].items()
        for output in found[_folder_of(call)].blocks["output"]
    }
    read = {name for name in found[""].references if name.startswith("module.")}
    # A dependency names the whole module.
    for output in {name for name in read if name.count(".") == 2} - there:
        yield f"{output} is not there"
    for output in there - read:
        yield f"{output} is never read"

"""How a fact of the Terraform configuration is written and checked. Knows no fact."""

from __future__ import annotations

from dataclasses import dataclass

from tests.k8s.terraform.configuration import Json, Module, Texts, modules, values


@dataclass(frozen=True, slots=True)
class Fact:
    """The value of an argument by its dotted `path`, and a harmful change of the file's text."""

    file: str
    resource: str
    path: str
    value: Json
    breaks: tuple[str, str]
    why: str

    def __str__(self) -> str:
        return f"{self.file}: {self.resource} {self.path}"

    def broken(self, of: Texts) -> Texts:
        """The configuration with the harmful change."""
        name = f"modules/{self.file}"
        before, after = self.breaks
        assert before in of[name], f"{name} does not have {before!r}"
        return {**of, name: of[name].replace(before, after)}


def violations(of: Texts, facts: tuple[Fact, ...]) -> list[str]:
    """A sentence for each fact that the configuration does not have."""
    found = modules(of)
    return [f"{fact}: {fact.why}" for fact in facts if not _holds(fact, found)]


def _holds(fact: Fact, found: dict[str, Module]) -> bool:
    resource = found[f"modules/{fact.file.split('/')[0]}"].blocks["resource"].get(fact.resource, {})
    return [value for path, value in values(resource) if path == fact.path] == [fact.value]

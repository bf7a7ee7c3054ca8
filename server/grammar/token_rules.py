"""Rules about tokens themselves, as grammars: which may be drawn, and in which sequences not.

Texts play no part. The rules are left-recursive, so following one takes the same time per token
however long the answer is. Knows neither vocabularies nor requests.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby

from server.link.sampling import Grammar

type _Prefix = tuple[int, ...]


def only_tokens(token_ids: Collection[int], end_token_ids: Collection[int]) -> Grammar:
    """Any text of these tokens, which ends with one of those that end an answer.

    Without one among them the text may end anywhere: end tokens must be withheld.
    """
    ends = set(token_ids) & set(end_token_ids)
    end = f" {_one_of(ends)}" if ends else ""
    return Grammar("lark", f'start: texts{end}\ntexts: "" | texts {_one_of(token_ids)}\n')


def without_sequences(sequences: Iterable[Sequence[int]]) -> Grammar:
    """Any text but one that has one of these token sequences in it.

    A rule per state: how much of a sequence the last tokens are, as Aho and Corasick's automaton.
    """
    forbidden = _shortest({tuple(sequence) for sequence in sequences})
    states = {sequence[:size] for sequence in forbidden for size in range(len(sequence))}
    names = {state: f"s{number}" for number, state in enumerate(sorted(states))}
    into: dict[_Prefix, list[str]] = {state: [] for state in states}
    for state, name in names.items():
        notable = _notable(state, forbidden, states)
        for token_id in sorted(notable):
            text = (*state, token_id)
            if not any(suffix in forbidden for suffix in _suffixes(text)):
                target = next(suffix for suffix in _suffixes(text) if suffix in states)
                into[target].append(f"{name} {_one_of([token_id])}")
        into[()].append(f"{name} {_none_of(notable)}")
    into[()].append('""')
    rules = (f"{names[state]}: {' | '.join(ways)}\n" for state, ways in into.items())
    return Grammar("lark", f"start: {' | '.join(names.values())}\n{''.join(rules)}")


def _shortest(sequences: Collection[_Prefix]) -> set[_Prefix]:
    """Those that have no other one in them: what forbids the others too."""

    def parts(text: _Prefix) -> Iterable[_Prefix]:
        return (text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1))

    return {each for each in sequences if not any(p in sequences for p in parts(each) if p != each)}


def _notable(
    state: _Prefix, forbidden: Collection[_Prefix], states: Collection[_Prefix]
) -> set[int]:
    """The tokens after which the state is another than the empty one, or which are forbidden."""
    longer = [*forbidden, *states]
    begins = set(_suffixes(state))
    return {each[-1] for each in longer if each and each[:-1] in begins}


def _suffixes(text: _Prefix) -> Iterable[_Prefix]:
    """From the longest, which is the text, to the empty one."""
    return (text[start:] for start in range(len(text) + 1))


def _one_of(token_ids: Iterable[int]) -> str:
    return f"<[{_ranges(token_ids)}]>"


def _none_of(token_ids: Iterable[int]) -> str:
    return f"<[^{_ranges(token_ids)}]>"


def _ranges(token_ids: Iterable[int]) -> str:
    runs = groupby(enumerate(sorted(set(token_ids))), key=lambda entry: entry[1] - entry[0])
    bounds = ([token_id for _, token_id in run] for _, run in runs)
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in bounds)

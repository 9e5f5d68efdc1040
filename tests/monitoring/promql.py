"""The series that a PromQL expression asks for, found in its text."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""\s+|\#[^\n]*                                         # nothing
      | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `[^`]*`      # a string
      | [A-Za-z_:][\w:]*                                     # a name
      | \d[\w.]*                                             # a number or a duration
      | =~ | !~ | != | == | >= | <= | \S""",
    re.VERBOSE,
)
_NAME = re.compile(r"[A-Za-z_:][\w:]*")
_BEFORE_LABELS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"}


@dataclass(frozen=True)
class Selector:
    """A metric's name and its matchers: label, operator and quoted value."""

    name: str
    matchers: tuple[tuple[str, str, str], ...] = ()

    def without(self, labels: set[str]) -> Selector:
        return Selector(self.name, tuple(matcher for matcher in self.matchers if matcher[0] not in labels))

    def __str__(self) -> str:
        inside = ",".join("".join(matcher) for matcher in self.matchers)
        return f"{self.name}{{{inside}}}" if inside else self.name


def selectors(expression: str) -> list[Selector]:
    """All of them, each once, in the order of the text."""
    tokens = [token for token in _TOKEN.findall(expression) if not token.isspace() and not token.startswith("#")]
    found: dict[Selector, None] = {}
    at = 0
    while at < len(tokens):
        token = tokens[at]
        following = tokens[at + 1] if at + 1 < len(tokens) else ""
        at += 1
        if token in _BEFORE_LABELS:
            if following == "(":
                at = tokens.index(")", at) + 1
        elif token == "[":
            at = tokens.index("]", at) + 1
        elif token == "{":
            raise ValueError(f"a selector without a metric's name in: {expression}")
        elif _NAME.fullmatch(token) and token.lower() not in _WORDS and following not in {"(", "by", "without"}:
            matchers: list[str] = []
            if following == "{":
                end = tokens.index("}", at)
                matchers = [inside for inside in tokens[at + 1 : end] if inside != ","]
                at = end + 1
            found[Selector(token, tuple(zip(matchers[0::3], matchers[1::3], matchers[2::3], strict=True)))] = None
    return list(found)

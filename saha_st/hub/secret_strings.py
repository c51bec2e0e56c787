"""Keys, tokens and passwords: known by their form, or by the name that something random is given under."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FORMS = {
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}\b",
    "an OpenAI or Anthropic key": r"(?<![\w-])sk-(?=[A-Za-z_-]*\d)[\w-]{20,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})\b",
    "a GitLab token": r"\bglpat-[\w-]{20,}",
    "a Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "an AWS secret key": r"(?i:secret_?(?:access_?)?key)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
    "a Google key": r"\bAIza[\w-]{35}\b",
    "a JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in a URL": r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/:@]+@",
}
_KNOWN = [(what, re.compile(pattern)) for what, pattern in _FORMS.items()]

_ASSIGNED = re.compile(
    r"""(?:(?:api|access|account|auth|private|secret)[_-]?key|secret|token|password|passwd|authorization)
    ["']?\s*[:=]\s*(?:["']\s*)?(?:bearer\s+)?
    (?P<value>[a-z0-9][\w+/-]{19,}={0,2})(?![\w.(\[])""",
    re.VERBOSE | re.IGNORECASE,
)


def secrets_in(text: str) -> Iterator[tuple[int, str]]:
    """What in a text looks like a secret: the line of the first of each kind, and the kind in words."""
    found = [(match.span(), what) for what, pattern in _KNOWN if (match := pattern.search(text))]
    for (start, _), what in found:
        yield text.count("\n", 0, start) + 1, what
    for match in _ASSIGNED.finditer(text):
        known = any(start < match.end() and match.start() < end for (start, end), _ in found)
        if is_random(match["value"]) and not known:
            yield text.count("\n", 0, match.start()) + 1, "a key or a password"
            return


def is_random(value: str) -> bool:
    """Whether a value looks drawn: cases and digits change often, as they do not in words that people write."""
    kinds = ["0" if each.isdigit() else "A" if each.isupper() else "a" for each in value if each.isalnum()]
    changes = sum(kind != following for kind, following in zip(kinds, kinds[1:], strict=False))
    return len(set(value)) >= 8 and "0" in kinds and changes >= 0.3 * len(kinds)

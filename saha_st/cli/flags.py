"""How flags are named in errors: unknown ones before those that are missing, and arguments of the API as flags."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

_UNRECOGNIZED = "unrecognized arguments:"

_ARGUMENT = re.compile(r"""(?<![\w./'"=-])(?P<name>\w+)=(?P<value>'[^']*'|<[^<>]*>|\.\.\.|[\w+-](?:[\w.+-]*\w)?)""")


class Parser(argparse.ArgumentParser):
    """Names unknown flags, and what may have been meant, where argparse only asks for those that are missing.

    What it returns has ``flags``: for each name of a flag, whether it takes a value.
    """

    _unknown: Sequence[str] = ()

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[Any, list[str]]:
        """Parse, and refuse what is left over unless the command takes it."""
        if self._subparsers is not None:  # these know the flags
            return super().parse_known_args(args, namespace)
        takes_extra = bool(self.get_default("takes_extra"))
        unknown = self._unknown_flags(sys.argv[1:] if args is None else args)
        # What goes to the stock trainer is not known here.
        self._unknown = [flag for flag in unknown if not takes_extra or self._near(flag)]
        found, extra = super().parse_known_args(args, namespace)
        if extra and not takes_extra:
            self.error(f"{_UNRECOGNIZED} {' '.join(extra)}")
        found.flags = {
            option.removeprefix("--"): action.nargs != 0
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--")
        }
        return found, extra

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong, unknown flags first, and exit."""
        if self._unknown and not message.startswith(_UNRECOGNIZED):
            message = f"{_UNRECOGNIZED} {' '.join(self._unknown)}; {message}"
        near = {flag: close for flag in self._unknown if (close := self._near(flag))}
        hints = [f" Did you mean {close} instead of {flag}?" for flag, close in near.items()]
        super().error(f"{message}{'.' if hints else ''}{''.join(hints)}")

    def _options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]

    def _unknown_flags(self, args: Sequence[str]) -> list[str]:
        """Return the flags that are neither known nor the beginning of one that is."""
        before_end = args[: args.index("--")] if "--" in args else args
        given = [arg.split("=")[0] for arg in before_end if arg.startswith("--") and " " not in arg]
        known = self._options()
        return [flag for flag in dict.fromkeys(given) if not any(each.startswith(flag) for each in known)]

    def _near(self, flag: str) -> str | None:
        return next(iter(difflib.get_close_matches(flag, self._options(), n=1, cutoff=0.7)), None)


def with_flags(message: str, flags: Mapping[str, bool]) -> str:
    """Return a message of the Python API with its arguments as flags: ``--anchor caption`` for ``anchor='caption'``.

    Args:
        message: What an error says. It stays as it is if it names flags itself, as do calls like ``f(anchor='a')``.
        flags: For each name of a flag, whether it takes a value.
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        is_in_call = re.search(r"\w\([^()]*$", message[: found.start()])
        is_constant = value in ("True", "False", "None")
        if is_in_call or name not in flags or is_constant is flags[name]:
            return found[0]
        if is_constant:
            return f"--{name}" if value == "True" else found[0]
        word = value if value[0] in "<." else shlex.quote(value.strip("'"))
        return f"--{name} {word}"

    return message if re.search(r"--\w", message) else re.sub(_ARGUMENT, flag, message)

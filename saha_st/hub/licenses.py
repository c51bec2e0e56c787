"""The licences that a card may name: the Hub refuses a card with another identifier, but only at the upload.

Source: https://huggingface.co/docs/hub/repositories-licenses.
"""

from __future__ import annotations

from difflib import get_close_matches

_IDENTIFIERS = frozenset(
    """
    apache-2.0 mit openrail openrail++ bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda
    cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 lgpl-lr isc h-research intel-research
    lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 osl-3.0 postgresql ofl-1.1 ncsa unlicense
    zlib pddl deepfloyd-if-license fair-noncommercial-research-license
    llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown other
    """.split()
)


def check_license(identifier: str) -> None:
    """Refuse what is no identifier of a licence on the Hub.

    Raises:
        ValueError: It is none; the nearest ones are named.
    """
    if identifier not in _IDENTIFIERS:
        near = get_close_matches(identifier.lower(), _IDENTIFIERS, n=3)
        meant = f"Did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(
            f"license: the Hub has no licence {identifier!r}. {meant}Its list is at "
            "https://huggingface.co/docs/hub/repositories-licenses; for one that it has only since, or of your own, "
            "write the card yourself and pass it as card (--card)."
        )

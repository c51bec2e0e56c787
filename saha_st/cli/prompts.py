"""Show what a model reads with each prompt, or find out on your own pairs which prompt finds most.

  saha-st prompts --model saha-tiny-base                                   # every preset, rendered to the letter
  saha-st prompts dev.jsonl --model org/model --sweep prompts.yaml --output_dir sweep

With PAIRS, every anchor searches among all positives of these pairs, with each prompt and with what the model comes
with ("as loaded"): give a development split, not the data that you will quote. The file of --sweep is a list of
prompts: a name, and any of system, query_suffix and document_suffix; what a prompt does not name, it does not have. A
suffix is one text, or one each for text and image:

  - {name: product, system: Name the product in one word.}
  - {name: question, query_suffix: {text: " In one word:", image: " The picture in one word:"}}

A difference is called real only if it is more than the best of as many equal prompts gets by luck, and from 30 queries
on. Presets that the model's chat template does not render are left out, and named.

Writes prompts.json and prompts.md to --output_dir, and keeps the vectors there: a sweep that was killed goes on, and
one with more prompts encodes only what is new. Results of another model or of other pairs are not written over.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saha_st.cli.options import (
    PAIRS_OPTIONS,
    add_batch_arguments,
    add_model_arguments,
    add_pairs_arguments,
    load_model,
    load_source,
    model_options,
    require_model,
)
from saha_st.evaluation.prompt_presets import AS_LOADED, PRESETS, as_python, as_yaml, choose_prompts, read_prompts

if TYPE_CHECKING:
    from saha_st.prompts import HierarchicalPrompt

NAME = "prompts"
HELP = "show what a model reads, and compare prompts on your pairs"
IF_INTERRUPTED = "Start the same command again to go on."

_RESULTS = "prompts.json"
_OTHER = {
    "fingerprint": "the model of this name had other weights, settings or another prompt",
    "rows_digest": "the pairs of this name were others, or their pictures have changed",
}
_FOR_TRAIN = ("image_tokens", "num_frames", "video_tokens", "max_seq_length", "model_kwargs")
_FOR_PYTHON = (" Pass a HierarchicalPrompt", " If it has no system turn")  # how errors of `load_embedder` go on
_NOT_FOR_A_SWEEP = "contrastive learning needs at least two pairs to tell apart"  # what `load_pairs` says


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_pairs_arguments(parser, optional=True)
    add_model_arguments(parser)
    parser.add_argument("--sweep", metavar="FILE", help="YAML or JSON list of your own prompts")
    parser.add_argument(
        "--presets", nargs="*", choices=list(PRESETS), default=list(PRESETS), help="built-in prompts to take as well"
    )
    parser.add_argument("--text", default="a red circle", help="what is rendered where there are no PAIRS")
    parser.add_argument("--output_dir", default="prompt-sweep", help="folder for results and vectors")
    add_batch_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="decides which rows --max_rows takes, and the bootstrap")


def run(args: argparse.Namespace) -> int:
    """Read the prompts, load the model, show or score."""
    own = read_prompts(args.sweep) if args.sweep else {}
    if not args.presets and not own:
        raise ValueError("--presets names none, and there is no --sweep FILE: there is nothing to compare. Name some.")
    prompts = choose_prompts(args.presets, own)
    if args.path:
        _require_folder(Path(args.output_dir))
        _require_same(Path(args.output_dir), _facts(args))
    require_model(args.model_name_or_path, args.revision)
    if not args.path:
        _show(load_model(args), prompts, args)
        return 0
    pairs = _load_pairs(args)
    _sweep(args, load_model(args), prompts, own, pairs)
    return 0


def _require_folder(folder: Path) -> None:
    """See that the folder is there or can be made, before a model is loaded."""
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"--output_dir {str(folder)!r}: {str(nearest)!r} is a file. Choose another folder.")


def _require_same(folder: Path, facts: Mapping[str, Any]) -> None:
    """See that results that are there are of the same model and pairs, so that they may be written again."""
    file = folder / _RESULTS
    if not file.exists():
        return
    try:
        found = json.loads(file.read_text(encoding="utf8"))
    except ValueError:
        found = None
    told = found if isinstance(found, dict) else {}
    for name, value in facts.items():
        if told.get(name) != value:
            there, here = json.dumps(told.get(name), ensure_ascii=False), json.dumps(value, ensure_ascii=False)
            other = _OTHER.get(name, f"{name} is {there} there and {here} here")
            raise FileExistsError(
                f"{str(file)!r} holds results of another sweep: {other}. Choose another --output_dir, or remove it."
            )


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    """The model, with the options that were given, and the pairs, as they were asked for; JSON values."""
    options = {name: getattr(args, name) for name in PAIRS_OPTIONS}
    facts = {
        "model": args.model_name_or_path,
        "model_options": model_options(args),
        "pairs": args.path,
        "pairs_options": options | {"seed": args.seed if args.max_rows else None},
    }
    return json.loads(json.dumps(facts))


def _digests(model: Any, weights: str, pairs: Any) -> dict[str, str]:
    """Names of what the model does, and of what is in the rows."""
    from hashlib import blake2b

    from saha_st.data.keys import column_keys
    from saha_st.encoding import vector_fingerprint

    rows = blake2b(digest_size=16)
    for column in ("anchor", "positive"):
        rows.update(column_keys(pairs, column).tobytes())
    # Without the versions of libraries: with newer ones, the same command may write its results again.
    return {
        "fingerprint": vector_fingerprint(model, weights=weights, versions=("", "")),
        "rows_digest": rows.hexdigest(),
    }


def _load_pairs(args: argparse.Namespace) -> Any:
    try:
        return load_source(args, seed=args.seed).dataset
    except ValueError as error:
        if _NOT_FOR_A_SWEEP not in str(error):
            raise
        needed = "a sweep needs at least two, so that a query has two positives to choose among"
        raise ValueError(str(error).replace(_NOT_FOR_A_SWEEP, needed)) from error


def _with_own(
    model: Any, prompts: Mapping[str, HierarchicalPrompt]
) -> tuple[list[str], dict[str, HierarchicalPrompt | None]]:
    """Put what the model comes with in front, unless prompts are it; return the names of those, and all prompts."""
    from saha_st.evaluation.prompt_sweep import is_own_prompt

    given = model[0].prompt
    known = given if given is not None and is_own_prompt(model, given) else None  # of an embedder of others none
    names = [name for name, prompt in prompts.items() if prompt == known]
    return names, dict(prompts) if names else {AS_LOADED: known, **prompts}


def _show(model: Any, prompts: Mapping[str, HierarchicalPrompt], args: argparse.Namespace) -> None:
    from saha_st.evaluation.prompt_rendering import renderings
    from saha_st.modules.loading import with_prompt

    as_loaded, shown = _with_own(model, prompts)
    for name, prompt in shown.items():
        print(f"# {name}{', what it has as it is loaded' if name in as_loaded else ''}")
        try:
            variant = with_prompt(model, prompt, args.model_name_or_path)
            for each in renderings(variant, args.text):
                print(f"## {each.title}, {each.tokens} tokens\n{each.text}")
        except ValueError as error:  # one that this model cannot be given; the others are still worth seeing
            print(_reason(error))
        print()
    if args.sweep:
        print(f"Nothing was scored: give PAIRS to compare the prompts of {args.sweep}, saha-st prompts PAIRS …")


def _sweep(
    args: argparse.Namespace,
    model: Any,
    prompts: Mapping[str, HierarchicalPrompt],
    own: Mapping[str, HierarchicalPrompt],
    pairs: Any,
) -> None:
    from saha_st.encoding import weights_digest
    from saha_st.evaluation.prompt_sweep import sweep_prompts
    from saha_st.files import write_text_whole

    folder, weights = Path(args.output_dir), weights_digest(model)
    facts = _facts(args) | _digests(model, weights, pairs)
    _require_same(folder, facts)
    refused = _refused(args, model, prompts, own)
    as_loaded, chosen = _with_own(model, {name: prompt for name, prompt in prompts.items() if name not in refused})
    sweep = sweep_prompts(
        pairs,
        model,
        chosen,
        cache_folder=folder / "vectors",
        weights=weights,
        batch_size=args.batch_size,
        batch_tokens=args.batch_tokens,
        seed=args.seed,
        show_progress_bar=not args.quiet,
    )
    facts |= {"rows": len(pairs), "left_out": refused} | sweep.to_dict()
    notes = [f"`{name}` is what the model comes with." for name in as_loaded]
    notes += [f"`{name}` is left out: {reason}" for name, reason in refused.items()]
    texts = {"prompts.md": _page(args, sweep, notes), _RESULTS: json.dumps(facts, indent=1, ensure_ascii=False)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text_whole(folder / name, text)
    print(f"{texts['prompts.md']}\nResults: {folder / _RESULTS}\nPage:    {folder / 'prompts.md'}")


def _refused(
    args: argparse.Namespace,
    model: Any,
    prompts: Mapping[str, HierarchicalPrompt],
    own: Mapping[str, HierarchicalPrompt],
) -> dict[str, str]:
    """Presets that the model cannot be given, by name, and why.

    Raises:
        ValueError: A user's own prompt is one of these.
    """
    from saha_st.modules.loading import with_prompt

    refused = {}
    for name, prompt in prompts.items():
        try:
            with_prompt(model, prompt, args.model_name_or_path)
        except ValueError as error:
            refused[name] = _reason(error)
            if name in own:
                raise ValueError(
                    f"{args.sweep!r}, prompt {name!r}: {refused[name]} Leave that level out of this prompt, or "
                    "correct the model's chat template."
                ) from error
    return refused


def _reason(error: ValueError) -> str:
    """What is wrong with a prompt, without what to do in Python."""
    reason = str(error).removeprefix("Input 0 of the batch: ")
    for remedy in _FOR_PYTHON:
        reason = reason.split(remedy)[0]
    return reason


def _page(args: argparse.Namespace, sweep: Any, notes: Sequence[str]) -> str:
    """The table, its notes, and how to load and train the model with the best prompt."""
    facts, best = _facts(args), sweep.best
    listed = "\n".join(f"* {note}" for note in (*sweep.notes, *notes))
    of_pairs = {name: value for name, value in facts["pairs_options"].items() if value != PAIRS_OPTIONS.get(name)}
    title = f"{facts['model']}{_in_brackets(facts['model_options'])} on {facts['pairs']}{_in_brackets(of_pairs)}"
    call = "".join(f", {name}={value!r}" for name, value in model_options(args).items())
    prompt = "" if best.prompt is None else f"prompt = {as_python(best.prompt)}\n"
    call += ", prompt=prompt" if prompt else ""
    of_run = {name: value for name, value in facts["model_options"].items() if name in _FOR_TRAIN}
    return f"""\
{title}

{sweep.to_markdown()}

{listed}

The model with `{best.name}`:

```python
from saha_st import HierarchicalPrompt, load_embedder

{prompt}model = load_embedder({args.model_name_or_path!r}{call})
```

In the config of `saha-st train`:

```yaml
{as_yaml(best.prompt, **of_run)}```
"""


def _in_brackets(options: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name}={value!r}' for name, value in options.items())})" if options else ""

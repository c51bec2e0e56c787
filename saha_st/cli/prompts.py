"""Show what a model reads with each prompt, or find out on your own pairs which prompt finds most.

  saha-st prompts --model saha-tiny-base                                   # every preset, rendered to the letter
  saha-st prompts dev.jsonl --model org/model --sweep prompts.yaml --output_dir sweep

With PAIRS, every anchor searches among all positives of these pairs, with each prompt: give a development split, not
the data that you will quote. The file of --sweep is a list of prompts: a name, and any of system, query_suffix and
document_suffix; what a prompt does not name, it does not have. A suffix is one text, or one each for text and image:

  - {name: product, system: Name the product in one word.}
  - {name: question, query_suffix: {text: " In one word:", image: " The picture in one word:"}}

Writes prompts.json and prompts.md to --output_dir, and keeps the vectors there: a sweep that was killed goes on, and
one with more prompts encodes only what is new.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saha_st.cli.options import (
    add_batch_arguments,
    add_model_arguments,
    add_pairs_arguments,
    load_model,
    load_source,
    require_model,
)
from saha_st.evaluation.prompt_presets import PRESETS, as_python, choose_prompts, read_prompts

if TYPE_CHECKING:
    from saha_st.prompts import HierarchicalPrompt

NAME = "prompts"
HELP = "show what a model reads, and compare prompts on your pairs"
IF_INTERRUPTED = "Start the same command again to go on."

_OWN = "as loaded"


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
    prompts = choose_prompts(args.presets, own)
    require_model(args.model_name_or_path, args.revision)
    source = load_source(args, seed=args.seed) if args.path else None
    model = load_model(args)
    given = model[0].prompt  # of an embedder its own, of a plain LLM the paper's
    if given is not None and given not in prompts.values():
        prompts = {_OWN: given} | prompts
    if source is None:
        _show(model, prompts, args.text)
    else:
        _sweep(args, model, prompts, source.dataset)
    return 0


def _show(model: Any, prompts: dict[str, HierarchicalPrompt], text: str) -> None:
    from saha_st.evaluation.prompt_rendering import renderings
    from saha_st.evaluation.prompt_sweep import with_prompt

    given = model[0].prompt
    for name, prompt in prompts.items():
        note = ", what it has as it is loaded" if prompt == given else ""
        print(f"# {name}{note}")
        try:
            variant = with_prompt(model, prompt, name)
        except ValueError as error:  # one that this model cannot be given; the others are still worth seeing
            print(f"{error}\n")
            continue
        for each in renderings(variant, text):
            print(f"## {each.title}, {each.tokens} tokens\n{each.text}")
        print()


def _sweep(args: argparse.Namespace, model: Any, prompts: dict[str, HierarchicalPrompt], pairs: Any) -> None:
    from saha_st.evaluation.prompt_sweep import sweep_prompts
    from saha_st.files import write_whole

    folder = Path(args.output_dir)
    sweep = sweep_prompts(
        pairs,
        model,
        prompts,
        cache_folder=folder / "vectors",
        batch_size=args.batch_size,
        batch_tokens=args.batch_tokens,
        seed=args.seed,
        show_progress_bar=not args.quiet,
    )
    texts = {"prompts.md": _page(args, sweep)}
    facts = {"model": args.model_name_or_path, "revision": args.revision, "pairs": args.path, "rows": len(pairs)}
    texts["prompts.json"] = json.dumps(facts | sweep.to_dict(), indent=1, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_whole(folder / name, lambda file, text=text: file.write(text.encode()))
    print(f"{texts['prompts.md']}\nResults: {folder / 'prompts.json'}\nPage:    {folder / 'prompts.md'}")


def _page(args: argparse.Namespace, sweep: Any) -> str:
    """The table, its notes, and how to load and train the model with the best prompt."""
    notes = "\n".join(f"* {note}" for note in sweep.notes)
    revision = f", revision={args.revision!r}" if args.revision else ""
    best = sweep.best
    return f"""\
{args.model_name_or_path} on {args.path}

{sweep.to_markdown()}

{notes}

The model with `{best.name}`:

```python
from saha_st import HierarchicalPrompt, load_embedder

prompt = {as_python(best.prompt)}
model = load_embedder({args.model_name_or_path!r}{revision}, prompt=prompt)
```

In the config of `saha-st train`:

```yaml
prompt: {json.dumps(best.prompt.to_dict(), ensure_ascii=False)}
```
"""

"""`mteb_submission`: all that mteb's leaderboards ask for, in one folder, checked before it is there.

    <output_dir>/mteb/models/model_implementations/<model>_models.py    for a pull request to mteb
    <output_dir>/mteb_mock_run_results.md                               belongs to it
    <output_dir>/results/<org>__<model>/<commit>/                       for a pull request to mteb's results
    <output_dir>/CHECKLIST.md                                           what is done, what is open, what to send first

Results are computed before a model is on the Hub, under a digest of what its vectors depend on. Here they are filed
under the commit that holds it.
"""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import mteb
import numpy as np
import torch
from mteb.mocks.mock_run import get_compatible_mock_tasks
from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_meta import ModelMeta
from mteb.results import TaskResult
from PIL import Image
from sentence_transformers import SentenceTransformer

from saha_st.card.run_folders import find_run_of
from saha_st.encoding import results_revision as results_revision_of
from saha_st.evaluation.encoder import modalities_of, model_name_of, name_of_source
from saha_st.evaluation.run import without_bars
from saha_st.evaluation.submission.mteb_meta import MetaFields, Statements, read_fields
from saha_st.evaluation.submission.mteb_module import FOLDER, check_meta, import_module, render, write_module
from saha_st.evaluation.submission.mteb_results import WholeBenchmarks, whole_benchmarks, write_results
from saha_st.modules.loading import load_embedder
from saha_st.modules.sources import resolve_model

_MOCK_RUN = "mteb_mock_run_results.md"


@dataclass(frozen=True)
class MTEBSubmission:
    """What `mteb_submission` wrote.

    Attributes:
        module: The module for mteb's repository.
        results: The folder for mteb's repository of results; `None` while the commit on the Hub is not known.
        mock_run: The report of the mock run; `None` if there was none.
        checklist: What is done and what is open, for people.
        benchmarks: Names of the benchmarks that are complete.
        left_out: Tasks whose results are not handed in, such as those of MMEB, which mteb does not have.
        open_items: What is still to be done before anything is sent, by field of the metadata or by file.
    """

    module: Path
    results: Path | None
    mock_run: Path | None
    checklist: Path
    benchmarks: tuple[str, ...]
    left_out: tuple[str, ...]
    open_items: dict[str, str]


def mteb_submission(
    model: SentenceTransformer | str | Path,
    results_dir: str | Path,
    output_dir: str | Path,
    *,
    source: str | Path | None = None,
    source_revision: str | None = None,
    benchmarks: Sequence[str] | None = None,
    model_name: str | None = None,
    hub_revision: str | None = None,
    license: str | None = None,
    release_date: str | None = None,
    reference: str | None = None,
    public_training_code: str | None = None,
    public_training_data: str | bool | None = None,
    adapted_from: str | None = None,
    languages: Sequence[str] = ("eng-Latn",),
    training_datasets: Sequence[str] | None = None,
    contacts: Sequence[str] | None = None,
    trained_on_mmeb: bool | None = None,
    results_revision: str | None = None,
    mock_run: bool = True,
) -> MTEBSubmission:
    """Write what mteb's leaderboards ask for.

    Args:
        model: The model that was evaluated, or its folder or name on the Hub.
        results_dir: The folder given to `evaluate` as `output_dir`.
        output_dir: Folder to write; must be new or empty.
        source: The folder or name on the Hub that a loaded model is from. It is loaded again as mteb will load it, and
            has to give the same vectors.
        source_revision: Branch, tag or commit of the source.
        benchmarks: Benchmarks of mteb that must be complete. Default: all that are.
        model_name: Its name on the Hub, `organisation/name`. Default: what it was loaded by.
        hub_revision: The commit on the Hub that holds it, 40 hexadecimal digits. Default: the one it was loaded from,
            where transformers tells.
        license: Of the weights: a name that mteb knows, or a URL. Default: that of the model card.
        release_date: The day it was published, `YYYY-MM-DD`.
        reference: URL of its page. Default: that on the Hub.
        public_training_code: URL of the code it was trained with.
        public_training_data: URL of the data; `True` or `False` if that is all there is to say.
        adapted_from: Its base model. Default: that of the model card.
        languages: ISO 639-3 codes with scripts.
        training_datasets: Tasks of mteb whose data it was trained on, training splits included; `()` states that there
            are none.
        contacts: GitHub handles.
        trained_on_mmeb: Whether it was trained on MMEB-train; adds the tasks that MMEB-train overlaps with. Default:
            whether the model card names that dataset.
        results_revision: The revision that the results lie under. Default: the digest that `evaluate` takes.
        mock_run: Run mteb's mock tasks through the loader of the module, minutes on a CPU.

    Raises:
        FileExistsError: `output_dir` is not empty.
        FileNotFoundError: No results of this model.
        ValueError: An argument that mteb would not take, a benchmark that is not complete, results that cannot be
            handed in, or a source that gives other vectors. Nothing is written.
    """
    stated = Statements(
        model_name=model_name,
        hub_revision=hub_revision,
        license=license,
        release_date=release_date,
        reference=reference,
        public_training_code=public_training_code,
        public_training_data=public_training_data,
        adapted_from=adapted_from,
        languages=languages,
        training_datasets=training_datasets,
        contacts=contacts,
        trained_on_mmeb=trained_on_mmeb,
    )
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"output_dir {str(output_dir)!r} exists and is not empty. Name a new folder.")
    if not isinstance(model, SentenceTransformer):
        source = resolve_model(str(model))
        model = load_embedder(source, revision=source_revision)
    name = model_name_of(model) if source is None else name_of_source(source)
    fields = read_fields(model, name, stated)
    run = find_run_of(results_dir, results_revision or results_revision_of(model), model_name=fields.name)
    found = whole_benchmarks(run, benchmarks)
    with _staged(output_dir) as stage:
        written = _write(stage, model, fields, found, source=source, revision=source_revision, mock_run=mock_run)
    return replace(
        written,
        module=output_dir / written.module,
        results=written.results and output_dir / written.results,
        mock_run=written.mock_run and output_dir / written.mock_run,
        checklist=output_dir / written.checklist,
    )


def _write(
    root: Path,
    model: SentenceTransformer,
    fields: MetaFields,
    found: WholeBenchmarks,
    *,
    source: str | Path | None,
    revision: str | None,
    mock_run: bool,
) -> MTEBSubmission:
    """Write everything; returns paths within `root`."""
    path = write_module(root, fields)
    module = import_module(path)
    meta: ModelMeta = getattr(module, fields.slug)
    check_meta(meta)
    open_items = dict(fields.open_items)
    if source is None:
        open_items["loader"] = "compare the vectors of the checkpoint, loaded by the module, with those evaluated"
    else:
        place = {"revision": revision, "device": str(model.device)}
        model = _reloaded(module.VerbatimWrapper(str(source), **place, **meta.loader_kwargs).model, model, source)
    results = write_results(found, root, meta).relative_to(root) if fields.is_on_hub else None
    if results is None:
        open_items["results"] = "not written: they are filed under name and commit on the Hub; state both"
    passed = 0
    if mock_run:
        passed, failures = _mock_run(root / _MOCK_RUN, model, module, meta)
        open_items |= failures
    else:
        open_items[_MOCK_RUN] = "belongs to the pull request: run again with the mock run, or `mteb mock-run`"
    written = MTEBSubmission(
        module=path.relative_to(root),
        results=results,
        mock_run=Path(_MOCK_RUN) if mock_run else None,
        checklist=Path("CHECKLIST.md"),
        benchmarks=found.benchmarks,
        left_out=found.left_out,
        open_items=open_items,
    )
    (root / written.checklist).write_text(_checklist(written, fields, found, passed), encoding="utf8")
    return written


def _reloaded(loaded: SentenceTransformer, model: SentenceTransformer, source: str | Path) -> SentenceTransformer:
    """Return what mteb will load, if it gives the vectors of the model that was evaluated.

    Raises:
        ValueError: It does not: something that was set when the model was loaded is not in its checkpoint.
    """
    grey = Image.linear_gradient("L")
    probes: list[dict] = [{"text": "a red circle"}, {"text": "two yellow stars left of a blue square " * 200}]
    if "image" in modalities_of(model):
        probes += [{"image": grey.resize((64, 64))}, {"image": grey.resize((1024, 768)), "text": "What is it?"}]
    half = next(model.parameters()).dtype != torch.float32
    for side, probe in itertools.product(("encode_query", "encode_document"), probes):
        try:
            wanted = getattr(model, side)([probe])
        except ValueError:
            if "image" not in probe:
                raise
            continue  # it takes no picture of this size
        found = getattr(loaded, side)([probe])
        difference = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else math.inf
        if not difference <= (0.02 if half else 1e-4):
            raise ValueError(
                f"model: {source} as mteb will load it gives other vectors than the model that was evaluated (they "
                f"differ by {difference:.2g}). What was set at loading, such as image_tokens, max_seq_length or a "
                "prompt, is not in the checkpoint: save the model with save_pretrained, evaluate and submit that."
            )
    return loaded


def _checklist(written: MTEBSubmission, fields: MetaFields, found: WholeBenchmarks, mock_passed: int) -> str:
    registered = MODEL_REGISTRY.get(fields.name)
    all_passed = mock_passed if not any(key.startswith("mock run") for key in written.open_items) else 0
    return render(
        "mteb_checklist.md.jinja",
        name=fields.name,
        modalities=fields.modalities,
        n_parameters=fields.n_parameters,
        training_datasets=fields.training_datasets,
        module=written.module.as_posix(),
        module_folder=FOLDER.as_posix(),
        results=written.results and written.results.as_posix(),
        benchmarks=written.benchmarks,
        left_out=written.left_out,
        open_items=written.open_items,
        num_results=len(found.results),
        private=found.private,
        mock_run=written.mock_run,
        mock_passed=all_passed,
        registered=registered and registered.revision,
        mteb_version=mteb.__version__,
    )


def _mock_run(
    path: Path, model: SentenceTransformer, module: ModuleType, meta: ModelMeta
) -> tuple[int, dict[str, str]]:
    """Run mteb's mock tasks through the module's loader, on the weights that are loaded; write mteb's report.

    mteb's own `all_passed` takes what failed for a missing package for a success; here every task must have a result.

    Returns:
        How many have one, and the reasons of the others.
    """
    wrapper = module.VerbatimWrapper(model, **meta.loader_kwargs)
    wrapper.mteb_model_meta = meta
    with without_bars():
        report = mteb.mock_run(wrapper)
    path.write_text(report.to_markdown() + "\n", encoding="utf8")
    names = sorted({task.metadata.name for task in get_compatible_mock_tasks(wrapper)})
    failures = {
        f"mock run, {name}": " ".join(getattr(report[name], "exception", "it did not run").split())
        for name in names
        if not isinstance(report[name], TaskResult)
    }
    return len(names) - len(failures), failures


@contextmanager
def _staged(output_dir: Path) -> Iterator[Path]:
    """Give a folder beside `output_dir` that takes its place when all went well, and is gone otherwise."""
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(dir=output_dir.parent, prefix=f".{output_dir.name}."))
    try:
        yield stage
        stage.chmod(0o755)  # mkdtemp makes it private
        if output_dir.exists():
            output_dir.rmdir()
        stage.rename(output_dir)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise

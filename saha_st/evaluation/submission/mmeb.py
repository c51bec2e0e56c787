"""The file that the MMEB leaderboard takes, made from stored results and rankings, or a refusal that says why not.

The leaderboard shows many metrics of each subset, of which `evaluate` keeps only the main one; the others follow from
the rankings beside it. Everything is checked before anything is written: that all subsets of a modality are there, of
one model and one version of the data, that every number is a score, and that the rankings give the main score of the
results. A modality of which nothing was evaluated is left out, and said to be.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from saha_st.card.run_folders import RunFolder, find_run_of
from saha_st.encoding import results_revision
from saha_st.evaluation.encoder import model_name_of, name_of_source
from saha_st.evaluation.metrics import mean_metrics
from saha_st.evaluation.rankings import Rankings, RankingsSource, rankings_file, read_rankings
from saha_st.evaluation.specs import HIT_AT_1, LABELS, TaskSpec, mmeb_specs, video_specs, visdoc_specs
from saha_st.files import write_text_whole

logger = logging.getLogger(__name__)

SPACE = "TIGER-Lab/MMEB-Leaderboard"

_NOT_EVALUATED = "DIR_N/A"  # what the leaderboard's own report has for every dataset of a modality that was not run
_MODALITIES = {"image": mmeb_specs, "video": video_specs, "visdoc": visdoc_specs}  # by the leaderboard's names
_ROUNDING = 1e-5  # mteb's files keep five digits
_LOCAL = re.compile(r"[0-9a-f]{16}")  # what `revisions` makes of local files; of the Hub it keeps the revision's name


@dataclass(frozen=True)
class _Scored:
    """What is stored of a subset."""

    spec: TaskSpec
    dataset_revision: str
    scores: Mapping[str, float]
    rankings: Rankings


def mmeb_submission(
    model: SentenceTransformer,
    results_dir: str | Path,
    output_dir: str | Path,
    *,
    model_name: str | None = None,
    revision: str | None = None,
    url: str | None = None,
    release_date: str | None = None,
    data_source: str = "Self-Reported",
    backbone: str | None = None,
    source: str | Path | None = None,
) -> Path:
    """Write `<output_dir>/scores/<model>.json` for the MMEB leaderboard.

    Args:
        model: The model that was evaluated; its sizes go into the file, and its results are looked for under the
            fingerprint of its vectors, so that those of other weights, prompts or settings are never taken for its.
        results_dir: The `output_dir` of `evaluate`, with results of all 36 subsets of images, all 18 of videos, or
            all 24 of visual documents, or of several of these modalities.
        output_dir: Where to write; an older file of that name is replaced.
        model_name: Its name on the Hub, `organisation/name`, of which the leaderboard gets the second part. Default:
            what it was loaded by.
        revision: Its revision in the results, if `evaluate` was given one. Default: the fingerprint.
        url: Where the model or its paper is. Default: its page on the Hub, if it was loaded from there.
        release_date: When the model was released, `YYYY-MM-DD`. The leaderboard shows it, and nothing else knows it.
        data_source: Who computed the scores.
        backbone: The model that it was made from. Default: the base model of its card, or the type of its config.
        source: The folder or name on the Hub that it was loaded from.

    Returns:
        The file. `mmeb_submission_steps` tells what to do with it.

    Raises:
        FileNotFoundError: There are no results of this model, or none, or no rankings, of some subsets.
        ValueError: Metadata are missing or malformed, or the results do not make a submission: they are of several
            revisions of the data or only quick looks, some are no scores, or rankings do not belong to them.
    """
    name = model_name or (model_name_of(model) if source is None else name_of_source(source))
    run = find_run_of(results_dir, revision or results_revision(model), model_name=name)
    found = _read_all(run)
    metadata = _metadata(model, name, url=url, release_date=release_date, backbone=backbone, data_source=data_source)
    metrics = {
        modality: {_key(each.spec): _metrics(each) for each in found[modality]}
        if modality in found
        else dict.fromkeys(map(_key, specs().values()), _NOT_EVALUATED)
        for modality, specs in _MODALITIES.items()
    }
    submission = {"metadata": metadata, "metrics": metrics}
    validate_mmeb_submission(submission)
    for scored in found.values():
        _warn_of_other_sizes(scored)
    file = Path(output_dir) / "scores" / f"{metadata['model_name']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(submission, indent=4, allow_nan=False) + "\n"
    write_text_whole(file, text)
    return file


def validate_mmeb_submission(submission: Mapping[str, Any]) -> None:
    """See that a submission has the form that the leaderboard expects.

    Raises:
        ImportError: jsonschema is not installed.
        ValueError: It has not; the place and what is wrong there.
    """
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match
    except ImportError as error:
        raise ImportError('A submission needs jsonschema. Run: pip install "saha-st[eval]"') from error
    error = best_match(Draft202012Validator(_schema()).iter_errors(submission))
    if error is not None:
        place = "/".join(map(str, error.absolute_path)) or "the top level"
        raise ValueError(f"The submission is malformed at {place}: {error.message}")


def mmeb_submission_steps(file: str | Path) -> str:
    """Return what is left to do with a submission, as text."""
    file = Path(file)
    return (
        f"1. Look at the metadata in {file}.\n"
        f"2. Open a pull request on the Space {SPACE} that adds it to scores/:\n"
        f"     hf upload {SPACE} {file} scores/{file.name} --repo-type space --create-pr\n"
        f"   or at https://huggingface.co/spaces/{SPACE}/tree/main: Contribute, Upload files.\n"
        "3. Comment on the pull request that it is ready for review; the maintainers merge it by hand.\n"
    )


def _metadata(
    model: SentenceTransformer, name: str, *, url: str | None, release_date: str | None, **texts: str | None
) -> dict[str, Any]:
    """Return what the leaderboard shows of the model beside its scores.

    Raises:
        ValueError: An argument that has no default here, or is malformed.
    """
    if name == "local/unnamed":
        raise ValueError("model_name: the model does not know what it is called; give its name on the Hub, org/model.")
    if url is None and name.startswith("local/"):
        raise ValueError(
            f"url: the leaderboard links to the model, and {name} has no page on the Hub; give that of the model or "
            "its paper."
        )
    if not _is_date(release_date):
        raise ValueError(f"release_date: {release_date!r} is not a day; give that of the release as 'YYYY-MM-DD'.")
    if model.max_seq_length is None:
        raise ValueError("model: it has no max_seq_length, which the leaderboard shows; set it, and evaluate again.")
    billions = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    return {
        "model_name": name.rsplit("/", 1)[-1],
        "model_backbone": texts["backbone"] or _backbone_of(model),
        "model_size": float(f"{billions:.3g}"),
        "embedding_dimension": model.get_embedding_dimension(),
        "max_length_tokens": model.max_seq_length,
        "model_release_date": release_date,
        "data_source": texts["data_source"],
        "url": url or f"https://huggingface.co/{name}",
        "report_generated_date": datetime.now().isoformat(timespec="seconds"),
    }


def _is_date(text: str | None) -> bool:
    try:
        return text is not None and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _backbone_of(model: SentenceTransformer) -> str:
    base = model.model_card_data.base_model
    if isinstance(base, str) and "/" in base:  # of a local base only the folder's name is known
        return base.rstrip("/").rsplit("/", 1)[-1]
    return getattr(getattr(model[0], "config", None), "model_type", None) or type(model[0]).__name__


def _read_all(run: RunFolder) -> dict[str, list[_Scored]]:
    """Read all subsets of every modality that was evaluated, in order.

    Returns:
        The subsets by modality, under the leaderboard's names.
    """
    wanted = {modality: list(specs().values()) for modality, specs in _MODALITIES.items()}
    begun = {name: specs for name, specs in wanted.items() if any(run.result(spec.name) for spec in specs)}
    # Of a folder without any, the images are what is missed: they are all that MMEB was for long.
    return {name: _read_modality(run, specs) for name, specs in (begun or {"image": wanted["image"]}).items()}


def _read_modality(run: RunFolder, specs: list[TaskSpec]) -> list[_Scored]:
    """Read the subsets of a modality, and refuse what does not belong together or is no score."""
    results = {spec: run.result(spec.name) for spec in specs}
    if missing := [spec for spec, result in results.items() if result is None]:
        raise FileNotFoundError(
            f"{run.results} has results of {len(specs) - len(missing)} of the {len(specs)} {specs[0].modality} "
            "subsets, and the leaderboard takes all or none. Evaluate these into the same folder, without a limit: "
            f"{_named(missing)}."
        )
    if missing := [spec for spec in specs if not rankings_file(run.rankings, spec.name).is_file()]:
        raise FileNotFoundError(
            f"{run.rankings} lacks the rankings of {_named(missing)}. Evaluate these subsets again into "
            "the same folder."
        )
    found = []
    for spec, result in results.items():
        (scores,) = result.scores["test"]
        rankings = read_rankings(rankings_file(run.rankings, spec.name))
        found.append(_Scored(spec, result.dataset_revision, scores, rankings))
    if specs[0].main_score == HIT_AT_1:  # those of other modalities are of a repository each
        _require_one_version_of_the_data(found)
    _require_scores(found)
    _require_own_rankings(found, run)
    return found


def _require_one_version_of_the_data(found: list[_Scored]) -> None:
    """Local data have a revision per subset, a digest of it; those of the Hub have one in common."""
    by_revision: dict[str, list[TaskSpec]] = {}
    for each in found:
        name = "local data" if _LOCAL.fullmatch(each.dataset_revision) else each.dataset_revision
        by_revision.setdefault(name, []).append(each.spec)
    if len(by_revision) > 1:
        *others, _ = sorted(by_revision, key=lambda name: len(by_revision[name]))
        listed = "; ".join(f"{name}: {_named(by_revision[name])}" for name in others)
        raise ValueError(
            f"The results are of {len(by_revision)} versions of MMEB's data, and a mean over them is of none. "
            f"Evaluate all subsets on one. Those that differ from most: {listed}."
        )


def _require_scores(found: list[_Scored]) -> None:
    _refuse(
        found,
        lambda each: each.scores["undefined"] > 0,
        "have similarities that are not numbers, which count as misses. Load the model in bfloat16 or float32, and "
        "evaluate that",
    )
    _refuse(
        found,
        lambda each: each.scores["all_tied"] == 1,
        "are no scores: every candidate is as similar to its query as every other. The model gives the same vector to "
        "all documents; nothing can be submitted of it",
    )


def _require_own_rankings(found: list[_Scored], run: RunFolder) -> None:
    """Rankings belong to a result if they have its model, data and number of queries, and give its score."""
    main_score = found[0].spec.main_score
    remedy = f"Delete these rankings in {run.rankings} and evaluate these subsets again into the same folder"

    def source(each: _Scored) -> RankingsSource:
        return RankingsSource(run.model_name, run.revision, each.spec.name, each.dataset_revision)

    _refuse(
        found,
        lambda each: each.rankings.source != source(each),
        f"have rankings of another model or task, or another revision of model or data, than their results. {remedy}",
    )
    _refuse(
        found,
        lambda each: len(each.rankings) != each.scores["num_queries"],
        f"have rankings of another number of queries than their results. {remedy}",
    )
    _refuse(
        found,
        lambda each: abs(_metrics(each)[LABELS[main_score]] - each.scores[main_score]) > _ROUNDING,
        f"have rankings that give another {LABELS[main_score]} than their results. {remedy}",
    )


def _refuse(found: list[_Scored], is_wrong: Callable[[_Scored], bool], reason: str) -> None:
    if wrong := [each.spec for each in found if is_wrong(each)]:
        raise ValueError(f"{_named(wrong)}: {len(wrong)} of {len(found)} subsets {reason}.")


def _key(spec: TaskSpec) -> str:
    return spec.leaderboard_name or spec.subset


def _named(specs: Iterable[TaskSpec]) -> str:
    return ", ".join(spec.subset for spec in specs)


def _metrics(scored: _Scored) -> dict[str, float | int]:
    queries = len(scored.rankings)
    return mean_metrics(scored.rankings.judged) | {"num_pred": queries, "num_data": queries}


def _warn_of_other_sizes(found: Sequence[_Scored]) -> None:
    if other := [each for each in found if len(each.rankings) != each.spec.num_queries]:
        logger.warning(
            "%d of %d subsets do not have as many queries as published results are of, so that these are scores on "
            "other data than the leaderboard's: %s",
            len(other),
            len(found),
            ", ".join(f"{each.spec.subset} ({len(each.rankings)}, not {each.spec.num_queries})" for each in other),
        )


def _schema() -> dict[str, Any]:
    return json.loads((resources.files(__package__) / "mmeb.schema.json").read_text(encoding="utf8"))

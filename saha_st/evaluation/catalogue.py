"""Benchmarks and tasks by name: ours, and every one of mteb."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mteb
from mteb.abstasks.abstask import AbsTask
from mteb.benchmarks.benchmark import Benchmark
from mteb.get_tasks import TASK_LIST

from saha_st.data.scenes import write_mini_mmeb, write_mini_mmeb_v2
from saha_st.evaluation.mmeb import as_benchmark, mini_mmeb_tasks, mmeb_benchmark
from saha_st.evaluation.mmeb_v2 import mini_mmeb_v2_tasks, mmeb_v2_benchmark
from saha_st.evaluation.specs import (
    VIDEO,
    VISDOC,
    TaskSpec,
    mini_mmeb_specs,
    mini_mmeb_v2_specs,
    mmeb_specs,
    mmeb_v2_specs,
    video_specs,
    visdoc_specs,
)
from saha_st.evaluation.sugarcrepe import (
    sugarcrepe_benchmark,
    sugarcrepe_pp_benchmark,
    sugarcrepe_pp_specs,
    sugarcrepe_specs,
)
from saha_st.ranks import Ranks

logger = logging.getLogger(__name__)

MINI_MMEB, MINI_MMEB_V2 = "mini-mmeb", "mini-mmeb-v2"


def mini_mmeb_benchmark(
    name_or_path: str | Path = MINI_MMEB, *, subsets: str | Sequence[str] | None = None, cache_dir: str | None = None
) -> Benchmark:
    """Return the generated mini-MMEB as a benchmark; it is generated first where it is not there.

    Args:
        name_or_path: The folder given to `write_mini_mmeb`.
        subsets: As `mini_mmeb_tasks`.
        cache_dir: As `mini_mmeb_tasks`.
    """
    folder = Path(name_or_path)
    with Ranks.current().first():
        if not (folder / "MMEB-eval").is_dir():
            logger.info("Generating mini-MMEB in %s", folder)
            write_mini_mmeb(folder)
    return as_benchmark(MINI_MMEB, mini_mmeb_tasks(folder, subsets, cache_dir=cache_dir))


def mini_mmeb_v2_benchmark(
    name_or_path: str | Path = MINI_MMEB_V2,
    *,
    subsets: str | Sequence[str] | None = None,
    cache_dir: str | None = None,
) -> Benchmark:
    """Return the generated mini-MMEB-V2 as a benchmark; it is generated first where it is not there.

    Args:
        name_or_path: The folder given to `write_mini_mmeb_v2`.
        subsets: As `mini_mmeb_v2_tasks`.
        cache_dir: As `mini_mmeb_v2_tasks`.
    """
    folder = Path(name_or_path)
    with Ranks.current().first():
        if not (folder / "video-tasks").is_dir():
            logger.info("Generating mini-MMEB-V2 in %s", folder)
            write_mini_mmeb_v2(folder)
    description = "Generated videos of moving shapes, and generated pages: MMEB-V2 in small."
    return as_benchmark(
        MINI_MMEB_V2, mini_mmeb_v2_tasks(folder, subsets, cache_dir=cache_dir), description=description
    )


@dataclass(frozen=True)
class _Own:
    """A benchmark that mteb does not have.

    Args:
        make: Returns it; takes the options of `find_benchmark` that apply.
        tasks: By name of a task, the options with which it is the only one.
        why_no_place: Why its data have neither a revision nor another place of images, if so.
    """

    make: Callable[..., Benchmark]
    tasks: Mapping[str, Mapping[str, str]]
    why_no_place: str | None = None


def _by_subset(specs: Iterable[TaskSpec]) -> dict[str, dict[str, str]]:
    return {spec.name: {"subsets": spec.subset} for spec in specs}


_V2_PLACE = "comes from many repositories, or from one folder that has its images too; say with data_dir where."

BENCHMARKS = {
    "MMEB(v1)": _Own(mmeb_benchmark, _by_subset(mmeb_specs().values())),
    "MMEB(v2)": _Own(mmeb_v2_benchmark, _by_subset(mmeb_v2_specs().values()), _V2_PLACE),
    "MMEB(v2, video)": _Own(
        partial(mmeb_v2_benchmark, name="MMEB(v2, video)", modalities=[VIDEO]),
        _by_subset(video_specs().values()),
        _V2_PLACE,
    ),
    "MMEB(v2, visdoc)": _Own(
        partial(mmeb_v2_benchmark, name="MMEB(v2, visdoc)", modalities=[VISDOC]),
        _by_subset(visdoc_specs().values()),
        _V2_PLACE,
    ),
    MINI_MMEB: _Own(
        mini_mmeb_benchmark, _by_subset(mini_mmeb_specs().values()), "is generated; say with data_dir where."
    ),
    MINI_MMEB_V2: _Own(
        mini_mmeb_v2_benchmark, _by_subset(mini_mmeb_v2_specs().values()), "is generated; say with data_dir where."
    ),
    "SugarCrepe(v1)": _Own(sugarcrepe_benchmark, _by_subset(sugarcrepe_specs())),
    "SugarCrepe++": _Own(
        sugarcrepe_pp_benchmark,
        {spec.name: {"subsets": spec.subset, "meta_tasks": spec.meta_task} for spec in sugarcrepe_pp_specs()},
    ),
}
"""The benchmarks of ours. mteb's own task "SugarCrepe" pools the subsets, and uses no prompt of the paper."""


def find_benchmark(
    names: str | Sequence[str],
    *,
    data_dir: str | Path | None = None,
    image_root: str | Path | None = None,
    data_revision: str | None = None,
    cache_dir: str | None = None,
) -> Benchmark:
    """Return a benchmark by its name, or the tasks of several names as one; nothing is downloaded.

    Args:
        names: Names of benchmarks or tasks, of ours or of mteb.
        data_dir: Local data of a benchmark of ours, instead of those of the Hub; generated ones are written there.
        image_root: Folder that its image paths are relative to.
        data_revision: Branch, tag or commit of its dataset on the Hub.
        cache_dir: Folder for its downloads and unpacked images. Default: that of datasets.

    Raises:
        ValueError: An unknown name, with those that come close; no name; or a place of data for tasks of mteb, which
            know where theirs are, or for several benchmarks at once.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise ValueError(f"benchmark: no name is given. Ours are {list(BENCHMARKS)}; mteb has many more.")
    options = {"data_dir": data_dir, "image_root": image_root, "data_revision": data_revision, "cache_dir": cache_dir}
    given = {name: value for name, value in options.items() if value is not None}
    homes = {_home(name) for name in wanted}
    if given and (len(homes) > 1 or None in homes):
        raise ValueError(
            f"{', '.join(given)}: says where the data of one benchmark of ours are ({list(BENCHMARKS)}), but "
            f"{wanted} names others. Leave it out, or evaluate them one by one."
        )
    found = [_find(name, home, given) for name in wanted for home in [_home(name)]]
    if len(found) == 1:
        return found[0]
    tasks: dict[str, AbsTask] = {}
    for task in (task for each in found for task in each.tasks):
        same = tasks.setdefault(task.metadata.name, task)
        if (same.hf_subsets, same.eval_splits) != (task.hf_subsets, task.eval_splits):
            raise ValueError(
                f"benchmark: {wanted} have {task.metadata.name} with other subsets or splits each. Evaluate them one "
                "by one."
            )
    return Benchmark(name=", ".join(wanted), tasks=list(tasks.values()))


def _home(name: str) -> str | None:
    """Return the benchmark of ours that a name stands for, or that has a task of this name; `None` for mteb's.

    Raises:
        ValueError: A name of neither.
    """
    home = next((home for home, own in BENCHMARKS.items() if name == home or name in own.tasks), None)
    if home is None and name not in (known := _names_in_mteb()):
        ours = [each for home, own in BENCHMARKS.items() for each in (home, *own.tasks)]
        raise ValueError(_unknown(name, ours, known))
    return home


def _names_in_mteb() -> list[str]:
    benchmarks = [label for each in mteb.get_benchmarks() for label in (each.name, *each.aliases)]
    return benchmarks + [task.metadata.name for task in TASK_LIST]


def _find(name: str, home: str | None, options: dict[str, Any]) -> Benchmark:
    if home is None:
        is_task = any(task.metadata.name == name for task in TASK_LIST)
        return Benchmark(name=name, tasks=[mteb.get_task(name)]) if is_task else mteb.get_benchmark(name)
    own = BENCHMARKS[home]
    if own.why_no_place is not None and (unfit := set(options) & {"image_root", "data_revision"}):
        raise ValueError(f"{', '.join(sorted(unfit))}: {home} {own.why_no_place}")
    given = {_ARGUMENT.get(key, key): value for key, value in options.items()}
    benchmark = own.make(**given, **({} if name == home else own.tasks[name]))
    return benchmark if name == home else replace(benchmark, name=name)


_ARGUMENT = {"data_dir": "name_or_path", "data_revision": "revision"}


def _unknown(name: str, ours: Sequence[str], in_mteb: Sequence[str]) -> str:
    """Say what may have been meant. mteb has so many names that ours are listed by themselves as well."""
    close = close_names(name, [*ours, *in_mteb])
    own = [each for each in close_names(name, ours) if each not in (*close, *BENCHMARKS)]
    hints = [f"Did you mean {' or '.join(map(repr, close))}?"] if close else []
    hints += [f"Tasks of ours that come close are {own}."] if own else []
    hints += [f"Benchmarks of ours are {list(BENCHMARKS)}."]
    return f"benchmark: there is no benchmark or task {name!r}. {' '.join(hints)}"


def close_names(name: str, known: Sequence[str]) -> list[str]:
    """Return up to three names that come close: those that begin alike, then those spelled alike, in any case."""
    spelled = {each.lower(): each for each in known}
    close = [each for each in spelled if each.startswith(name.lower())]
    close += difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)
    return [spelled[each] for each in dict.fromkeys(close)][:3]

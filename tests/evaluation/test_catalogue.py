"""Names lead to tasks: ours, mteb's, or a hint at what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from saha_st.data.scenes import write_mini_mmeb
from saha_st.evaluation import BENCHMARKS, find_benchmark
from saha_st.evaluation.catalogue import _unknown


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("MMEB(v1)", 36),
        ("MMEB(v2)", 78),
        ("MMEB(v2, video)", 18),
        ("MMEB(v2, visdoc)", 24),
        ("SugarCrepe(v1)", 7),
        ("SugarCrepe++", 10),
        ("MIEB(lite)", 51),
        ("ViDoRe(v2)", 4),
    ],
)
def test_benchmarks_of_ours_and_of_mteb(name: str, count: int, tmp_path: Path):
    # The rows of SugarCrepe++ on the Hub come without images.
    benchmark = find_benchmark(name, image_root=tmp_path if name == "SugarCrepe++" else None)
    assert benchmark.name == name and len(benchmark.tasks) == count


def test_an_alias_of_mteb_finds_its_benchmark():
    assert find_benchmark("VisualDocumentRetrieval").name == "ViDoRe(v1&v2)"


def test_tasks_by_name_and_several_names_as_one():
    assert [task.metadata.name for task in find_benchmark("MMEB_OK-VQA").tasks] == ["MMEB_OK-VQA"]
    assert [type(task).__module__ for task in find_benchmark("SugarCrepe").tasks][0].startswith("mteb.")
    both = find_benchmark(["STS12", "MMEB_CIRR", "SugarCrepe_swap_obj"])
    assert [task.metadata.name for task in both.tasks] == ["STS12", "MMEB_CIRR", "SugarCrepe_swap_obj"]
    assert both.name == "STS12, MMEB_CIRR, SugarCrepe_swap_obj"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("MMEB", "MMEB(v1)"),
        ("MIEB", "MIEB(eng)"),
        ("sugarcrepe++", "SugarCrepe++"),
        ("vidore(v2)", "ViDoRe(v2)"),
        ("MMEB_OKVQA", "MMEB_OK-VQA"),
        ("STSBenchmrk", "STSBenchmark"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_come_close(wrong: str, meant: str):
    with pytest.raises(ValueError, match="no benchmark or task") as caught:
        find_benchmark(wrong)
    assert repr(wrong) in str(caught.value) and "Did you mean" in str(caught.value)
    assert repr(meant) in str(caught.value)
    assert "Benchmarks of ours are ['MMEB(v1)'" in str(caught.value)


def test_tasks_of_ours_are_named_beside_those_of_mteb_that_come_nearer():
    message = _unknown("CIRR", ["mini-mmeb", "MMEB_CIRR"], ["CIRRa", "CIRRb", "CIRRc"])
    assert "mean 'CIRRa' or 'CIRRb' or 'CIRRc'? Tasks of ours that come close are ['MMEB_CIRR']. Benchm" in message


def test_nothing_like_it_lists_ours():
    with pytest.raises(ValueError, match="Benchmarks of ours are .*mini-mmeb"):
        find_benchmark("qqqqqqqqqqqqqqqqqqqq")
    with pytest.raises(ValueError, match="no name is given"):
        find_benchmark([])


def test_local_data_reach_the_tasks_and_are_refused_where_they_belong_to_none(mmeb: Path, tmp_path: Path):
    (task,) = find_benchmark("MMEB_CIRR", data_dir=mmeb).tasks
    assert task.metadata.dataset["path"] == str(mmeb)
    task.load_data()
    assert len(task.dataset["default"]["test"]["queries"]) == 20
    with pytest.raises(ValueError, match="data_dir: .*'STS12'"):
        find_benchmark("STS12", data_dir=mmeb)
    with pytest.raises(ValueError, match="image_root: .*one by one"):
        find_benchmark(["MMEB(v1)", "SugarCrepe(v1)"], image_root=mmeb)
    with pytest.raises(ValueError, match="image_root: mini-mmeb is generated"):
        find_benchmark("mini-mmeb", data_dir=tmp_path / "new", image_root=mmeb)
    assert not (tmp_path / "new").exists()


def test_mini_mmeb_is_generated_where_it_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[Path] = []

    def write(root: Path) -> Path:
        made.append(root)
        return write_mini_mmeb(root, train_rows=1, eval_rows=2, candidates=4, subsets=["Digits", "Scenes_t2i"])

    monkeypatch.setattr("saha_st.evaluation.catalogue.write_mini_mmeb", write)
    for _ in range(2):
        benchmark = find_benchmark("mini-mmeb", data_dir=tmp_path / "mini")
        assert [task.spec.subset for task in benchmark.tasks] == ["Digits", "Scenes_t2i"]
    assert made == [tmp_path / "mini"]


def test_the_names_of_tasks_are_those_of_the_benchmark(tmp_path: Path):
    for name, own in BENCHMARKS.items():
        if name not in ("mini-mmeb", "mini-mmeb-v2"):  # these are generated first
            benchmark = find_benchmark(name, image_root=tmp_path if name == "SugarCrepe++" else None)
            assert [task.metadata.name for task in benchmark.tasks] == list(own.tasks)


def test_the_text_only_task_of_sugarcrepe_pp_needs_no_images():
    (task,) = find_benchmark("SugarCrepePP_swap_obj_TOT").tasks
    assert task.metadata.modalities == ["text"]
    with pytest.raises(ValueError, match="image_root"):
        find_benchmark("SugarCrepePP_swap_obj_ITT")


def test_tasks_of_several_benchmarks_are_taken_once_each_and_refused_where_they_differ():
    lite, english = find_benchmark("MIEB(lite)").tasks, find_benchmark("MIEB(eng)").tasks
    shared = {task.metadata.name for task in lite} & {task.metadata.name for task in english}
    assert shared
    names = [task.metadata.name for task in find_benchmark(["CIFAR10", "CIFAR10", "STS12"]).tasks]
    assert names == ["CIFAR10", "STS12"]
    with pytest.raises(ValueError, match="with other subsets or splits.*one by one"):
        find_benchmark(["MTEB(eng, v2)", "MTEB(Multilingual, v2)"])


def test_a_folder_without_some_of_the_subsets_is_refused_at_once(mmeb: Path):
    with pytest.raises(ValueError, match="has no data of ImageNet-1K, N24News, .*it has .*'CIRR'"):
        find_benchmark("MMEB(v1)", data_dir=mmeb)

"""The commands: what they say of themselves, what they refuse, and that each does its job on real files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from saha_st.cli import COMMANDS, build_parser, main
from saha_st.cli.encode import _check_room_for_ids
from saha_st.cli.flags import with_flags
from saha_st.cli.options import require_model
from saha_st.cli.train import parse_training_arguments
from saha_st.encoding import read_vectors


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("more/b.png", "blue")):
        Image.new("RGB", (32, 32), colour).save(folder / name)
    return folder


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps({"anchor": f"query {i}", "positive": f"document {i}"}) for i in range(12)))
    return path


def test_help_and_import_need_no_torch():
    code = (
        "import sys, saha_st, saha_st.cli\n"
        "try: saha_st.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'datasets', 'numpy', 'mteb'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "quickstart" in finished.stdout


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 2
    assert "quickstart" in capsys.readouterr().out


BEFORE_TORCH = """
import os, sys
from saha_st.cli import main
for line in open(sys.argv[1]):
    try:
        status = main(line.split())
    except SystemExit as stopped:
        status = stopped.code
    heavy = {"torch", "sentence_transformers", "mteb"} & set(sys.modules)
    assert status == 2 and not heavy, (line, status, heavy)
"""


def test_what_can_be_known_at_once_is_refused_before_torch_is_imported(pairs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mining").mkdir()
    (tmp_path / "run.yaml").write_text(f"model: saha-tiny\noutput_dir: {tmp_path / 'run'}\ndata: {{path: {pairs}}}\n")
    commands = (
        "train --config missing.yaml",
        "train --config mini-mmeb --model ./missing",
        f"train --config {tmp_path / 'run.yaml'}",
        "mine missing.parquet --model saha-tiny --output_dir mined",
        f"mine {pairs} --model ./missing --output_dir mined",
        f"mine {pairs} --model saha-tiny --output_dir mined --num_negatives 0",
        f"mine {pairs} --model saha-tiny --output_dir mined --batch_size 0",
        f"mine {pairs} --model saha-tiny --output_dir mined --report missing/report.html",
        f"mine {pairs} --model saha-tiny --output_dir mined --report report.html --truth_column missing",
        "encode missing.txt --model saha-tiny --output vectors.parquet",
        "evaluate saha-tyny --benchmark mini-mmeb",
        "evaluate saha-tiny --benchmark mini-mmeb --compare_with ./missing",
        "evaluate saha-tiny --benchmark mini-mmeb --limit 0",
        f"quickstart --output_dir {tmp_path}",
        "quickstart --output_dir new --model ./missing",
    )
    (tmp_path / "commands.txt").write_text("\n".join(commands))
    command = [sys.executable, "-c", BEFORE_TORCH, str(tmp_path / "commands.txt")]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("error: ") == len(commands) and not (tmp_path / "mined").exists()


@pytest.mark.parametrize("command", [command.NAME for command in COMMANDS])
def test_every_command_explains_itself_with_defaults(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "usage: saha-st" in text and ("(default: " in text or command in ("train", "submission", "data"))


def test_each_action_on_data_has_a_help_of_its_own(capsys):
    shown = {}
    for action in ("check", "generate"):
        with pytest.raises(SystemExit) as stopped:
            main(["data", action, "--help"])
        assert stopped.value.code == 0
        shown[action] = capsys.readouterr().out
    assert "--limit" in shown["check"] and "(default: 10)" in shown["check"]
    assert "--limit" not in shown["generate"] and "mini-mmeb-v2" in shown["generate"]
    assert all("--quiet" in text and "--traceback" in text for text in shown.values())


@pytest.mark.parametrize("board", ["mteb", "mmeb"])
def test_each_leaderboard_explains_itself_with_defaults(board, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["submission", board, "--help"])
    assert stopped.value.code == 0 and "(default: " in capsys.readouterr().out


def test_every_public_name_resolves():
    import saha_st

    assert len(saha_st.__all__) > 10
    for name in saha_st.__all__:
        assert getattr(saha_st, name).__name__ in (name, "Transformer")  # our module goes by the stock class's name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = saha_st.nothing


def test_encode_a_folder_of_pictures_to_safetensors(tiny_mllm, embedder, pictures, tmp_path, capsys):
    output = tmp_path / "out" / "vectors.safetensors"
    assert main(["encode", str(pictures), "--model", str(tiny_mllm), "--output", str(output), "--quiet"]) == 0
    with safe_open(output, framework="numpy") as file:
        vectors, metadata = file.get_tensor("embeddings"), file.metadata()
    assert json.loads(metadata["ids"]) == ["a.png", "more/b.png"]
    assert metadata["task"] == "document" and len(metadata["fingerprint"]) == 32
    expected = embedder.encode_document([Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert "Wrote 2 vectors of 32 dimensions" in capsys.readouterr().out


def test_encode_lines_of_text_to_parquet(tiny_mllm, embedder, tmp_path):
    (tmp_path / "texts.txt").write_text("first\n\nthird\n")
    arguments = ["--model", str(tiny_mllm), "--output", str(tmp_path / "v.parquet"), "--task", "query", "--quiet"]
    assert main(["encode", str(tmp_path / "texts.txt"), *arguments]) == 0
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column("id").to_pylist() == ["1", "3"]
    np.testing.assert_allclose(
        table.column("embedding").to_pylist(), embedder.encode_query(["first", "third"]), atol=1e-6
    )


def test_encode_to_the_first_dimensions(tiny_mllm, pictures, tmp_path):
    for name, options in (("whole", []), ("cut", ["--truncate_dim", "8"])):
        output = tmp_path / f"{name}.safetensors"
        assert main(["encode", str(pictures), "--model", str(tiny_mllm), "--output", str(output), *options]) == 0
    whole, cut = (read_vectors(tmp_path / f"{name}.safetensors") for name in ("whole", "cut"))
    assert cut.embeddings.shape == (2, 8) and cut.origin.options == {"truncate_dim": 8}
    np.testing.assert_allclose(cut.embeddings, whole.embeddings[:, :8], atol=1e-6)
    assert cut.origin.fingerprint != whole.origin.fingerprint


def test_encode_rows_with_image_and_text(tiny_mllm, embedder, pictures, tmp_path):
    rows = [{"id": "x", "image": "a.png", "text": "one"}, {"id": "y", "image": "more/b.png", "text": "two"}]
    (pictures / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--model", str(tiny_mllm), "--output", str(tmp_path / "v.parquet"), "--quiet"]
    assert main(["encode", str(pictures / "rows.jsonl"), *arguments]) == 0
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column("id").to_pylist() == ["x", "y"]
    cells = [{"image": Image.new("RGB", (32, 32), c), "text": t} for c, t in (("red", "one"), ("blue", "two"))]
    np.testing.assert_allclose(table.column("embedding").to_pylist(), embedder.encode_document(cells), atol=1e-6)


def test_ids_that_do_not_fit_into_safetensors_are_refused_before_encoding():
    _check_room_for_ids(Path("a.parquet"), ["x" * 10**6] * 100)
    with pytest.raises(ValueError, match=r"ids of 100 inputs .* Write \.parquet"):
        _check_room_for_ids(Path("a.safetensors"), ["x" * 10**6] * 100)


def test_mine_writes_clusters_beside_their_statistics_and_not_over_them(tiny_mllm, pairs, tmp_path, capsys):
    command = ["mine", str(pairs), "--model", str(tiny_mllm), "--output_dir", str(tmp_path / "mined"), "--quiet"]
    assert main([*command, "--num_negatives", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 12
    table = pq.read_table(tmp_path / "mined" / "clusters.parquet")
    assert table.column_names == ["row", "cluster", "anchor", "positive"] and len(table) >= 11
    assert main([*command, "--num_negatives", "3"]) == 2
    assert "holds a mining result already" in capsys.readouterr().err


def test_train_takes_any_training_argument(tiny_mllm, pairs, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {tiny_mllm}\noutput_dir: {tmp_path / 'run'}\ndata: {{path: {pairs}}}\n"
        "mining: {num_negatives: 2}\nadapter: {r: 2}\ntraining: {max_steps: 50}\n"
    )
    extra = ["--max_steps", "1", "--per_device_train_batch_size=6", "--learning_rate", "1e-3", "--use_cpu"]
    assert main(["train", "--config", str(config), "--quiet", *extra]) == 0
    assert str(tmp_path / "run" / "final") in capsys.readouterr().out
    stored = json.loads((tmp_path / "run" / "run_config.json").read_text())["training"]
    assert stored == {"max_steps": 1, "per_device_train_batch_size": 6, "learning_rate": 1e-3, "use_cpu": True}


@pytest.mark.slow
def test_a_quiet_training_shows_no_bar_and_warns_once_for_all_datasets(tiny_mllm, pairs, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {tiny_mllm}\noutput_dir: {tmp_path / 'run'}\nmining: {{num_negatives: 2}}\nadapter: null\n"
        f"data: [{{path: {pairs}}}, {{path: {pairs}, name: again}}]\n"
        "training: {max_steps: 2, logging_steps: 1, per_device_train_batch_size: 9, use_cpu: true}\n"
    )
    command = [sys.executable, "-m", "saha_st.cli", "train", "--config", str(config), "--quiet"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [f"Trained. Load it with SentenceTransformer('{tmp_path / 'run'}/final')."]
    (warning,) = finished.stderr.splitlines()
    assert "rows of pairs" in warning and "rows of again" in warning and "per_device_train_batch_size=" in warning


def test_training_arguments_are_read_with_the_types_of_the_stock_trainer():
    words = "--learning_rate 1e-5 --bf16 --report_to=tensorboard --eval-steps 7 --save_strategy no --run_name 007"
    expected = {"learning_rate": 1e-5, "bf16": True, "eval_steps": 7, "run_name": "007"}
    values = parse_training_arguments(words.split())
    assert {key: values[key] for key in expected} == expected
    assert values["save_strategy"] == "no" and "tensorboard" in values["report_to"] and len(values) == 6
    assert parse_training_arguments([]) == {}
    for wrong, message in ((["stray"], "stray: not an argument"), (["--learning_rat", "1"], "--learning_rat")):
        with pytest.raises(ValueError, match=message):
            parse_training_arguments(wrong)
    with pytest.raises(ValueError, match="--max_steps"):
        parse_training_arguments(["--max_steps", "many"])


def test_data_check_lists_problems_and_says_so_by_its_status(pairs, tmp_path, capsys):
    assert main(["data", "check", str(pairs), "--quiet"]) == 0
    assert "No problems found" in capsys.readouterr().out
    rows = [{"anchor_image": "missing.png", "positive": "x"}, {"anchor_image": "missing.png", "positive": "y"}]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["data", "check", str(tmp_path / "bad.jsonl"), "--quiet"]) == 1
    assert "missing.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["encode", "{pictures}", "--model", "{model}", "--output", "v.txt"], "--output must end in"),
        (["encode", "nowhere", "--model", "{model}", "--output", "v.parquet"], "nowhere"),
        (["encode", "{pictures}", "--model", "{pictures}", "--output", "v.parquet"], "not a model checkpoint"),
        (
            ["encode", "{pictures}", "--model", "{model}", "--output", "v.parquet", "--truncate_dim", "64"],
            " has 32 dimensions.",
        ),
        (["train", "--config", "nothing"], "neither a file nor a recipe; recipes: mini-mmeb, qwen2-vl-2b-mmeb"),
        (["quickstart", "--output_dir", "{pictures}"], "not empty"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_2(tiny_mllm, pictures, command, message, capsys):
    filled = [part.format(model=tiny_mllm, pictures=pictures) for part in command]
    assert main(filled) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_an_unknown_flag_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["encode", "x", "--model", "m", "--output", "o.parquet", "--colour", "red"])
    assert "unrecognized arguments: --colour red" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["encode", "x", "--modle", "m"], ("--modle; the following arguments are required: --model", "mean --model ")),
        (["train", "--confg", "c", "--bf16"], ("--confg; the following arguments are required", "mean --config ")),
        (["submission", "mmeb", "m", "--release=r"], ("mmeb: error: the following",)),  # an abbreviation
        (["data", "check", "x", "--modle", "m"], ("unrecognized arguments: --modle m.", "mean --model ")),
        (["quickstart", "--colour", "red"], ("unrecognized arguments: --colour red\n",)),
    ],
)
def test_unknown_flags_are_named_before_missing_ones_with_what_was_meant(command, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(command)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and all(part in error for part in said), error


def test_an_error_of_the_api_names_flags():
    flags = {"anchor": True, "image_root": True, "max_rows": True, "resume": False}
    for message, said in (
        ("Say anchor='caption', positive='x'.", "Say --anchor caption, positive='x'."),
        ("pass image_root=<the folder>, or max_rows=3.", "pass --image_root <the folder>, or --max_rows 3."),
        ("anchor='my caption'; resume=True.", "--anchor 'my caption'; --resume."),
        ("set resume=True (--resume)", "set resume=True (--resume)"),
        ("f(x, anchor='a') resume=False data/anchor=x", "f(x, anchor='a') resume=False data/anchor=x"),
        ("anchor={'image': 'a'} my_anchor='a' anchor == 1", "anchor={'image': 'a'} my_anchor='a' anchor == 1"),
    ):
        assert with_flags(message, flags) == said


def test_a_command_names_columns_by_flags_and_how_to_list_bad_rows(tmp_path, capsys):
    (tmp_path / "pairs.jsonl").write_text('{"caption": "a", "photo": "x.png"}\n{"caption": "b", "photo": "y.png"}\n')
    command = ["mine", str(tmp_path / "pairs.jsonl"), "--model", "saha-tiny", "--output_dir", str(tmp_path / "mined")]
    assert main(command) == 2
    assert "Say which column holds what: --anchor caption, --positive photo" in capsys.readouterr().err
    (tmp_path / "bad.jsonl").write_text(
        '{"a": "a", "positive_image": "x.png"}\n{"a": "b", "positive_image": "y.png"}\n'
    )
    assert main(["mine", str(tmp_path / "bad.jsonl"), "--anchor", "a", *command[2:]]) == 2
    error = capsys.readouterr().err
    assert "Row 0, column 'positive_image'" in error and "pass --image_root <the folder" in error
    how = f"saha-st data check {tmp_path / 'bad.jsonl'} --anchor a"
    assert error.endswith(f" To list all such rows: {how}\n")
    assert main([*how.split()[1:], "--quiet"]) == 1
    listed = capsys.readouterr().out
    assert "x.png" in listed and "y.png" in listed


def test_folders_that_come_near_one_that_is_not_there_are_named(tmp_path, monkeypatch):
    def asked(*args, **options):
        raise AssertionError("the Hub is asked")

    (tmp_path / "outputs" / "my-model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("saha_st.data.hub.commit_of", asked)
    wrong = ["./outputs/my-modle", "outputs/my-modle/final", str(tmp_path / "outputs/my-modle")]
    for name in wrong:
        with pytest.raises(ValueError, match=r"There is no model folder .* come near: '.*outputs/my-model'\."):
            require_model(name)
    monkeypatch.setattr("saha_st.data.hub.commit_of", lambda *args, **options: "0" * 40)
    require_model("org/model")
    monkeypatch.setattr("saha_st.data.hub.commit_of", lambda *args, **options: None)
    for name, near in (("output", "outputs"), ("outputs/my-modle", "outputs/my-model")):  # may be on the Hub
        with pytest.raises(OSError, match=f"is no folder here.* come near: '{near}'"):
            require_model(name)


def test_the_quickstart_says_at_its_start_how_long_it_takes(tmp_path, monkeypatch):
    said = []

    def stop(line):
        said.append(line)
        raise KeyboardInterrupt

    monkeypatch.setattr("saha_st.cli.quickstart._print_now", stop)
    assert main(["quickstart", "--output_dir", str(tmp_path / "run")]) == 130
    assert "about 5 minutes" in said[0]


def test_the_parser_knows_its_commands():
    assert build_parser().parse_args(["quickstart"]).output_dir == "quickstart-run"


def test_the_generated_data_are_written_by_a_command_that_an_error_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--config", "mini-mmeb", "--max_steps", "1", "--output_dir"]
    assert main([*command, "run"]) == 2
    assert "`saha-st data generate mini-mmeb` writes mini-mmeb/mini-MMEB-train" in capsys.readouterr().err
    assert main(["data", "generate", "mini-mmeb"]) == 0
    assert main(["data", "check", "mini-mmeb/mini-MMEB-train", "--format", "mmeb", "--subset", "Digits"]) in (0, 1)
    assert main([*command, "other", "--learning_rate=-1"]) == 2
    assert "training.learning_rate must be above 0, got -1.0" in capsys.readouterr().err


def test_a_device_that_is_not_here_is_refused_in_a_line(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (name,) = {"cuda:77"} if torch.cuda.is_available() else {"cuda"}
    assert (
        main(
            [
                "encode",
                str(tmp_path),
                "--model",
                "saha-tiny",
                "--output",
                str(tmp_path / "x.parquet"),
                "--device",
                name,
            ]
        )
        == 2
    )
    assert f"--device {name}: there is no such device here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "saha_st", "data", "check", "--help"]
    shown = [sys.executable, "-m", "saha_st", "prompts", "--model", "saha-tiny-base", "--quiet"]
    for each, status in ((command, 0), (shown, 141)):  # 141: what shells say of a process that SIGPIPE ended
        process = subprocess.Popen(each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.close()
        assert process.wait(timeout=300) == status, process.stderr.read()
        assert "Broken pipe" not in process.stderr.read()

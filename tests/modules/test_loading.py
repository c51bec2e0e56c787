"""`load_embedder`, and the sentence that must stay true: plain Sentence Transformers gives the same vectors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import RepoUrl
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from saha_st.modules import HierarchicalPromptTransformer, load_embedder
from saha_st.modules.image_tokens import count_image_tokens, get_image_tokens
from saha_st.prompts import HierarchicalPrompt

PLAIN_LOAD = """
import json, sys
sys.modules["saha_st"] = None  # whoever imports it gets an ImportError
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer

folder, image = sys.argv[1], Image.open(sys.argv[2])
model = SentenceTransformer(folder, device="cpu")
mine = {"role": "system", "content": [{"type": "text", "text": "Mine."}]}
system = lambda content: [mine, {"role": "user", "content": content}]
text, picture = {"type": "text", "text": "stars"}, {"type": "image", "image": image}
inputs = ["stars", {"image": image}, {"image": image, "text": "stars"}, image, "a text that is too long " * 60]
messages = [system([text]), system([picture]), system([picture, text])]
vectors = {}
for task in ("encode", "encode_query", "encode_document"):
    for prompt in (None, "Name it."):
        encode, options = getattr(model, task), {"prompt": prompt} if prompt else {}
        vectors[f"{task}/{prompt}"] = np.concatenate([encode(inputs, **options), encode(messages, **options)])
np.savez(sys.argv[3], **vectors)
"""


def run_table(model, image) -> dict[str, np.ndarray]:
    """All inputs in one batch; plain Sentence Transformers loses the pictures of messages beside other inputs."""

    def system(content):
        return [
            {"role": "system", "content": [{"type": "text", "text": "Mine."}]},
            {"role": "user", "content": content},
        ]

    text, picture = {"type": "text", "text": "stars"}, {"type": "image", "image": image}
    inputs = ["stars", {"image": image}, {"image": image, "text": "stars"}, image, "a text that is too long " * 60]
    inputs += [system([text]), system([picture]), system([picture, text])]
    return {
        f"{task}/{prompt}": getattr(model, task)(inputs, **({"prompt": prompt} if prompt else {}))
        for task in ("encode", "encode_query", "encode_document")
        for prompt in (None, "Name it.")
    }


def test_plain_sentence_transformers_without_this_package_gives_the_same_vectors(tiny_mllm, image, tmp_path):
    model = load_embedder(str(tiny_mllm), device="cpu", image_tokens=(4, 64), max_seq_length=192)
    model.save_pretrained(str(tmp_path / "model"))
    image.save(tmp_path / "image.png")
    command = [sys.executable, "-c", PLAIN_LOAD, *(str(tmp_path / name) for name in ("model", "image.png", "out.npz"))]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    plain, ours = np.load(tmp_path / "out.npz"), run_table(model, image)
    assert set(plain) == set(ours) and len(ours) == 6
    for cell, vectors in ours.items():
        np.testing.assert_allclose(plain[cell], vectors, atol=1e-5, err_msg=cell)
        assert np.ptp(vectors, axis=0).max() > 0.01  # the rows differ, so equality means something


def test_what_push_to_hub_uploads_are_stock_modules(embedder, tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    uploaded = tmp_path / "uploaded"
    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, repo_id, **kwargs: RepoUrl(f"https://huggingface.co/{repo_id}")
    )

    def upload(self, folder_path, **kwargs):
        shutil.copytree(folder_path, uploaded)
        return SimpleNamespace(commit_url="https://huggingface.co/org/saha/commit/1")

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    embedder.push_to_hub("org/saha")
    types = [module["type"] for module in json.loads((uploaded / "modules.json").read_text())]
    assert len(types) == 3 and all(name.startswith("sentence_transformers.") for name in types)
    plain = SentenceTransformer(str(uploaded), device="cpu")
    np.testing.assert_allclose(plain.encode_query(["stars"]), embedder.encode_query(["stars"]), atol=1e-5)


def test_a_plain_llm_becomes_last_token_pooling_with_the_papers_prompt(embedder):
    assert type(embedder[0]) is HierarchicalPromptTransformer
    assert isinstance(embedder[1], Pooling) and embedder[1].pooling_mode == "lasttoken"
    assert isinstance(embedder[2], Normalize)
    assert embedder[0].prompt == HierarchicalPrompt()
    assert embedder[0].unpad_inputs is False


def test_a_saved_checkpoint_keeps_its_prompt_and_settings(tiny_mllm, image, tmp_path):
    prompt = HierarchicalPrompt(system="Name the product.", query_suffix=None, document_suffix="\nIn a word.")
    model = load_embedder(str(tiny_mllm), prompt=prompt, image_tokens=(4, 6), max_seq_length=99, device="cpu")
    model.save_pretrained(str(tmp_path))
    again = load_embedder(str(tmp_path), device="cpu")
    assert again[0].prompt == prompt
    assert again[0].max_seq_length == 99
    assert get_image_tokens(again[0].processor) == (4, 6)
    assert count_image_tokens(again[0].processor, image) <= 6
    np.testing.assert_array_equal(again.encode_document([image]), model.encode_document([image]))
    other = load_embedder(str(tmp_path), prompt=HierarchicalPrompt(), device="cpu")
    assert other[0].prompt == HierarchicalPrompt()


@pytest.mark.parametrize("bounds", [(0, 4), (8, 4), (4,), "4", (1.5, 4)])
def test_malformed_image_tokens_are_refused(tiny_mllm, bounds):
    with pytest.raises(ValueError, match="image_tokens"):
        load_embedder(str(tiny_mllm), image_tokens=bounds, device="cpu")


def test_a_processor_that_does_not_obey_is_found_out(embedder):
    from saha_st.modules.image_tokens import set_image_tokens

    class Stubborn(type(embedder[0].processor.image_processor)):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs, size={"shortest_edge": 2**8, "longest_edge": 2**16})

    embedder[0].processor.image_processor.__class__ = Stubborn
    with pytest.raises(ValueError, match="does not obey"):
        set_image_tokens(embedder[0].processor, (2, 9))


@pytest.fixture
def checkpoint(tiny_mllm, tmp_path):
    return shutil.copytree(tiny_mllm, tmp_path / "checkpoint")


def test_a_model_without_chat_template_is_refused(checkpoint):
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template"):
        load_embedder(str(checkpoint), device="cpu")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{% if m.role != 'system' %}{{ m.content[0].text }}{% endif %}{% endfor %}", "drops"),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}", "no system"),
    ],
)
def test_a_template_that_loses_the_prompt_is_refused(checkpoint, template, message):
    (checkpoint / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=message):
        load_embedder(str(checkpoint), device="cpu")


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"not a model checkpoint.*notes\.txt"):
        load_embedder(str(tmp_path))
    with pytest.raises(ValueError, match="no model folder"):
        load_embedder(str(tmp_path / "missing"))


def test_a_text_only_model_refuses_images_and_takes_text(tiny_mllm, image, tmp_path):
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_mllm)
    tokenizer.chat_template = (tiny_mllm / "chat_template.jinja").read_text()
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = Qwen2Config(vocab_size=len(tokenizer), num_attention_heads=2, num_key_value_heads=1, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("processor_class")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    model = load_embedder(str(tmp_path), device="cpu")
    assert model.encode_query(["stars"]).shape == (1, 32)
    with pytest.raises(ValueError, match="'image' is not supported"):
        model.encode([image])
    with pytest.raises(ValueError, match="'image', but this model takes only text"):
        model.encode(["stars", image])


def test_an_embedder_of_another_kind_keeps_its_own_pooling(tiny_mllm, tmp_path):
    stock = Transformer(str(tiny_mllm))
    SentenceTransformer(modules=[stock, Pooling(32, "cls")], device="cpu").save_pretrained(str(tmp_path))
    model = load_embedder(str(tmp_path), device="cpu")
    assert model[1].pooling_mode == "cls"
    assert model[0].prompt is None
    config = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert config["pooling_mode"] == "cls"


def test_a_name_that_is_nowhere_is_named_with_what_may_have_been_meant(tmp_path):
    with pytest.raises(OSError, match="The model 'saha-tyny' is no folder here.*Did you mean 'saha-tiny'"):
        load_embedder("saha-tyny")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OSError) as caught:
        load_embedder(str(tmp_path))
    assert "no folder here" not in str(caught.value)

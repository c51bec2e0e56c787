"""Secrets are found by form and by name; what models hold under such names is none."""

from __future__ import annotations

import pytest

from saha_st.hub.secret_strings import is_random, secrets_in

RANDOM = "q7Rk2ZxP0vLm9TbW4sYd"
HEX = "c4f1a09be27d5836f0a4d19be37c2508"


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a Hugging Face token", "token: hf_" + "a1B2" * 9),
        ("a Hugging Face token", "api_org_" + "a1B2" * 9),
        ("an OpenAI or Anthropic key", "key=sk-proj-" + "x7" * 20),
        ("an OpenAI or Anthropic key", "sk-ant-api03-" + RANDOM),
        ("a GitHub token", "ghp_" + "Z9" * 18),
        ("a GitHub token", "github_pat_" + "Z9" * 18),
        ("a GitLab token", "glpat-" + RANDOM),
        ("a Slack token", "xoxb-123456789012-" + RANDOM),
        ("an AWS key", "AKIA" + "ABCDEFGH12345678"),
        ("an AWS secret key", "aws_secret_access_key = " + "wJalr/XUtnFEMI+K7MDENG" + "bPxRfiCYabcdefghij"),
        ("an AWS secret key", '"SecretAccessKey": "' + "wJalr/XUtnFEMI+K7MDENG" + 'bPxRfiCYabcdefghij"'),
        ("a Google key", "AIza" + "b" * 35),
        ("a JSON web token", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4"),
        ("a private key", "-----BEGIN RSA PRIVATE KEY-----"),
        ("a private key", "-----BEGIN PRIVATE KEY-----"),
        ("a password in a URL", "https://somebody:secret@example.org/data"),
        ("a key or a password", f"api_key: {RANDOM}"),
        ("a key or a password", f'"token": "{RANDOM}"'),
        ("a key or a password", f'"wandb_api_key":"{HEX}"'),
        ("a key or a password", f"DB_PASSWORD={RANDOM}"),
        ("a key or a password", f"clientSecret: '{RANDOM}'"),
        ("a key or a password", f"Authorization: Bearer {RANDOM}"),
    ],
)
def test_a_secret_is_found_once_with_its_line(what, text):
    assert list(secrets_in(f"fine\nfine\n{text}\n")) == [(3, what)]


@pytest.mark.parametrize(
    "text",
    [
        '"eos_token": "<|im_end|>", "pad_token": "[PAD]", "unk_token": "<unk>"',
        '"eos_token": "<｜end▁of▁sentence｜>", "mask_token": "<extra_id_99>"',
        '"image_token": "<|reserved_special_token_0123456789_aBcD|>"',
        '"image_token_id": 151655, "token_type_ids": [0], "type_vocab_size": 2',
        '"tokenizer_class": "Qwen2VL7BTokenizerFast2"',
        '"eos_token": "end_of_the_turn_of_the_assistant"',
        '"use_auth_token": null, "token": false',
        "revision: 1a2b3c4d5e6f7a8b9c0d1a2b3c4d5e6f7a8b9c0d",
        "last_token = model(**inputs).last_hidden_state[0, -1]",
        "token = Qwen2VL7BTokenizerFast2.from_pretrained(name)",
        'token="YOUR_HUGGING_FACE_TOKEN_HERE"',
        "api_key: xxxxxxxxxxxxxxxxxxxxxxxx00000000",
        'client = OpenAI(api_key="EMPTY", base_url="http://localhost:8000/v1")',
        'token="hf_..." or "hf_xxx"; OPENAI_API_KEY=sk-...',
        "multilingual-cs-sk-pl-2024-parallel-sentences, sk-learn-contrib-estimators-and-more",
        "Secret: the password is a word, the token another",
        "http://localhost:8000/v1 and mail@example.org",
    ],
)
def test_what_only_looks_like_a_secret_is_left_alone(text):
    assert not list(secrets_in(text))


@pytest.mark.parametrize("value", [RANDOM, HEX, "dGhpcyBpcyBh/IHNlY3JldA+x1=="])
def test_what_is_drawn_is_random(value):
    assert is_random(value)


@pytest.mark.parametrize(
    "value", ["convert_tokens_to_ids", "aB" * 20, "a1" * 20, "AnotherNameWithoutAnyDigits", "version-2-of-my-tokens"]
)
def test_what_is_written_is_not_random(value):
    assert not is_random(value)

"""The repository on the Hub: who may write to it, what an upload would change there, and the one commit that does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

_OWN = re.compile(
    r"""
    (model|pytorch_model|adapter_model)[^/]*\.(safetensors|bin)(\.index\.json)?
    | (config|generation_config|adapter_config|modules|config_sentence_transformers|sentence_\w+_config)\.json
    | (\w*processor_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json
    | (vocab|merges)\.txt | (tokenizer|spiece|sentencepiece\.bpe)\.model | chat_template\.jinja
    | (\d+_[A-Za-z]+ | additional_chat_templates | parity | adapter)/.+
    | recipe\.yaml | mining\.json | assets/mining\.png | README\.md
    | results/(reports/)?[^/]+\.json | \.eval_results/[^/]+\.yaml
    """,
    re.VERBOSE,
)
"""What a loader or a card reads, by its place: of an earlier version, it must not stay beside this one's."""

_CONVERTED = re.compile(r"(onnx|openvino)/.+|.+\.(onnx|gguf)")
"""Weights that were made of these, for other engines."""


class Changes(NamedTuple):
    """What an upload changes beside what it adds.

    Attributes:
        deleted: Files that go.
        kept: Files of others.
        parent: The commit that this was seen in; None if there is no repository, or none that may be seen.
    """

    deleted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    parent: str | None = None

    @property
    def outdated(self) -> tuple[str, ...]:
        """What of the kept files holds earlier weights, for other engines."""
        return tuple(name for name in self.kept if _CONVERTED.fullmatch(name))


@dataclass(frozen=True)
class Repository:
    """A repository for a model, and how to write to it.

    Args:
        repo_id: ``"organisation/name"``.
        token: Token for the Hub; by default the one of ``hf auth login``.
        private: Make it private.
        revision: Branch to write to.
        create_pr: Open a pull request instead.

    Raises:
        ValueError: A name that the Hub does not take.
    """

    repo_id: str
    token: str | None = None
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            reason = str(error).replace("repo_id", "the name").rstrip(".")
            raise ValueError(f"repo_id must be 'organisation/name', got {self.repo_id!r}: {reason}.") from error
        if self.repo_id.count("/") != 1:
            raise ValueError(f"repo_id must be 'organisation/name', got {self.repo_id!r}.")

    @property
    def _api(self) -> HfApi:
        return HfApi(token=self.token)

    def check_access(self) -> None:
        """See that the token may do what an upload will do, before the long work.

        Raises:
            OSError: Not logged in, not allowed, or the Hub cannot be reached.
            ValueError: The repository is public and is to be private, or there is nothing to open a pull request on.
        """
        try:
            account = self._api.whoami()
            if self._api.repo_exists(self.repo_id):
                self._check_existing()
            elif self.create_pr:
                raise ValueError(f"create_pr: there is no repository {self.repo_id!r} to open a pull request on.")
            else:
                _check_may_create(account, self.repo_id)
        except LocalTokenNotFoundError as error:
            raise OSError("Not logged in to the Hub. Run `hf auth login`, or set HF_TOKEN.") from error
        except OfflineModeIsEnabled as error:
            raise OSError("The Hub cannot be reached: HF_HUB_OFFLINE is set. Unset it, or try --dry-run.") from error
        except HfHubHTTPError as error:
            raise OSError(
                f"The Hub does not let you write to {self.repo_id!r} ({_first_line(error)}). Log in with "
                "`hf auth login`, or set HF_TOKEN to a token that may write there."
            ) from error
        except HTTPError as error:
            raise OSError(f"The Hub cannot be reached ({_first_line(error)}).") from error

    def _check_existing(self) -> None:
        if not self.create_pr:  # which anybody may open who can read
            self._api.auth_check(self.repo_id, write=True)
        try:
            info = self._api.model_info(self.repo_id, revision=self.revision if self.create_pr else None)
        except RevisionNotFoundError as error:
            raise ValueError(
                f"revision: {self.repo_id!r} has no {self.revision!r} to open a pull request on."
            ) from error
        if self.private and not info.private:
            raise ValueError(
                f"private: the repository {self.repo_id!r} exists and is public. Make it private in its settings "
                "first, or choose another name."
            )

    def changes(self, files: Iterable[str]) -> Changes:
        """Look up what an upload of these files would change.

        Raises:
            OSError: The repository cannot be read.
        """
        try:
            info = self._look_up()
        except (HTTPError, OfflineModeIsEnabled) as error:
            reason = _first_line(error)
            raise OSError(f"What is on the Hub in {self.repo_id} could not be looked up ({reason}).") from error
        if info is None:
            return Changes()
        others = sorted({each.rfilename for each in info.siblings or ()} - {".gitattributes", *files})
        deleted = tuple(name for name in others if _OWN.fullmatch(name))
        return Changes(deleted, tuple(name for name in others if name not in deleted), info.sha)

    def _look_up(self) -> ModelInfo | None:
        for revision in dict.fromkeys((self.revision, None)):  # a new branch begins as main
            try:
                return self._api.model_info(self.repo_id, revision=revision)
            except RevisionNotFoundError:
                continue
            except RepositoryNotFoundError:
                break
        return None

    def upload(self, folder: Path, files: Iterable[str], changes: Changes, *, message: str) -> tuple[str, str]:
        """Upload a folder as one commit.

        Args:
            folder: The folder.
            files: The files in it.
            changes: What else the commit changes; if somebody has committed since, nothing is.
            message: Message of the commit.

        Returns:
            Where to see the commit, and its hash.

        Raises:
            OSError: The Hub refuses, or the connection broke.
            ValueError: The Hub does not take the card.
        """
        api = self._api
        target = {"revision": self.revision, "create_pr": self.create_pr, "parent_commit": changes.parent}
        try:
            if not self.create_pr:
                api.create_repo(self.repo_id, private=self.private, exist_ok=True)
                if self.revision is not None:
                    api.create_branch(self.repo_id, branch=self.revision, exist_ok=True)
            # Not `upload_folder`, which may make several commits of a folder (huggingface_hub 2, with xet).
            operations = [
                *(CommitOperationDelete(name) for name in changes.deleted),
                *(CommitOperationAdd(name, folder / name) for name in files),
            ]
            commit = api.create_commit(self.repo_id, operations, commit_message=message, **target)
        except (HTTPError, OSError, RuntimeError) as error:  # the last is hf_xet's
            answered = [each for each in (error, error.__cause__) if isinstance(each, HfHubHTTPError)]
            was_refused = any(400 <= each.response.status_code < 500 for each in answered)
            reason = _first_line(answered[0] if answered else error)
            raise OSError(
                f"The upload to {self.repo_id!r} was {'refused' if was_refused else 'interrupted'} "
                f"({reason}). A commit is made whole or not at all: "
                f"{'when that is mended' if was_refused else 'to go on'}, run the same command again."
            ) from error
        return str(commit.pr_url or commit.commit_url), commit.oid


def _check_may_create(account: dict[str, Any], repo_id: str) -> None:
    owner = repo_id.split("/")[0]
    owners = [account["name"], *(organisation["name"] for organisation in account.get("orgs", ()))]
    is_reader = account.get("auth", {}).get("accessToken", {}).get("role") == "read"
    if is_reader or owner not in owners:
        what = "only reads" if is_reader else f"writes to {', '.join(owners)} at most"
        raise OSError(
            f"The token of {account['name']!r} {what}, so it may not create {repo_id!r}. Log in with `hf auth login`, "
            "or choose another name."
        )


def _first_line(error: Exception) -> str:
    said = getattr(error, "server_message", None) or str(error)
    return (said.strip().splitlines() or [type(error).__name__])[0]

"""Which commit on the Hub is meant: asked once, so that all that is loaded later is of the same."""

from __future__ import annotations

import os


def hub_cache(cache_dir: str | None) -> str | None:
    """Return the folder for files of the Hub below a folder for downloads; `None` is the Hub's own default."""
    return None if cache_dir is None else os.path.join(cache_dir, "hub")


def commit_of(
    repo_id: str, revision: str | None = None, *, repo_type: str = "dataset", cache_dir: str | None = None
) -> str | None:
    """Return the commit that a branch, a tag or the default branch stands for now.

    Args:
        repo_id: The repository, `owner/name`.
        revision: Branch, tag or commit.
        repo_type: "dataset" or "model".
        cache_dir: Folder for downloads.

    Returns:
        40 hexadecimal digits, or `None` if the Hub cannot be reached and nothing of the repository is in the cache.

    Raises:
        RepositoryNotFoundError, RevisionNotFoundError: The Hub has no such repository or revision.
    """
    from huggingface_hub import resolve_revision
    from huggingface_hub.errors import RevisionResolutionError

    try:
        found = resolve_revision(repo_id, repo_type=repo_type, revision=revision, cache_dir=hub_cache(cache_dir))
    except RevisionResolutionError:
        return None
    return found.resolved  # as a string it is what was asked for

"""Find the columns that make up the anchors and the positives, and put cells together from them.

A column that already is what it should be is passed through as it is stored. Others are converted once, in Arrow, and
kept in the datasets cache; images stay paths or encoded bytes on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Image, List, Value, concatenate_datasets

from saha_st.data.cells import (
    CELL_FEATURE,
    VIDEO_CELL_FEATURE,
    cell_kind,
    cells_from_parts,
    is_stored_image,
    is_string,
)
from saha_st.data.image_files import join_root

Columns = str | Mapping[str, str]
"""How a user names a side of the pair: a column, or the columns of its parts "image", "video" and "text"."""

_PARTS = ("image", "video", "text")
_RULES = 2  # part of the key under which datasets caches converted rows: raise it whenever a rule here changes


@dataclass(frozen=True)
class Role:
    """The columns of one side of the pair.

    Args:
        whole: A column of structs, which are the cells; or else
        image: the column of their images,
        video: the column of their videos, and
        text: the column of their texts.
        has_paths: Whether the images and videos are paths that somebody wrote, relative to the file they stand in,
            rather than images that datasets stored.
        video_feature: How videos are kept: as paths or as frames; `None` if there are none.
        labels: The names behind a text column of class labels.
    """

    whole: str | None = None
    image: str | None = None
    video: str | None = None
    text: str | None = None
    has_paths: bool = False
    video_feature: Any = None
    labels: tuple[str, ...] | None = None

    @property
    def columns(self) -> list[str]:
        """The columns there are."""
        return [name for name in (self.whole, self.image, self.video, self.text) if name is not None]

    @property
    def image_columns(self) -> list[str]:
        """The columns that hold images, and whole cells."""
        return [name for name in (self.whole, self.image) if name is not None]

    @property
    def video_columns(self) -> list[str]:
        """The columns that hold videos alone."""
        return [] if self.video is None else [self.video]

    @property
    def feature(self) -> Any:
        """The feature of the cells."""
        if self.video_feature is not None:
            return VIDEO_CELL_FEATURE | {"video": self.video_feature}
        if self.whole is not None or len(self.columns) == 2:
            return CELL_FEATURE
        return Value("string") if self.image is None else Image()


def find_role(role: str, given: Columns, features: Features, source: str) -> Role:
    """Find the columns of one side of the pair; `load_pairs` states the rules.

    Args:
        role: "anchor" or "positive".
        given: What the user calls it.
        features: The features of the rows.
        source: What to call the rows in an error.

    Raises:
        ValueError: A column is missing, ambiguous, or neither text nor image nor video.
    """
    if isinstance(given, Mapping):
        parts = dict(given)
        if not parts or not set(parts) <= set(_PARTS):
            raise ValueError(
                f"{role}: parts are 'image', 'video' and 'text', as in {{'image': 'photo'}}; received {parts}."
            )
    else:
        parts = {part: name for part in _PARTS if (name := f"{given}_{part}") in features}
        if given in features:
            return _with_companions(role, given, parts, features, source)
    if missing := [name for name in parts.values() if name not in features] or ([] if parts else [given]):
        raise ValueError(f"{role}: {source} has no column {missing[0]!r}. {_how_to_map(features)}")
    return _from_parts(role, parts, features, source)


def assemble(
    table: Dataset, roles: Mapping[str, Role], *, keep: Sequence[str], path_root: Path, image_root: Path | None
) -> Dataset:
    """Put the columns of all roles together.

    Args:
        table: The rows as they are stored.
        roles: The new columns, in order.
        keep: Further columns to keep as they are.
        path_root: What paths are relative to that somebody wrote.
        image_root: What paths are relative to that datasets stored; `None` leaves them alone.
    """
    passed = {role.columns[0]: name for name, role in roles.items() if _is_ready(role, table.features, image_root)}
    built = {name: role for name, role in roles.items() if name not in passed.values()}
    pieces = []
    if passed or keep:
        piece = table.select_columns([*passed, *keep]).rename_columns(passed)
        for name in passed.values():
            if piece.features[name] != roles[name].feature:
                piece = piece.cast_column(name, roles[name].feature)
        pieces.append(piece)
    if built:
        options = {"roles": built, "path_root": str(path_root), "image_root": image_root and str(image_root)}
        piece = table.with_format("arrow").map(
            _build,
            batched=True,
            fn_kwargs=options | {"rules": _RULES},
            remove_columns=table.column_names,
            features=Features({name: role.feature for name, role in built.items()}),
            desc="Reading pairs",
        )
        pieces.append(piece.with_format(None))
    dataset = pieces[0] if len(pieces) == 1 else concatenate_datasets(pieces, axis=1)
    return in_order(dataset, [*roles, *keep])


def in_order(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    """Select columns in this order, in the features too, which datasets leaves in the order that they had."""
    dataset = dataset.select_columns(list(columns))
    dataset.info.features = Features({name: dataset.features[name] for name in columns})
    return dataset


def _with_companions(role: str, name: str, parts: dict[str, str], features: Features, source: str) -> Role:
    """Return the role of a column that is there, with the column of its other part beside it, if that is there."""
    kind = _kind(features[name])
    if kind is None:
        _refuse(role, name, features, source)
    if kind == "both" and not parts:
        cell = features[name]
        written = [is_string(cell.get("image")), "video" in cell and _holds_written_paths(cell["video"])]
        return Role(whole=name, has_paths=any(written), video_feature=_video_feature(cell.get("video")))
    if kind == "both" or kind in parts:
        taken = ", ".join(map(repr, [name, *parts.values()]))
        raise ValueError(f"{role}: {source} has {taken}; say which is meant, as {role}={{'image': …, 'text': …}}.")
    return _from_parts(role, parts | {kind: name}, features, source)


def _from_parts(role: str, parts: Mapping[str, str], features: Features, source: str) -> Role:
    image, video, text = (parts.get(part) for part in _PARTS)
    if text is not None and _kind(features[text]) != "text":
        _refuse(role, text, features, source)
    if image is not None and not _is_image_like(features[image]):
        _refuse(role, image, features, source)
    if video is not None and _video_feature(features[video]) is None:
        _refuse(role, video, features, source)
    label = features[text] if text is not None else None
    written = [image is not None and is_string(features[image])]
    written += [video is not None and _holds_written_paths(features[video])]
    return Role(
        image=image,
        video=video,
        text=text,
        has_paths=any(written),
        video_feature=None if video is None else _video_feature(features[video]),
        labels=tuple(label.names) if isinstance(label, ClassLabel) else None,
    )


def _refuse(role: str, name: str, features: Features, source: str) -> None:
    raise ValueError(
        f"{role}: the column {name!r} of {source} is {_describe(features[name])}, here neither text nor image. Text "
        "is a string or a class label; images are an Image column, a column <name>_image of paths or bytes, or the "
        "part 'image' of a struct with 'image' and 'text'; videos are a column <name>_video or the part 'video', of "
        "paths or lists of frames; several positives of an anchor are several rows."
    )


def _how_to_map(features: Features) -> str:
    columns = ", ".join(f"{name} ({_describe(feature)})" for name, feature in features.items())
    return (
        f"It has: {columns}. Say which column holds what: anchor='caption', positive='photo', or, for the parts of a "
        "cell, positive={'image': 'photo', 'text': 'title'}."
    )


def _describe(feature: Any) -> str:
    if isinstance(feature, Value):
        return feature.dtype
    if isinstance(feature, Mapping):
        return "image" if is_stored_image(feature) else f"struct of {', '.join(feature)}"
    return type(feature).__name__


def _kind(feature: Any) -> Literal["text", "image", "both"] | None:
    """Return what a column holds by its feature alone; a string is text."""
    if is_string(feature) or isinstance(feature, ClassLabel):
        return "text"
    if isinstance(feature, Image) or is_stored_image(feature):
        return "image"
    if isinstance(feature, Mapping) and feature and set(feature) <= set(_PARTS):
        if "video" in feature and _video_feature(feature["video"]) is None:
            return None
        if _is_image_like(feature.get("image", Image())) and is_string(feature.get("text", Value("string"))):
            return "both"
    return None


def _video_feature(feature: Any) -> Any:
    """Return how videos of a column are kept: as paths or as frames; `None` if it holds no videos."""
    if is_string(feature):
        return Value("string")
    is_frames = isinstance(feature, List) and _is_image_like(feature.feature)
    return List(Image()) if is_frames else None


def _holds_written_paths(feature: Any) -> bool:
    return is_string(feature) or (isinstance(feature, List) and is_string(feature.feature))


def _is_image_like(feature: Any) -> bool:
    """Tell whether a column that is said to hold images can: images, paths or bytes."""
    binary = isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")
    return isinstance(feature, Image) or is_stored_image(feature) or is_string(feature) or binary


def _is_ready(role: Role, features: Features, image_root: Path | None) -> bool:
    """Tell whether a role is one column that can be passed through as it is stored."""
    feature = features[role.columns[0]]
    has_media = bool(role.image_columns or role.video_columns)
    if len(role.columns) > 1 or role.labels is not None or (image_root is not None and has_media):
        return False
    if role.video_feature is not None and is_string(role.video_feature):  # a path may have to be made absolute
        return False
    parts = list(role.feature) if isinstance(role.feature, Mapping) else None
    media_first = not isinstance(feature, Mapping) or list(feature) == parts
    return media_first and cell_kind(feature) == cell_kind(role.feature)


def _build(
    batch: pa.Table, *, roles: Mapping[str, Role], path_root: str, image_root: str | None, rules: int = _RULES
) -> pa.Table:
    columns = {}
    for name, role in roles.items():
        images, videos, texts = _parts(batch, role)
        root = path_root if role.has_paths else image_root
        if images is not None:
            images = _stored_images(images, root)
        if texts is not None and role.labels is not None:
            texts = pa.array(role.labels, pa.string()).take(texts)
        if role.video_feature is not None or role.feature is CELL_FEATURE:
            nulls = pa.nulls(len(batch), pa.string())
            images = images if images is not None else _stored_images(nulls, None)
            videos = _stored_videos(videos, root) if videos is not None else None
            columns[name] = cells_from_parts(images, texts if texts is not None else nulls, videos)
        else:
            columns[name] = images if images is not None else texts.cast(pa.string())
    return pa.table(columns)


def _parts(batch: pa.Table, role: Role) -> tuple[pa.Array | None, pa.Array | None, pa.Array | None]:
    """Return the images, the videos and the texts of a role, each `None` if it has no such part."""
    if role.whole is None:
        names = (role.image, role.video, role.text)
        return tuple(None if name is None else batch.column(name).combine_chunks() for name in names)
    cells = batch.column(role.whole).combine_chunks()
    names = [field.name for field in cells.type]
    return tuple(pc.struct_field(cells, part) if part in names else None for part in _PARTS)


def _stored_images(images: pa.Array, root: str | None) -> pa.StructArray:
    """Return images as datasets stores them, paths below the root; an empty path is no image."""
    stored = Image().cast_storage(images)
    data, paths = pc.struct_field(stored, "bytes"), pc.struct_field(stored, "path")
    alone = pc.is_null(data).to_pylist()  # beside bytes, a path is only a name
    full = [
        join_root(root, path) if path and is_alone else path or None
        for path, is_alone in zip(paths.to_pylist(), alone, strict=True)
    ]
    paths = pa.array(full, pa.string())
    return pa.StructArray.from_arrays(
        [data, paths], ["bytes", "path"], mask=pc.and_(pc.is_null(data), pc.is_null(paths))
    )


def _stored_videos(videos: pa.Array, root: str | None) -> pa.Array:
    """Return videos as they are kept: paths, or lists of frames as datasets stores images, below the root."""
    if pa.types.is_string(videos.type) or pa.types.is_large_string(videos.type):
        return pa.array([join_root(root, path) if path else None for path in videos.to_pylist()], pa.string())
    lengths = pc.fill_null(pc.list_value_length(videos), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, _stored_images(pc.list_flatten(videos), root), mask=pc.is_null(videos))

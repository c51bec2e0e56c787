"""What batches of whole clusters leave out, said once for all datasets of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from datasets import Dataset

from saha_st.samplers import ClusterBatchSampler
from saha_st.samplers.packing import better_batch_sizes, plan_batches

logger = logging.getLogger(__name__)


class RunBatchSampler(ClusterBatchSampler):
    """The sampler of a run: each dataset has one, and none of them speaks for itself."""

    warns = False


def warn_of_leftovers(datasets: Mapping[str, Dataset], batch_size: int) -> None:
    """Say where batches of whole clusters leave out many rows.

    Args:
        datasets: Mined datasets by name.
        batch_size: Rows of a batch.

    Raises:
        ValueError: The clusters of a dataset cannot be packed at all.
    """
    plans, counts = {}, []
    for name, dataset in datasets.items():
        sizes = json.loads(dataset.info.description)["cluster_sizes"]
        count_of_size = {int(size): count for size, count in sizes.items()}
        counts.append(count_of_size)
        plan = plan_batches(count_of_size, batch_size)
        if plan.leaves_out_many:
            plans[name] = plan
    if plans:
        better = " or ".join(map(str, better_batch_sizes(counts, batch_size)))
        logger.warning(
            "Clusters do not pack well into batches of %d rows: each epoch leaves out %s. %s",
            batch_size,
            ", ".join(f"{plan.dropped_rows} of {plan.num_rows} rows of {name}" for name, plan in plans.items()),
            f"It would be fewer with per_device_train_batch_size={better}." if better else "More rows would help.",
        )

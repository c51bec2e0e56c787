"""What batches of whole clusters leave out, said once for all datasets of a run."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping

from datasets import Dataset

from saha_st.samplers import ClusterBatchSampler
from saha_st.samplers.packing import plan_batches, suggested_batch_sizes

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
    plans, clusters = {}, Counter()
    for name, dataset in datasets.items():
        sizes = json.loads(dataset.info.description)["cluster_sizes"]
        count_of_size = {int(size): count for size, count in sizes.items()}
        plan = plan_batches(count_of_size, batch_size)
        if plan.leaves_out_many:
            plans[name] = plan
            clusters.update(count_of_size)
    if plans:
        logger.warning(
            "Clusters do not pack well into batches of %d rows: each epoch leaves out %s. A multiple of the most "
            "frequent size packs better: per_device_train_batch_size=%s.",
            batch_size,
            ", ".join(f"{plan.dropped_rows} of {plan.num_rows} rows of {name}" for name, plan in plans.items()),
            suggested_batch_sizes(clusters, batch_size),
        )

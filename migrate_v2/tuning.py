"""Transfer settings follow from the inventory and the machine; what an operator said beats what is worked out here."""

from __future__ import annotations

from dataclasses import dataclass

MiB = 1 << 20


@dataclass(frozen=True, slots=True)
class Transfer:
    """Settings of one `aws s3 sync`. Sizes in bytes, bandwidth in bytes per second, None for no limit."""

    max_concurrent_requests: int
    max_queue_size: int
    multipart_threshold: int
    multipart_chunksize: int
    max_bandwidth: int | None = None


def transfer(
    mean_size: float,
    cores: int,
    *,
    threshold: int | None = None,
    chunk: int | None = None,
    concurrency: int | None = None,
    use_threads: bool | None = None,
    bandwidth: int | None = None,
) -> Transfer:
    """The settings for objects of this mean size in bytes; the named arguments are an operator's and win.

    One process is bound by its CPU at about 300 small objects a second, so more requests at once than 16 gain nothing
    there; large objects gain from more and larger ranges.
    """
    large = mean_size >= 16 * MiB
    requests = concurrency or (min(32, 16 * cores) if large else 16)
    return Transfer(
        max_concurrent_requests=1 if use_threads is False else requests,
        max_queue_size=1000,
        multipart_threshold=threshold or 8 * MiB,
        multipart_chunksize=chunk or (16 * MiB if large else 8 * MiB),
        max_bandwidth=bandwidth,
    )

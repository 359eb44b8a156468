"""What cannot fit is not begun: what is to come, less what lies on the disk already, against the room there is."""

from __future__ import annotations

from collections.abc import Iterator

from migrate_v2.edges.disk import Disk, DiskError, Incoming, Obstacle, volume
from migrate_v2.edges.store import Store
from migrate_v2.errors import Refused
from migrate_v2.events import Event, Warned
from migrate_v2.keys import show
from migrate_v2.model import Place
from migrate_v2.space import Need, Volume, in_blocks, lacking


def preflight(bucket: str, store: Store, disk: Disk, *, force: bool) -> Iterator[Event]:
    """Refused where it does not fit; with `force` that is a warning. The disk is looked through only if it seems not to."""
    room = volume(disk.base)
    need = needed(bucket, store, room)
    if lacking(need, room):
        need = less_what_is_there(bucket, store, disk, need, room)
    reasons = lacking(need, room)
    if volume(store.path.parent).free < need.rows and volume(store.path.parent).device != room.device:
        reasons.append(f"the state file may grow by {need.rows:,} bytes, more than are free beside it")
    if reasons and not force:
        raise Refused(
            f"{show(bucket)} does not fit on {show(str(disk.base))}: {'; '.join(reasons)}. Free space, name another"
            " --dest, or give --force-space to begin all the same"
        )
    for reason in reasons:
        yield Warned(bucket, f"it does not fit: {reason}")


def needed(bucket: str, store: Store, room: Volume) -> Need:
    objects, size, blocks, biggest = store.to_come(bucket, room.block)
    return Need(objects, size, blocks, objects, biggest)


def less_what_is_there(bucket: str, store: Store, disk: Disk, need: Need, room: Volume) -> Need:
    """The need less what an interrupted run left: files at their paths, and files that are moved, continued or removed."""
    objects = size = blocks = 0
    with Incoming(disk, bucket) as incoming:
        begun = disk.held_by_partials(bucket) + incoming.stored()
        for row in store.left_to_fetch(bucket, Place.PLAIN):
            try:
                there = disk.look(row.path)
                arrived = incoming.arrived(row.key, row.version.size, row.version.seconds)
            except (Obstacle, DiskError):
                continue
            at_its_path = there is not None and there.size == row.version.size
            if at_its_path or arrived:
                objects += 1
                size += row.version.size
                # What is in the staging folder is counted as a whole above.
                blocks += in_blocks(row.version.size, room.block) if at_its_path else 0
    return Need(
        need.objects - objects,
        need.bytes - size,
        max(0, need.blocks - blocks - begun),
        need.inodes - objects,
        need.biggest,
    )

"""Whether what is to come fits on the disk is decided by numbers, before anything is asked for or written."""

from __future__ import annotations

from dataclasses import dataclass

# Beside each object: its lines in manifest, evidence and metadata, measured at 1.0 KB for keys of 10 characters, of which
# each further one counts five times. Each of these files is written anew beside the old one.
RECORDS = 4 << 10
# Of the state file, with its indexes: measured at 0.36 KB an object when it is listed, at 1.1 KB with its metadata.
ROWS = 2 << 10
# What one `aws s3 sync` was seen to take, at most.
CLI_MEMORY = 380 << 20


@dataclass(frozen=True, slots=True)
class Volume:
    """A file system at the moment. `inodes` None: it has no fixed number of them. `largest` None: no limit is known."""

    folder: str  # where it was asked, the nearest folder that is there
    device: int
    free: int
    inodes: int | None
    block: int
    name_max: int
    largest: int | None


@dataclass(frozen=True, slots=True)
class Need:
    """What is to come: `bytes` as S3 counts them, `blocks` as the disk does."""

    objects: int
    bytes: int
    blocks: int
    inodes: int
    biggest: int

    @property
    def records(self) -> int:
        return self.objects * RECORDS

    @property
    def whole(self) -> int:
        """Nothing at all where nothing is to come: whoever is nearly done is not asked for room again."""
        return self.blocks + self.records

    @property
    def rows(self) -> int:
        return self.objects * ROWS


def lacking(need: Need, disk: Volume) -> list[str]:
    """Why it does not fit, a sentence each; none where it does.

    needed                                    | there is    | then
    ------------------------------------------|-------------|-----------------
    no object                                 | anything    | it fits
    blocks and records                        | less room   | it does not
    a file each, and the folders              | fewer inodes| it does not
    the largest object                        | a lower limit| it does not
    """
    if not need.objects:
        return []
    reasons = []
    if need.whole > disk.free:
        reasons.append(
            f"{need.whole:,} bytes are needed and {disk.free:,} are free: {need.whole - disk.free:,} are lacking"
        )
    if disk.inodes is not None and need.inodes > disk.inodes:
        reasons.append(f"{need.inodes:,} files and folders are to come and there are inodes for {disk.inodes:,}")
    if disk.largest is not None and need.biggest > disk.largest:
        reasons.append(f"the largest object has {need.biggest:,} bytes and a file here at most {disk.largest:,}")
    return reasons


def in_blocks(size: int, block: int) -> int:
    return -(-size // block) * block

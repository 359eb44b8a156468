"""File system types, row by row of their tables."""

from __future__ import annotations

import pytest

from migrate_v2.durability import (
    Durability,
    about,
    durability_of,
    holds_state_file,
    stores_ctime,
    syncfs_reaches_disk,
)

INSTANCE_STORE = "Amazon EC2 NVMe Instance Storage"
EBS = "Amazon Elastic Block Store"


@pytest.mark.parametrize(
    ("kind", "devices", "expected"),
    [
        ("tmpfs", {}, Durability.MEMORY),
        ("ramfs", {}, Durability.MEMORY),
        ("overlay", {}, Durability.LAYER),
        ("aufs", {}, Durability.LAYER),
        ("fuse.fuse-overlayfs", {}, Durability.LAYER),
        ("fuse", {}, Durability.DAEMON),
        ("fuse.bindfs", {}, Durability.DAEMON),
        ("fuse.sshfs", {}, Durability.DAEMON),
        ("fuseblk", {"sda1": "", "sda": "disk"}, Durability.LASTING),
        ("ext4", {"zram0": ""}, Durability.MEMORY),
        ("ext4", {"ram1": ""}, Durability.MEMORY),
        ("xfs", {"dm-0": "", "nvme1n1": INSTANCE_STORE}, Durability.INSTANCE_STORE),
        ("xfs", {"nvme0n1p1": "", "nvme0n1": EBS}, Durability.LASTING),
        ("nfs4", {}, Durability.LASTING),
        ("", {}, Durability.LASTING),
    ],
)
def test_durability_of_type_and_device(kind: str, devices: dict[str, str], expected: Durability) -> None:
    assert durability_of(kind, "/", devices) is expected
    assert bool(about(expected, kind)) is (expected is not Durability.LASTING)


def test_volume_of_a_pod_goes_with_it() -> None:
    pods = "/var/lib/kubelet/pods/0b1e/volumes"
    assert durability_of("ext4", f"{pods}/kubernetes.io~empty-dir/copies", {}) is Durability.LAYER
    assert durability_of("ext4", f"{pods}/kubernetes.io~csi/pvc-1/mount", {}) is Durability.LASTING


def test_deletion_needs_consent_where_copies_may_not_last() -> None:
    assert [one for one in Durability if not one.deletes_by_itself] == [
        Durability.DAEMON,
        Durability.LAYER,
        Durability.MEMORY,
    ]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "nfs4", "overlay", "tmpfs"])
def test_syncfs_is_enough_on_file_systems_that_are_known(kind: str) -> None:
    assert syncfs_reaches_disk(kind)


@pytest.mark.parametrize("kind", ["fuse.bindfs", "fuse", "fuseblk", "virtiofs", "cifs", "9p", "new-in-2030", ""])
def test_syncfs_is_not_trusted_elsewhere(kind: str) -> None:
    assert not syncfs_reaches_disk(kind)


def test_types_without_a_stored_ctime() -> None:
    assert [kind for kind in ("ext4", "exfat", "vfat", "nfs", "fuse.bindfs") if not stores_ctime(kind)] == [
        "exfat",
        "vfat",
    ]


def test_state_file_needs_a_local_file_system() -> None:
    kinds = ("ext4", "tmpfs", "overlay", "", "nfs", "nfs4", "cifs", "fuse.sshfs", "fuse", "fuseblk", "virtiofs", "9p")
    assert [kind for kind in kinds if holds_state_file(kind)] == ["ext4", "tmpfs", "overlay", ""]

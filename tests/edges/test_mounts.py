"""What /proc and /sys say of a folder's file system."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from migrate_v2.durability import Durability
from migrate_v2.edges import mounts
from migrate_v2.edges.mounts import UNKNOWN, mount_at, mount_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

STORE = "Amazon EC2 NVMe Instance Storage"


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """/sys with a disk of an instance store that has a partition, and LVM over a disk of EBS and that one."""
    real = tmp_path / "devices"
    for name, model in (("nvme0n1", "Amazon Elastic Block Store"), ("nvme1n1", STORE)):
        (real / name / "device").mkdir(parents=True)
        (real / name / "device" / "model").write_text(f"{model}   \n")
        (real / name / "slaves").mkdir()
    (real / "nvme1n1" / "nvme1n1p1").mkdir()
    (real / "nvme1n1" / "nvme1n1p1" / "partition").write_text("1\n")
    (real / "dm-0" / "slaves").mkdir(parents=True)
    (real / "dm-0" / "slaves" / "nvme0n1").symlink_to(real / "nvme0n1")
    (real / "dm-0" / "slaves" / "nvme1n1p1").symlink_to(real / "nvme1n1" / "nvme1n1p1")
    numbers = tmp_path / "block"
    numbers.mkdir()
    for number, name in (("259:0", "nvme0n1"), ("259:2", "nvme1n1/nvme1n1p1"), ("253:0", "dm-0")):
        (numbers / number).symlink_to(real / name)
    return numbers


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("259:0", {"nvme0n1": "Amazon Elastic Block Store"}),
        ("259:2", {"nvme1n1p1": "", "nvme1n1": STORE}),
        ("253:0", {"dm-0": "", "nvme0n1": "Amazon Elastic Block Store", "nvme1n1p1": "", "nvme1n1": STORE}),
        ("0:42", {}),
    ],
)
def test_models_of_the_disks_beneath_a_device(devices: Path, device: str, expected: dict[str, str]) -> None:
    assert mounts.models(device, devices) == expected


def test_mount_of_reads_the_entry_of_the_descriptor(
    devices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc = tmp_path / "proc"
    (proc / "fdinfo").mkdir(parents=True)
    (proc / "fdinfo" / "7").write_text("pos:\t0\nflags:\t02100000\nmnt_id:\t36\nino:\t2\n")
    (proc / "mountinfo").write_text(
        "25 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n36 25 259:2 / /srv/my\\040disk rw shared:5 master:2 - xfs none rw\n"
    )
    monkeypatch.setattr(mounts, "_PROC", proc)
    monkeypatch.setattr(mounts.models, "__defaults__", (devices,))
    assert mount_of(7) == mounts.Mount("xfs", Durability.INSTANCE_STORE)
    assert mount_of(8) == UNKNOWN
    (proc / "fdinfo" / "9").write_text("mnt_id:\t40\n")
    with (proc / "mountinfo").open("a") as file:
        file.write("40 25 8:1 /pods/1/volumes/kubernetes.io~empty-dir/a\\040b /copies rw - ext4 /dev/sda1 rw\n")
    assert mount_of(9) == mounts.Mount("ext4", Durability.LAYER)


def test_mount_at_asks_the_nearest_folder_there_is(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert mount_at(tmp_path / "not" / "there" / "yet") == mount_of(fd) != UNKNOWN
    finally:
        os.close(fd)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")
def test_dev_shm_is_memory() -> None:
    assert mount_at(Path("/dev/shm")) == mounts.Mount("tmpfs", Durability.MEMORY)

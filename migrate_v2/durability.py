"""What is known of file system types: whether a copy outlasts a power cut there, and what syncfs(2) and ctime are worth."""

from __future__ import annotations

import re
from enum import StrEnum

# syncfs(2) of these ends when everything is on the disk. The block file systems: the kernel writes all inodes and then the
# device (fs/sync.c, sync_filesystem). NFS: COMMIT for each inode (fs/nfs/write.c, nfs_write_inode). overlay: the layer below
# is synced (Linux 4.11). Not in the list, since fsync(2) alone is sure to do more than fill another cache: FUSE (no
# FUSE_SYNCFS; virtiofs since Linux 5.14 only, fuseblk since 6.18), SMB (only fsync sends SMB2_FLUSH), 9p, vboxsf.
_SYNCFS = (
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "jfs", "nilfs2", "reiserfs", "bcachefs", "gfs2", "ocfs2", "udf",
    "vfat", "msdos", "exfat", "ntfs3", "hfs", "hfsplus", "nfs", "nfs4", "ceph", "overlay", "tmpfs", "ramfs",
)  # fmt: skip
_MEMORY = ("tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs")
_LAYER = ("overlay", "aufs", "fuse.fuse-overlayfs")
# Nothing on the disk holds a ctime: after the inode has left memory it is the mtime, which anybody can set.
_NO_CTIME = ("vfat", "msdos", "exfat", "hfs")
# SQLite's WAL needs memory that all its users share (https://sqlite.org/wal.html), and locks that work.
_NO_WAL = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "ceph", "coda", "lustre", "gpfs", "beegfs", "orangefs",
    "pvfs2", "panfs", "virtiofs", "vboxsf", "prl_fs", "vmhgfs", "fuse", "fuseblk",
)  # fmt: skip
_EMPTY_DIR = "/volumes/kubernetes.io~empty-dir/"  # below /var/lib/kubelet/pods/UID; removed with the pod
_IN_MEMORY = re.compile(r"(zram|ram|brd)[0-9]+")
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-store-volumes.html: lost when the instance is stopped.
_INSTANCE_STORE = "Amazon EC2 NVMe Instance Storage"


class Durability(StrEnum):
    """Whether what was flushed to a file system is there after a power cut, a reboot, the end of a container."""

    LASTING = "lasting"
    INSTANCE_STORE = "instance_store"  # lost when the EC2 instance is stopped or ends
    DAEMON = "daemon"  # a process of user space decides what fsync(2) does (FUSE)
    LAYER = "container_layer"  # lost with the container: its writable layer, or a volume of its own
    MEMORY = "memory"  # lost at a reboot

    @property
    def deletes_by_itself(self) -> bool:
        """Whether `confirm-delete` needs no --allow-volatile there."""
        return self in (Durability.LASTING, Durability.INSTANCE_STORE)


_ABOUT = {
    Durability.LASTING: "",
    Durability.INSTANCE_STORE: "an EC2 instance store: all of it is lost when the instance is stopped",
    Durability.DAEMON: "a FUSE file system ({kind}): whether a copy survives a power cut rests on its daemon",
    Durability.LAYER: "storage of a container that goes with it ({kind}): all of it is lost when the container is removed",
    Durability.MEMORY: "memory ({kind}): all of it is lost at a reboot",
}


def durability_of(kind: str, root: str, devices: dict[str, str]) -> Durability:
    """`kind` and `root` are fields of /proc/self/mountinfo: the type, and which folder of the file system is mounted.

    `devices`: the models of the block devices beneath, by kernel name.

    type                     | root or device         | durability
    -------------------------|------------------------|---------------
    tmpfs, ramfs             | any                    | memory
    overlay, aufs            | any                    | container layer
    any                      | a Kubernetes emptyDir  | container layer
    fuse, fuse.NAME          | any                    | daemon
    any other                | zram0, ram0            | memory
    any other                | an EC2 instance store  | instance store
    any other, unknown       | any other, unknown     | lasting
    """
    if kind in _MEMORY:
        return Durability.MEMORY
    if kind in _LAYER or _EMPTY_DIR in root:
        return Durability.LAYER
    if kind == "fuse" or kind.startswith("fuse."):
        return Durability.DAEMON
    if any(_IN_MEMORY.fullmatch(name) for name in devices):
        return Durability.MEMORY
    if _INSTANCE_STORE in devices.values():
        return Durability.INSTANCE_STORE
    return Durability.LASTING


def about(durability: Durability, kind: str) -> str:
    """What the operator must know of it, "" if nothing."""
    return _ABOUT[durability].format(kind=kind)


def syncfs_reaches_disk(kind: str) -> bool:
    return kind in _SYNCFS


def fsync_needs_write(kind: str) -> bool:
    """Whether fsync(2) of a file that is open for reading only does nothing: SMB2_FLUSH needs a handle that may write."""
    return kind in ("cifs", "smb3")


def stores_ctime(kind: str) -> bool:
    return kind not in _NO_CTIME


def holds_state_file(kind: str) -> bool:
    """Whether SQLite's WAL mode is safe there."""
    return kind not in _NO_WAL and not kind.startswith("fuse.")

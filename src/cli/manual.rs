// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the man page of `ubd` says beside the help.

use super::generate::Manual;

pub(super) const MANUAL: Manual = Manual {
    exit_status: &[
        ("0", "Done."),
        ("1", "No such device, file or program."),
        ("2", "Wrong usage, or any other error."),
        ("69", "The ubd driver is not loaded."),
        ("77", "No permission."),
    ],
    environment: &[(
        "UBD_LOG",
        "What to log, as `debug` or `ubd_bpf::channel=trace`. A daemon logs to the kernel's log.",
    )],
    files: &[
        ("/dev/ubd-control", "The driver's control node."),
        ("/dev/ubdbN", "The block device number N."),
        ("/dev/ubdcN", "Its character node, held by its daemon."),
        (
            "/sys/block/ubdbN/ubd/",
            "Its program, state and counters, one value a file.",
        ),
        (
            "/run/ubd/N.json",
            "What its daemon serves, for `ubd list` and the next daemon; goes with the device.",
        ),
    ],
    examples: &[
        (
            "add",
            "Show a file as a block device; print its name only.",
            "ubd add loop -f disk.img --show",
        ),
        (
            "add",
            "Show a disk, with reads and writes mapped inside the kernel.",
            "ubd add loop -f /dev/vdb --bpf-fastpath",
        ),
        (
            "add",
            "Two disks and a file, one behind the other.",
            "ubd add concat -f /dev/vdb -f /dev/vdc -f more.img",
        ),
        (
            "add",
            "Three disks in turn, 128KiB at a time, mapped inside the kernel.",
            "ubd add stripe -f /dev/vdb -f /dev/vdc -f /dev/vdd --chunk 128KiB --bpf-fastpath",
        ),
        (
            "add",
            "A device of zeroes, to measure the way to a daemon with.",
            "ubd add null -s 1GiB -q 2",
        ),
        (
            "del",
            "Remove a device that is not in use.",
            "ubd del /dev/ubdb0",
        ),
        (
            "add",
            "A device whose daemon may die or be replaced.",
            "ubd add loop -f disk.img --recovery",
        ),
        (
            "recover",
            "Go on after the daemon has died.",
            "ubd recover /dev/ubdb0",
        ),
        (
            "upgrade",
            "Go on with the daemon of a new version, while the device is mounted.",
            "ubd upgrade /dev/ubdb0",
        ),
        (
            "resize",
            "Give a mounted file system more room.",
            "truncate -s 2G disk.img && ubd resize /dev/ubdb0 max && resize2fs /dev/ubdb0",
        ),
        (
            "serve",
            "Two devices of one daemon.",
            "printf '%s\\n' 'loop -f a.img' 'loop -f b.img -r' | ubd serve -",
        ),
        (
            "list",
            "What there is, for a script.",
            "ubd list -o name,size,backing --raw --noheadings",
        ),
        (
            "stats",
            "How much stayed in the kernel, every five seconds.",
            "ubd stats --watch=5",
        ),
    ],
    see_also: "ubd-bpf(8), losetup(8), lsblk(8)",
};

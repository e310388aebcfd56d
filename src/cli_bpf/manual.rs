// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the man page of `ubd-bpf` says beside the help.

use crate::cli::generate::Manual;

pub(super) const MANUAL: Manual = Manual {
    exit_status: &[
        ("0", "Done."),
        ("1", "No such program, device, slot or file."),
        (
            "2",
            "Wrong usage, a rejected program, a bad verdict in `test`, or any other error.",
        ),
        ("69", "The ubd driver is not loaded."),
        ("77", "No permission."),
    ],
    environment: &[(
        "UBD_LOG",
        "What to log, as `debug` or `ubd_bpf::fastpath=debug`.",
    )],
    files: &[
        ("/dev/ubd-control", "The driver's control node."),
        (
            "/sys/fs/bpf/ubd/NAME/",
            "The pins of the loaded program NAME: `link`, its code and its maps.",
        ),
        (
            "/sys/kernel/tracing/events/ubd/ubd_verdict/",
            "The tracepoint that shows every verdict.",
        ),
    ],
    examples: &[
        (
            "test",
            "What would this object answer?",
            "ubd-bpf test prog.bpf.o --op read --sector 0 --nr 8",
        ),
        (
            "load",
            "Load the shipped program for disks one behind the other, for two of 1 GiB.",
            "ubd-bpf load concat --set slot_len=2097152,2097152 --set nr=2",
        ),
        (
            "load",
            "Replace a loaded program on all its devices at once.",
            "ubd-bpf load prog.bpf.o --name prog --replace",
        ),
        (
            "slot",
            "Let the programs of a device map to a disk.",
            "ubd-bpf slot add /dev/ubdb0 /dev/vdb",
        ),
        (
            "bind",
            "Let a program map the I/O of a device.",
            "ubd-bpf bind /dev/ubdb0 concat",
        ),
        (
            "unbind",
            "Let the daemon serve everything again.",
            "ubd-bpf unbind /dev/ubdb0",
        ),
        ("show", "Why was it ejected?", "ubd-bpf show prog"),
    ],
    see_also: "ubd(8), bpftool(8)",
};

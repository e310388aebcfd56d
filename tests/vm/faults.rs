// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is below fails, and memory does: the user hears of it, exactly of that, and nothing is left.

mod broken;
mod dust;
mod flaky;
mod flush;
mod load;
mod nth;
mod requests;

use ubd_bpf::uapi::ublk;

use crate::support::{long_only, needs_features, Test, Way};
use nth::io::Who;

pub const TESTS: &[Test] = &[
    Test::new("faults/disk_mapped", || broken::disk(Way::Mapped)),
    Test::new("faults/disk_tracked", || {
        long_only(|| broken::disk(Way::Tracked))
    }),
    Test::new("faults/disk_declined", || {
        long_only(|| broken::disk(Way::Declined))
    }),
    Test::new("faults/disk_forwarded", || broken::disk(Way::Forwarded)),
    Test::new("faults/file_mapped", || broken::file(Way::Mapped)),
    Test::new("faults/file_tracked", || {
        long_only(|| broken::file(Way::Tracked))
    }),
    Test::new("faults/file_declined", || {
        long_only(|| broken::file(Way::Declined))
    }),
    Test::new("faults/file_forwarded", || {
        long_only(|| broken::file(Way::Forwarded))
    }),
    Test::new("faults/dust_mapped", || dust::heals(Way::Mapped)),
    Test::new("faults/dust_declined", || dust::heals(Way::Declined)),
    Test::new("faults/dust_forwarded", || dust::heals(Way::Forwarded)),
    Test::new("faults/flush_mapped", || flush::fails(Way::Mapped)),
    Test::new("faults/flush_declined", || flush::fails(Way::Declined)),
    Test::new("faults/flush_forwarded", || {
        long_only(|| flush::fails(Way::Forwarded))
    }),
    Test::new("faults/flush_of_a_buffered_file", || {
        long_only(flush::buffered)
    }),
    Test::new("faults/requests_mapped", || requests::refused(Way::Mapped)),
    Test::new("faults/requests_tracked", || {
        requests::refused(Way::Tracked)
    }),
    Test::new("faults/requests_declined", || {
        requests::refused(Way::Declined)
    }),
    Test::new("faults/requests_forwarded", || {
        requests::refused(Way::Forwarded)
    }),
    Test::new("faults/memory_add", nth::commands::add_device),
    Test::new("faults/memory_start", nth::commands::start_device),
    Test::new("faults/memory_stop_and_del", nth::commands::stop_and_delete),
    Test::new("faults/memory_other_commands", nth::commands::others),
    Test::new(
        "faults/memory_slots_and_programs",
        nth::commands::slots_and_programs,
    ),
    Test::new("faults/memory_mapped", || {
        nth::io::disk(Way::Mapped, Who::User, "")
    }),
    Test::new("faults/memory_tracked", || {
        nth::io::disk(Way::Tracked, Who::User, "")
    }),
    Test::new("faults/memory_declined", || {
        nth::io::disk(Way::Declined, Who::User, "")
    }),
    Test::new("faults/memory_file", || {
        nth::io::file(Way::Mapped, Who::User, "--direct-io=on")
    }),
    Test::new("faults/memory_file_threads", || {
        nth::io::file(Way::Mapped, Who::Threads, "")
    }),
    Test::new("faults/memory_daemon", || {
        nth::io::disk(Way::Declined, Who::Daemon, "")
    }),
    Test::new("faults/memory_daemon_forwards", || {
        nth::io::disk(Way::Forwarded, Who::Daemon, "")
    }),
    Test::new("faults/memory_daemon_copies", || {
        nth::io::disk(Way::Declined, Who::Daemon, "--user-copy")
    }),
    Test::new("faults/memory_daemon_zero_copy", || {
        needs_features(ublk::F_AUTO_BUF_REG)?;
        nth::io::disk(Way::Declined, Who::Daemon, "--zero-copy")
    }),
];

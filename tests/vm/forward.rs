// SPDX-License-Identifier: MIT OR Apache-2.0
//! FORWARD: the daemon says where, the driver does the I/O.

mod broken;
mod data;
mod install;
mod life;
mod partial;
mod refused;
pub mod server;

use crate::support::backing::Kind;
use crate::support::Test;

pub const TESTS: &[Test] = &[
    Test::new("forward/model_disk", || data::model(Kind::Disk, None)),
    Test::new("forward/model_disk4k", || data::model(Kind::Disk4k, None)),
    Test::new("forward/model_disk_mixed", || {
        data::model(Kind::Disk, Some(50))
    }),
    Test::new("forward/model_file_direct", || {
        data::model(Kind::FileDirect, None)
    }),
    Test::new("forward/model_file_direct_mixed", || {
        data::model(Kind::FileDirect, Some(50))
    }),
    Test::new("forward/model_file_buffered", || {
        data::model(Kind::FileBuffered, None)
    }),
    Test::new("forward/model_xfs", data::model_on_xfs),
    Test::new("forward/model_stripe", data::model_on_stripe),
    Test::new("forward/interrupts", data::interrupts),
    Test::new("forward/large_requests", data::large),
    Test::new("forward/fua_reaches_the_disk", data::fua),
    Test::new("forward/inline_on_files", data::inline),
    Test::new("forward/in_parts", partial::in_parts),
    Test::new("forward/merged", partial::merged),
    Test::new("forward/not_borrowed_meanwhile", partial::not_borrowed),
    Test::new("forward/refused_and_answered_otherwise", refused::refused),
    Test::new("forward/refused_of_4k_blocks", refused::misaligned),
    Test::new("forward/without_the_driver", refused::null_target),
    Test::new("forward/bad_disk", broken::bad_disk),
    Test::new("forward/truncated_file", broken::truncated),
    Test::new("forward/full_file", broken::full),
    Test::new("forward/stop_waits", life::stop_waits),
    Test::new("forward/killed_daemon", life::killed),
    Test::new("forward/slot_unregistered", life::unregistered),
    Test::new("forward/install", install::memory),
    Test::new("forward/install_in_a_map_and_a_file", install::shared),
    Test::new("forward/install_not_after_an_error", install::errors),
];

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands that are wrong, not allowed, or come all at once.

mod batch;
mod channel;
mod commands;
mod limits;
mod modes;
mod races;
pub mod server;
pub mod unprivileged;
mod zerocopy;

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::{AddRequest, Control};
use ubd_bpf::uapi::ublk;

use crate::support::{fails, sh, Test, Ubd};
use server::{add, delete, open_node, Server, GOOD};

pub const TESTS: &[Test] = &[
    Test {
        name: "control/add_checks_everything",
        run: commands::add_checks,
    },
    Test {
        name: "control/buffers_short_long_and_nowhere",
        run: commands::buffers,
    },
    Test {
        name: "control/params_are_checked",
        run: commands::bad_params,
    },
    Test {
        name: "control/memory_of_requests",
        run: limits::memory,
    },
    Test {
        name: "control/requests_that_cannot_be_split",
        run: limits::unsplittable,
    },
    Test {
        name: "control/unknown_commands_and_devices",
        run: commands::unknown,
    },
    Test {
        name: "control/only_for_root",
        run: permissions,
    },
    Test {
        name: "control/only_for_the_owner",
        run: owner,
    },
    Test {
        name: "control/stop_and_start_out_of_turn",
        run: out_of_turn,
    },
    Test {
        name: "control/racing_commands",
        run: races::racing_commands,
    },
    Test {
        name: "control/racing_servers",
        run: races::racing_servers,
    },
    Test {
        name: "channel/abuse",
        run: channel::abuse,
    },
    Test {
        name: "channel/racing_fetches",
        run: channel::racing_fetches,
    },
    Test {
        name: "channel/mmap",
        run: channel::mmap,
    },
    Test {
        name: "channel/asynchronous",
        run: channel::asynchronous,
    },
    Test {
        name: "channel/copied",
        run: modes::copied,
    },
    Test {
        name: "channel/user_copy",
        run: modes::user_copy,
    },
    Test {
        name: "channel/user_copy_bounds",
        run: modes::user_copy_bounds,
    },
    Test {
        name: "channel/data_on_demand",
        run: modes::data_on_demand,
    },
    Test {
        name: "channel/task_per_tag",
        run: modes::task_per_tag,
    },
    Test {
        name: "control/unprivileged",
        run: unprivileged::unprivileged,
    },
    Test {
        name: "channel/large_descriptors",
        run: modes::large_descriptors,
    },
    Test {
        name: "control/safe_stop",
        run: modes::safe_stop,
    },
    Test {
        name: "channel/bad_buffer",
        run: channel::bad_buffer,
    },
    Test {
        name: "batch/copied",
        run: batch::copied,
    },
    Test {
        name: "batch/by_driver",
        run: batch::by_driver,
    },
    Test {
        name: "batch/little_room",
        run: batch::little_room,
    },
    Test {
        name: "batch/two_rings",
        run: batch::two_rings,
    },
    Test {
        name: "batch/refusals",
        run: batch::refusals,
    },
    Test {
        name: "zerocopy/by_driver",
        run: zerocopy::by_driver,
    },
    Test {
        name: "zerocopy/fallback",
        run: zerocopy::fallback,
    },
    Test {
        name: "zerocopy/by_server",
        run: zerocopy::by_server,
    },
    Test {
        name: "zerocopy/lent_until_returned",
        run: zerocopy::lent_until_returned,
    },
    Test {
        name: "zerocopy/another_ring",
        run: zerocopy::another_ring,
    },
    Test {
        name: "zerocopy/stop_waits",
        run: zerocopy::stop_waits,
    },
    Test {
        name: "zerocopy/server_goes",
        run: zerocopy::server_goes,
    },
    Test {
        name: "zerocopy/refusals",
        run: zerocopy::refusals,
    },
    Test {
        name: "zerocopy/nowhere",
        run: zerocopy::nowhere,
    },
    Test {
        name: "zerocopy/not_here",
        run: zerocopy::not_here,
    },
];

/// Whoever is not root gets nowhere, even with the node open to all.
fn permissions() -> Result<()> {
    ensure!(
        sh("stat -c %a:%u /dev/ubd-control")? == "600:0",
        "the control node is open to others"
    );
    let ubd = Ubd::add(&["-t null -s 16M"])?;
    ensure!(
        sh(format!("stat -c %a:%u /dev/ubdc{}", ubd.id()))? == "600:0",
        "the character node is open"
    );
    // The daemon locks its memory before it asks; that is not what must stop it.
    let nobody =
        "ulimit -l unlimited; setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all";
    fails(77, format!("{nobody} ubd add -t null"))?;
    sh("chmod 666 /dev/ubd-control")?;
    let tried = [
        format!("{nobody} ubd add -t null --recovery"),
        format!("{nobody} ubd del --force {}", ubd.id()),
        format!("{nobody} ubd-bpf unbind {}", ubd.id()),
        format!("{nobody} ubd-bpf slot list {}", ubd.id()),
        format!(
            "{nobody} ubd-bpf slot add {} /usr/bin/env --read-only",
            ubd.id()
        ),
        format!("{nobody} ubd-bpf list"),
    ];
    let results: Vec<_> = tried.iter().map(|command| fails(77, command)).collect();
    sh("chmod 600 /dev/ubd-control")?;
    for result in results {
        result?;
    }
    ubd.del()
}

/// CAP_SYS_ADMIN is not enough for the slots and programs of another user's device.
fn owner() -> Result<()> {
    let ubd = Ubd::add(&["-t null -s 16M"])?;
    let other = "setpriv --reuid=65534 --clear-groups --inh-caps=+sys_admin,+dac_override \
                 --ambient-caps=+sys_admin,+dac_override";
    // It may use the driver at all …
    sh(format!("{other} ubd features"))?;
    sh(format!("{other} ubd-bpf list"))?;
    // … but not this device.
    for command in ["slot list", "unbind"] {
        fails(77, format!("{other} ubd-bpf {command} {}", ubd.id()))?;
    }
    fails(77, format!("{other} ubd-bpf slot del {} 0", ubd.id()))?;
    fails(
        77,
        format!(
            "{other} ubd-bpf slot add {} /usr/bin/env --read-only",
            ubd.id()
        ),
    )?;
    ubd.del()
}

/// STOP before START gives the fetches back; START after STOP has nobody to serve it.
fn out_of_turn() -> Result<()> {
    let control = Control::open()?;
    let ubd = add(&control, None, 1, 4)?;
    let node = open_node(ubd.id())?;
    let server = Server::spawn(node.try_clone()?, 4, GOOD);
    control.start(ubd.id(), std::process::id())?;
    let again = control
        .start(ubd.id(), std::process::id())
        .err()
        .context("it can be started twice")?;
    ensure!(
        again.errno() == Some(libc::EEXIST),
        "the second START got {again:#}"
    );
    control.stop(ubd.id())?;
    control.stop(ubd.id()).context("a second STOP")?;
    let late = control.start(ubd.id(), std::process::id()).err();
    ensure!(
        late.is_some(),
        "a stopped device was started though its server has got all commands back"
    );
    server.quit()?;
    drop(node);
    delete(&control, ubd)?;

    let ubd = add(&control, None, 1, 4)?;
    let mut queue = server::Queue::new(open_node(ubd.id())?, 0, 4)?;
    for tag in 0..4 {
        queue.fetch(tag)?;
    }
    control.stop(ubd.id())?;
    for _ in 0..4 {
        let done = queue.next(crate::support::seconds(5))?;
        let (_, result) =
            done.context("STOP of a device that was not started gives no command back")?;
        ensure!(result == ublk::IO_RES_ABORT, "a fetch ended with {result}");
    }
    let request = AddRequest {
        id: Some(ubd.id()),
        queues: 1,
        depth: 1,
        max_io_bytes: 4096,
        ..AddRequest::default()
    };
    ensure!(control.add(&request).is_err(), "the number was given away");
    delete(&control, ubd)
}

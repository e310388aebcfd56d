// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd upgrade`: a new daemon, of this program, for a device that runs.

use super::recover::{check, recorded, report, takeover};
use super::recovery::Recovery;
use crate::control::{block_node, Control};
use crate::daemon::{self, record::Lock};
use crate::error::{Error, Kind, Result};
use crate::sysfs;
use crate::uapi::ublk;
use std::time::Duration;

/// Replace the daemon of a block device by a new one, while the device is in use
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The device, as `3` or `/dev/ubdb3`
    #[arg(value_name = "DEV", value_parser = sysfs::parse_device)]
    device: u32,
    /// How long the old daemon may take for the requests that it has; 0 is for ever
    #[arg(long, value_name = "SECS", default_value_t = 30)]
    timeout: u32,
}

/// From its last request on, the old daemon has nothing to do but to end.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let id = args.device;
    daemon::close_inherited();
    let lock = Lock::take(id)?;
    let control = Control::open()?;
    let info = control.dev_info(id)?;
    check(&info, "upgrade")?;
    if info.state != ublk::S_DEV_LIVE {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "failed to upgrade `{}`: it has no daemon; `ubd recover {id}` starts one",
                block_node(id)
            ),
        )
        .into());
    }
    let record = recorded(&info, "upgrade")?;
    if Recovery::of(info.flags) == Some(Recovery::Fail) {
        log::warn!(
            "`{}` was added with `--recovery fail`: what is declined between the two daemons fails",
            block_node(id)
        );
    }
    // All that can fail by then has failed while the old daemon serves.
    let takeover = takeover(control, lock, &record, PATIENCE)?;
    let timeout = Duration::from_secs(args.timeout.into());
    takeover
        .control
        .quiesce(id, (args.timeout > 0).then_some(timeout))?;
    report(replace(takeover)?, "upgraded")
}

fn replace(takeover: daemon::Takeover) -> Result<daemon::Started> {
    let id = takeover.id;
    daemon::spawn(takeover).map_err(|err| {
        Error::new(
            err.kind(),
            format!(
                "{err:#}; `{}` waits without a daemon: `ubd recover {id}` starts one",
                block_node(id)
            ),
        )
    })
}

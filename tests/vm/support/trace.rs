// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel's tracer sees.

use anyhow::Result;

use super::{sh, NullDisk};

/// What is issued to a disk meanwhile, as lines of the tracer.
pub fn traced(disk: &NullDisk, act: impl FnOnce() -> Result<()>) -> Result<String> {
    let trace = "/sys/kernel/tracing";
    let dev = sh(format!(
        "IFS=: read a b < /sys/block/{}/dev; echo $((a << 20 | b))",
        disk.name()
    ))?;
    sh(format!(
        "cd {trace}; echo > trace; echo 'dev == {dev}' > events/block/block_rq_issue/filter
         echo 1 > events/block/block_rq_issue/enable"
    ))?;
    let result = act();
    let lines = sh(format!(
        "cd {trace}; echo 0 > events/block/block_rq_issue/enable; echo 0 > events/block/block_rq_issue/filter
         grep block_rq_issue trace || true"
    ));
    result?;
    lines
}

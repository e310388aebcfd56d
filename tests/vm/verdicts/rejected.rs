// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that the verifier must not let pass.

use anyhow::{ensure, Context, Result};

use crate::support::{fails, object, sh};

/// What is wrong, by the words of the rejection.
const CASES: &[(&str, &str)] = &[
    ("write_op", "only slot, map_sector and map_sectors"),
    ("write_reserved", "only slot, map_sector and map_sectors"),
    ("write_half", "each whole"),
    ("write_wide", "each whole"),
    ("oob", "struct ubd_bpf_io"),
    ("write_task", "bpf_get_current_task_btf"),
    ("write_vma", "only struct ubd_bpf_io may be written"),
    // Newer kernels object by themselves, in words of their own: 6.12.117 and 7.3 do.
    ("write_stale", "stale->map_sector"),
    ("bad_helper", "bpf_probe_read_kernel"),
    ("sleepable", "map"),
];

pub fn all() -> Result<()> {
    for (name, words) in CASES {
        let object = object(&format!("reject/{name}"));
        ensure!(object.exists(), "`{}` was not compiled", object.display());
        let message = fails(2, format!("ubd-bpf load {}", object.display())).context(*name)?;
        ensure!(
            message.contains(words),
            "{name}: `{words}` is not in the message:\n{message}"
        );
        // Whoever reads it learns which program it was.
        ensure!(
            message.contains(name),
            "{name}: the message does not name it:\n{message}"
        );
    }
    let list = sh("ubd-bpf list -J; ls /sys/fs/bpf/ubd 2>/dev/null || true")?;
    for (name, _) in CASES {
        ensure!(
            !list.contains(name),
            "{name} was registered or pinned nevertheless:\n{list}"
        );
    }
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! File systems on a device.

use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use crate::support::{fails, sh, Files, Prog, RamDisk, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test { name: "fs/ext4_on_disk_mapped", run: || ext4_on_disk("--bpf-fastpath", Path::Mapped) },
    Test { name: "fs/ext4_on_disk_declined", run: || ext4_on_disk("", Path::Declined) },
    Test { name: "fs/ext4_on_file_mapped", run: || ext4_on_file("--bpf-fastpath", Path::Mapped) },
    Test { name: "fs/ext4_on_file_declined", run: || ext4_on_file("", Path::Declined) },
    Test { name: "fs/ext4_mixed", run: ext4_mixed },
    Test { name: "fs/xfs_on_tmpfs_file_mapped", run: xfs_on_tmpfs },
];

// SPDX-License-Identifier: MIT OR Apache-2.0
//! fio, with what all runs have in common.

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::sh;

/// One fio job: direct, io_uring, 4 KiB blocks, every written block verified by checksum.
pub struct Fio {
    options: Vec<String>,
}

impl Fio {
    /// A random read-write job of about `ios` writes and reads on `node`, whose writes are read
    /// back and verified.
    pub fn verify(node: &str, ios: u64) -> Fio {
        Fio::new(node, ios)
            .option("verify=crc32c")
            .option("verify_state_save=0")
            .option("verify_fatal=1")
    }

    /// As [`Fio::verify`], but nothing is read back.
    pub fn new(node: &str, ios: u64) -> Fio {
        let options = [
            "name=job",
            &format!("filename={node}"),
            "rw=randrw",
            "bs=4k",
            "direct=1",
            "ioengine=io_uring",
            "iodepth=16",
            "randrepeat=1",
            "group_reporting",
            &format!("number_ios={ios}"),
        ];
        Fio {
            options: options.map(str::to_owned).to_vec(),
        }
    }

    /// Adds an option, or overrides one.
    pub fn option(mut self, option: &str) -> Fio {
        self.options.push(option.to_owned());
        self
    }

    /// The command line.
    pub fn command(&self) -> String {
        let options: Vec<_> = self
            .options
            .iter()
            .map(|option| format!("--{option}"))
            .collect();
        format!("fio --output-format=json {}", options.join(" "))
    }

    /// Runs it; gives the number of I/Os done, reads for verification included.
    pub fn run(&self) -> Result<u64> {
        let out = sh(self.command())?;
        // Notes may precede the JSON.
        let json = out.find('{').map_or("", |at| &out[at..]);
        let report: Value =
            serde_json::from_str(json).with_context(|| format!("fio printed `{out}`"))?;
        let job = &report["jobs"][0];
        ensure!(job["error"] == 0, "fio reports error {}", job["error"]);
        let ios = |kind: &str| job[kind]["total_ios"].as_u64().unwrap_or(0);
        Ok(ios("read") + ios("write") + ios("trim"))
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the host asks for.

use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;

const PLAN: &str = "/ubd/run/plan.json";

/// One cell: so many I/Os of one kind past one path.
#[derive(Deserialize)]
pub struct Job {
    /// What the host knows it by.
    pub index: usize,
    pub path: String,
    /// fio's word: `randread`, `randwrite`.
    pub rw: String,
    /// Bytes of an I/O.
    pub bs: u32,
    pub engine: String,
    pub qd: u32,
    pub ios: u64,
}

/// All jobs, in their order.
pub fn read() -> Result<Vec<Job>> {
    let text = fs::read_to_string(PLAN).with_context(|| format!("failed to read `{PLAN}`"))?;
    serde_json::from_str(&text).with_context(|| format!("failed to understand `{PLAN}`"))
}

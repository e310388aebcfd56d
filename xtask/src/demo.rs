// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`
use crate::kernel::Kernel;
use anyhow::{bail, Result};
use clap::Args;
#[derive(Args)]
pub struct DemoArgs {}
pub fn command(_kernel: &Kernel, _args: DemoArgs) -> Result<u8> {
    bail!("absent")
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd-bpf bind` and `ubd-bpf unbind`

use crate::cli::output;
use crate::control::{block_node, Control};
use crate::fastpath::Name;
use crate::sysfs;
use anyhow::Result;

/// Bind a loaded program to a device, in place of the one bound before
#[derive(Debug, clap::Args)]
pub struct BindArgs {
    /// The device: its number or /dev/ubdbN
    #[arg(value_name = "DEV", value_parser = sysfs::parse_device)]
    device: u32,
    /// The program
    name: Name,
    /// A number of this device that the program sees as io->cookie
    #[arg(long, default_value = "0", value_parser = super::number)]
    cookie: u64,
}

/// Unbind the program of a device; its daemon serves everything from then on
#[derive(Debug, clap::Args)]
pub struct UnbindArgs {
    /// The device: its number or /dev/ubdbN
    #[arg(value_name = "DEV", value_parser = sysfs::parse_device)]
    device: u32,
}

pub fn bind(args: &BindArgs) -> Result<()> {
    Control::open()?.bind(args.device, args.name.as_str(), args.cookie)?;
    output::line(&format!(
        "bound {} to {}",
        args.name,
        block_node(args.device)
    ))
}

pub fn unbind(args: &UnbindArgs) -> Result<()> {
    Control::open()?.unbind(args.device)?;
    output::line(&format!("unbound {}", block_node(args.device)))
}

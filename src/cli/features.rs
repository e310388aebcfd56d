// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd features`: what the loaded driver can do.

use super::output;
use crate::control::Control;
use crate::uapi::{c_text, ubd, ublk};
use anyhow::Result;
use serde_json::json;

/// Show what the driver can do
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(short = 'J', long, visible_short_alias = 'j')]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let features = Control::open()?.features()?;
    let version = c_text(&features.version);
    let ubd = names(features.features, &ubd::FEATURE_NAMES);
    let ublk = names(features.ublk_features, &ublk::FEATURE_NAMES);
    if args.json {
        let features = json!({
            "driver": version,
            "max_slots": features.max_slots,
            "max_queue_depth": features.max_queue_depth,
            "ubd": ubd,
            "ublk": ublk,
        });
        return output::document("features", features);
    }
    output::text(&format!(
        "driver       {version}\nslots        {}\nqueue depth  {}\nubd          {}\nublk         {}\n",
        features.max_slots,
        features.max_queue_depth,
        ubd.join(" "),
        ublk.join(" "),
    ))
}

/// The names of the bits that are set; one without a name is told by its number.
fn names(bits: u64, names: &[&str]) -> Vec<String> {
    (0..64)
        .filter(|bit| bits >> bit & 1 == 1)
        .map(|bit| {
            names
                .get(bit)
                .map_or_else(|| format!("bit{bit}"), |name| (*name).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names() {
        assert_eq!(names(0b1010, &["a", "b", "c"]), ["b", "bit3"]);
    }
}

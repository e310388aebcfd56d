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
    // Those that have a name and are not set: what others of its kind can do.
    let lacks_ubd = names(
        lacking(features.features, ubd::FEATURE_NAMES.len()),
        &ubd::FEATURE_NAMES,
    );
    let lacks_ublk = names(
        lacking(features.ublk_features, ublk::FEATURE_NAMES.len()),
        &ublk::FEATURE_NAMES,
    );
    if args.json {
        let features = json!({
            "driver": version,
            "max_slots": features.max_slots,
            "max_queue_depth": features.max_queue_depth,
            "ubd": ubd,
            "ublk": ublk,
            "lacks": { "ubd": lacks_ubd, "ublk": lacks_ublk },
        });
        return output::document("features", features);
    }
    output::text(&format!(
        "driver       {version}\nslots        {}\nqueue depth  {}\nubd          {}\nublk         {}\nlacks        {}\n",
        features.max_slots,
        features.max_queue_depth,
        ubd.join(" "),
        ublk.join(" "),
        [lacks_ubd, lacks_ublk].concat().join(" "),
    ))
}

/// Of the first `nr` bits, those that are not set.
fn lacking(bits: u64, nr: usize) -> u64 {
    !bits & ((1 << nr) - 1)
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
        assert_eq!(lacking(0b1010, 3), 0b101);
    }
}

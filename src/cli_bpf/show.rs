// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd-bpf show`

use super::list;
use crate::cli::output;
use crate::cli::table::{self, Align};
use crate::fastpath::{self, Name};
use anyhow::Result;
use serde_json::{json, Value};

/// Show all that is known of a loaded program
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The program
    name: Name,
    /// Print JSON
    #[arg(short = 'J', long, visible_short_alias = 'j')]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let (program, parts) = fastpath::program(&args.name)?;
    if args.json {
        let mut value = list::to_json(&program);
        value["parts"] = parts
            .iter()
            .map(|part| {
                json!({
                    "name": part.name,
                    "id": part.id,
                    "tag": part.tag,
                    "instructions": part.instructions,
                    "jited_bytes": part.jited_bytes,
                    "verified_instructions": part.verified,
                })
            })
            .collect::<Value>();
        return output::document("program", value);
    }
    let driver = &program.driver;
    let field = |name: &str, value: String| vec![format!("{name}:"), value];
    let mut rows = vec![
        field("name", driver.name.clone()),
        field("state", list::state(&program).into()),
        field("flags", list::flags(&program).join(", ")),
        field("devices", list::devices(&program)),
        field("bad verdicts", driver.bad_verdicts.to_string()),
        field("last bad verdict", driver.reason.clone()),
        field(
            "pinned",
            program
                .pins
                .map_or(String::new(), |dir| dir.display().to_string()),
        ),
    ];
    for part in &parts {
        let code = format!(
            "{} (id {}, tag {}): {} instructions, {} bytes of machine code, {} verified",
            part.name, part.id, part.tag, part.instructions, part.jited_bytes, part.verified
        );
        rows.push(field("program", code));
    }
    const COLUMNS: [(&str, Align); 2] = [("", Align::Left), ("", Align::Left)];
    output::text(&table::aligned(&COLUMNS, &rows, false))
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd-bpf test`

use super::apart;
use crate::cli::output;
use crate::fastpath::{self, Answer, Name, Question, Setting, Source, Verdict};
use crate::uapi::ubd;
use anyhow::{bail, Result};
use clap::ValueEnum;
use serde_json::{json, Value};

/// Ask a program about an io that does not happen, and check its answer as the driver would
///
/// The slots are made up: so many, of that size, open for everything. An answer that the driver
/// would refuse is printed as BAD, and the exit status is 2.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A loaded program or, if there is a file of that name, an object to load for the test
    #[arg(value_name = "NAME|PROG.o")]
    program: String,
    /// What the io does
    #[arg(long, value_enum, default_value_t = Op::Read)]
    op: Op,
    /// First sector (512 bytes) of the io on the device
    #[arg(long, default_value = "0", value_parser = super::number)]
    sector: u64,
    /// Sectors of the io
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    nr: u32,
    /// The number that the program was bound with
    #[arg(long, default_value = "0", value_parser = super::number)]
    cookie: u64,
    /// Slots of the device
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=64))]
    nr_slots: u32,
    /// Sectors of each slot
    #[arg(long, default_value = "0x100000000", value_parser = super::number)]
    slot_sectors: u64,
    /// Logical block of the device and its slots, in bytes
    #[arg(long, default_value_t = 512, value_parser = block_size)]
    block_size: u32,
    /// Set a `const volatile` variable of PROG.o, as in `ubd-bpf load`
    #[arg(long = "set", value_name = "VAR=VALUE", allow_hyphen_values = true)]
    settings: Vec<Setting>,
    /// Print JSON
    #[arg(short = 'J', long, visible_short_alias = 'j')]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Op {
    Read,
    Write,
    Discard,
    WriteZeroes,
}

impl Op {
    fn number(self) -> u32 {
        match self {
            Op::Read => ubd::OP_READ,
            Op::Write => ubd::OP_WRITE,
            Op::Discard => ubd::OP_DISCARD,
            Op::WriteZeroes => ubd::OP_WRITE_ZEROES,
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let question = question(args)?;
    let is_file = args.program.contains('/') || std::path::Path::new(&args.program).exists();
    if is_file {
        return apart::run(&args.program, || {
            let source = Source::find(&args.program)?;
            let answer = fastpath::ask_object(&source, &args.settings, &question)?;
            tell(args, &question, &answer)
        });
    }
    let answer = if args.settings.is_empty() {
        fastpath::ask(&args.program.parse::<Name>()?, &question)?
    } else {
        bail!(
            "failed to set variables of `{}`: it is loaded, and they are set at load",
            args.program
        );
    };
    tell(args, &question, &answer)
}

fn tell(args: &Args, question: &Question, answer: &Answer) -> Result<()> {
    if args.json {
        output::document("test", to_json(question, answer))?;
    } else {
        output::line(&answer.to_string())?;
    }
    match answer.verdict {
        Verdict::Bad { .. } => bail!(
            "the driver would refuse this answer of `{}` and ask the daemon",
            args.program
        ),
        _ => Ok(()),
    }
}

fn question(args: &Args) -> Result<Question> {
    let block = u64::from(args.block_size / 512);
    if args.sector % block != 0 || u64::from(args.nr) % block != 0 {
        bail!("failed to ask: --sector and --nr must be multiples of the block, {block} sectors");
    }
    Ok(Question {
        op: args.op.number(),
        sector: args.sector,
        sectors: args.nr,
        cookie: args.cookie,
        slots: args.nr_slots,
        slot_sectors: args.slot_sectors,
        block_size: args.block_size,
    })
}

fn block_size(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(bytes @ (512 | 1024 | 2048 | 4096)) => Ok(bytes),
        _ => Err("it must be 512, 1024, 2048 or 4096".into()),
    }
}

fn to_json(question: &Question, answer: &Answer) -> Value {
    let mut value = json!({
        "sector": question.sector,
        "nr_sectors": question.sectors,
        "map_sectors": answer.sectors,
    });
    let (verdict, more) = match &answer.verdict {
        Verdict::Map { slot, sector } => (
            "map",
            vec![("slot", json!(slot)), ("map_sector", json!(sector))],
        ),
        Verdict::Decline => ("decline", vec![]),
        Verdict::Zero => ("zero", vec![]),
        Verdict::Error(errno) => (
            "error",
            vec![("errno", json!(fastpath::errno_name(*errno)))],
        ),
        Verdict::Bad { returned, reason } => (
            "bad",
            vec![("returned", json!(returned)), ("reason", json!(reason))],
        ),
    };
    value["verdict"] = verdict.into();
    for (key, what) in more {
        value[key] = what;
    }
    value
}

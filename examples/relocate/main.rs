// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device whose data never stays where it is, while it is in use.
//!
//! ```text
//! relocate FILE [CLUSTER_BYTES]
//! ```
//!
//! FILE, a regular file or block device, is shown as `/dev/ubdbN`, but for its last eighth. Reads
//! and writes are mapped inside the kernel by a cluster map; meanwhile a thread moves random
//! clusters to other places in FILE, for ever. The order of what is in FILE is lost at the end:
//! give it one that nobody needs. `docs/cluster-map.md` walks through it.

mod mover;
mod target;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use ubd_bpf::control::{block_node, AddRequest, Control};
use ubd_bpf::daemon::{self, Config, FastPath, Started};
use ubd_bpf::Kind;

use mover::Mover;
use target::Moving;

const USAGE: &str = "usage: relocate FILE [CLUSTER_BYTES]";

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let path = args.next().context(USAGE)?;
    let cluster_bytes = match args.next() {
        None => 65536,
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .context(USAGE)?,
    };
    let name = format!("relocate{}", std::process::id()).parse()?;
    let target = Arc::new(Moving::open(path.into(), None, name, cluster_bytes)?);
    let config = Config {
        control: Control::open()?,
        add: AddRequest {
            id: None,
            queues: 1,
            depth: 64,
            max_io_bytes: 512 << 10,
            ..AddRequest::default()
        },
        fast_path: Some(FastPath {
            program: target.map.name().to_string(),
            cookie: 0,
            settings: Vec::new(),
            ..FastPath::default()
        }),
        forward: false,
        target: target.clone(),
    };
    // The daemon sees no file system once it runs.
    let control = Control::open()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let served = daemon::serve(config, |Started { id }| {
            println!("{}", block_node(id));
            let (target, stop, control) = (&target, &stop, &control);
            scope.spawn(move || move_for_ever(target, stop, control, id));
        });
        stop.store(true, Ordering::Relaxed);
        Ok(served?)
    })
}

fn move_for_ever(target: &Moving, stop: &AtomicBool, control: &Control, id: u32) {
    let mover = Mover::new(target);
    while !stop.load(Ordering::Relaxed) {
        match mover.step(|| control.fence(id)) {
            Ok(_) => {}
            // It was deleted.
            Err(err) if err.kind() == Kind::NotFound => return,
            Err(err) => {
                eprintln!("{err:#}");
                return;
            }
        }
    }
}

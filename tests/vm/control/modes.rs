// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ways in which data gets to a server, and who may serve a tag: a server that keeps the
//! device's bytes in its memory, in each of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use io_uring::squeue;
use ubd_bpf::control::{AddRequest, Control};
use ubd_bpf::uapi::ublk;

use super::server::{
    delete, descs_len, map, open_node, params, spawn_writer, Queue, IO_BYTES, SECTORS,
};
use crate::support::io::{open_direct, read_direct};
use crate::support::model::Model;
use crate::support::{seconds, Fio, Ubd};

pub const DEPTH: u16 = 8;
const IO_BUF_OFFSET: u64 = 0x8000_0000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// With FETCH and COMMIT, by the driver.
    Copied,
    /// By the server, reading and writing the char device.
    UserCopy,
    /// Of writes when it asks for them.
    OnDemand,
}

/// Where data of queue 0 lies in the char device.
fn place(tag: u16) -> u64 {
    IO_BUF_OFFSET + (u64::from(tag) << 25)
}

/// Serves `tags` of queue 0 from one thread and ring, until the driver has taken them back.
fn serve(node: File, tags: Vec<u16>, data: Data, store: &Mutex<Vec<u8>>) -> Result<u64> {
    let descs = map(&node, libc::PROT_READ, descs_len(DEPTH), 0)?;
    let mut queue = Queue::new(node, 0, DEPTH)?;
    let plain = squeue::Flags::empty();
    let command = |queue: &Queue, tag, result| match data {
        Data::UserCopy => ublk::IoCmd {
            addr: 0,
            ..queue.cmd(tag, result)
        },
        _ => queue.cmd(tag, result),
    };
    for &tag in &tags {
        let mut fetch = command(&queue, tag, 0);
        if data == Data::OnDemand {
            fetch.addr = 0;
        }
        queue.submit(ublk::U_IO_FETCH_REQ, fetch, plain)?;
    }
    let (mut live, mut served) = (tags.len(), 0);
    while live > 0 {
        let Some((tag, result)) = queue.next(seconds(1))? else {
            continue;
        };
        if result == ublk::IO_RES_ABORT {
            live -= 1;
            continue;
        }
        if result == ublk::IO_RES_NEED_GET_DATA {
            ensure!(data == Data::OnDemand, "data on demand, unasked");
            queue.submit(ublk::U_IO_NEED_GET_DATA, command(&queue, tag, 0), plain)?;
            continue;
        }
        ensure!(result == ublk::IO_RES_OK, "tag {tag} ended with {result}");
        // SAFETY: the mapping holds DEPTH descriptors, this one is ours by the completion.
        let desc = unsafe { descs.cast::<ublk::IoDesc>().add(tag.into()).read_volatile() };
        let (at, len) = (
            (desc.start_sector << 9) as usize,
            (desc.nr_sectors << 9) as usize,
        );
        let mut store = store.lock().expect("the store");
        match (desc.op_flags & 0xff, data) {
            (ublk::IO_OP_READ, Data::UserCopy) => {
                queue.node.write_all_at(&store[at..at + len], place(tag))?;
            }
            (ublk::IO_OP_WRITE, Data::UserCopy) => {
                queue
                    .node
                    .read_exact_at(&mut store[at..at + len], place(tag))?;
            }
            (ublk::IO_OP_READ, _) => queue.buffer(tag)[..len].copy_from_slice(&store[at..at + len]),
            (ublk::IO_OP_WRITE, _) => {
                store[at..at + len].copy_from_slice(&queue.buffer(tag)[..len])
            }
            _ => {}
        }
        drop(store);
        let commit = command(&queue, tag, len as i32);
        queue.submit(ublk::U_IO_COMMIT_AND_FETCH_REQ, commit, plain)?;
        served += 1;
    }
    // SAFETY: mapped above, not used any more.
    unsafe { libc::munmap(descs, descs_len(DEPTH)) };
    Ok(served)
}

/// What a thread of a server does with the char device; gives the number of requests served.
pub type Serve = Box<dyn FnOnce(File) -> Result<u64> + Send>;

/// A device that is served by threads of this process.
pub struct Store {
    control: Control,
    device: Ubd,
    threads: Vec<JoinHandle<Result<u64>>>,
}

impl Store {
    /// One in memory, served by a thread for each of `tags`.
    fn start(flags: u64, data: Data, tags: &[Vec<u16>]) -> Result<Store> {
        let store = Arc::new(Mutex::new(vec![0; (SECTORS << 9) as usize]));
        let serve = |tags: &Vec<u16>| -> Serve {
            let (tags, store) = (tags.clone(), store.clone());
            Box::new(move |node| serve(node, tags, data, &store))
        };
        Store::serve(flags, tags.iter().map(serve).collect())
    }

    /// One with [`DEPTH`] tags and the parameters of [`params`].
    pub fn serve(flags: u64, servers: Vec<Serve>) -> Result<Store> {
        let control = Control::open()?;
        let info = control.add(&AddRequest {
            queues: 1,
            depth: DEPTH,
            max_io_bytes: IO_BYTES as u32,
            flags,
            ..AddRequest::default()
        })?;
        let device = Ubd::adopt(info.dev_id);
        ensure!(
            info.flags & flags == flags,
            "got the flags {:#x}",
            info.flags
        );
        control.set_params(info.dev_id, &params())?;
        let node = open_node(info.dev_id)?;
        let threads = servers
            .into_iter()
            .map(|serve| {
                let node = node.try_clone()?;
                Ok(std::thread::spawn(move || serve(node)))
            })
            .collect::<Result<_>>()?;
        drop(node);
        control.start(info.dev_id, std::process::id())?;
        Ok(Store {
            control,
            device,
            threads,
        })
    }

    /// Random I/O against the model and fio's verification; every thread must have had some.
    pub fn check(self) -> Result<()> {
        let checked = self.check_data();
        delete(&self.control, self.device)?;
        for thread in self.threads {
            // Why a server failed says more than that its device did.
            let served = thread.join().expect("joining")?;
            ensure!(
                served > 0 || checked.is_err(),
                "a thread has served nothing"
            );
        }
        checked
    }

    fn check_data(&self) -> Result<()> {
        let node = self.device.node();
        let mut model = Model::of(&self.device, vec![0; (SECTORS << 9) as usize], false)?;
        model.run(&node, 7, 400)?;
        Fio::verify(&node, 300).run()?;
        Ok(())
    }
}

fn one_thread() -> Vec<Vec<u16>> {
    vec![(0..DEPTH).collect()]
}

pub fn copied() -> Result<()> {
    Store::start(0, Data::Copied, &one_thread())?.check()
}

pub fn user_copy() -> Result<()> {
    Store::start(ublk::F_USER_COPY, Data::UserCopy, &one_thread())?.check()
}

pub fn data_on_demand() -> Result<()> {
    Store::start(ublk::F_NEED_GET_DATA, Data::OnDemand, &one_thread())?.check()
}

/// Half of the tags with one thread, which are delivered together, the others with one each.
pub fn task_per_tag() -> Result<()> {
    let half = DEPTH / 2;
    let tags: Vec<_> = std::iter::once((0..half).collect())
        .chain((half..DEPTH).map(|tag| vec![tag]))
        .collect();
    Store::start(ublk::F_PER_IO_DAEMON, Data::Copied, &tags)?.check()
}

/// The char device gives data of requests only, in their direction, and within their bounds.
pub fn user_copy_bounds() -> Result<()> {
    let control = Control::open()?;
    let info = control.add(&AddRequest {
        queues: 1,
        depth: DEPTH,
        max_io_bytes: IO_BYTES as u32,
        flags: ublk::F_USER_COPY | ublk::F_NO_AUTO_PART_SCAN,
        ..AddRequest::default()
    })?;
    let device = Ubd::adopt(info.dev_id);
    control.set_params(info.dev_id, &params())?;
    let mut queue = Queue::new(open_node(info.dev_id)?, 0, DEPTH)?;
    let bare = |queue: &Queue, tag, result| ublk::IoCmd {
        addr: 0,
        ..queue.cmd(tag, result)
    };
    let refused = queue.now(ublk::U_IO_FETCH_REQ, queue.cmd(0, 0))?;
    ensure!(
        refused == -libc::EINVAL,
        "FETCH with a buffer got {refused}"
    );
    for tag in 0..DEPTH {
        queue.submit(
            ublk::U_IO_FETCH_REQ,
            bare(&queue, tag, 0),
            squeue::Flags::empty(),
        )?;
    }
    let id = info.dev_id;
    control.start(id, std::process::id())?;
    let descs = map(&queue.node, libc::PROT_READ, descs_len(DEPTH), 0)?;
    let (disk, mut writer) = (open_direct(device.node(), true)?, None);
    let tag = loop {
        // Others look at the disk first; who writes comes when they are done.
        let Some((tag, result)) = queue.next(seconds(1))? else {
            ensure!(writer.is_none(), "no request came");
            writer = Some(spawn_writer(&disk, 1..2, 0xa5)?);
            continue;
        };
        ensure!(result == ublk::IO_RES_OK, "tag {tag} ended with {result}");
        // SAFETY: the mapping holds DEPTH descriptors, this one is ours by the completion.
        let desc = unsafe { descs.cast::<ublk::IoDesc>().add(tag.into()).read_volatile() };
        if desc.op_flags & 0xff == ublk::IO_OP_WRITE {
            break tag;
        }
        let data = vec![0; (desc.nr_sectors << 9) as usize];
        queue.node.write_all_at(&data, place(tag))?;
        let done = bare(&queue, tag, data.len() as i32);
        queue.submit(
            ublk::U_IO_COMMIT_AND_FETCH_REQ,
            done,
            squeue::Flags::empty(),
        )?;
    };
    let errno = |res: std::io::Result<usize>| res.err().and_then(|err| err.raw_os_error());
    let mut data = [0; 8192];
    let node = &queue.node;
    ensure!(
        node.read_at(&mut data, place(tag) + 1024)? == 3072,
        "not cut at the end"
    );
    ensure!(
        data[..3072] == [0xa5; 3072] && data[3072] == 0,
        "not its data"
    );
    let cases = [
        ("beyond the request", place(tag) + 4097, libc::EINVAL),
        (
            "a tag without a request",
            place((tag + 1) % DEPTH),
            libc::EINVAL,
        ),
        ("no such tag", place(DEPTH), libc::EINVAL),
        ("no such queue", place(tag) + (1 << 41), libc::EINVAL),
        ("beyond all queues", place(tag) + (1 << 54), libc::EINVAL),
        ("the descriptors", 0, libc::EINVAL),
    ];
    for (what, at, want) in cases {
        let got = errno(node.read_at(&mut data, at));
        ensure!(got == Some(want), "{what}: {got:?}");
    }
    let got = errno(node.write_at(&data, place(tag)));
    ensure!(got == Some(libc::EACCES), "data for a write: {got:?}");
    let done = bare(&queue, tag, 4096);
    queue.submit(
        ublk::U_IO_COMMIT_AND_FETCH_REQ,
        done,
        squeue::Flags::empty(),
    )?;
    writer.context("no writer")?.join().expect("joining")?;
    let got = errno(queue.node.read_at(&mut data, place(tag)));
    ensure!(
        got == Some(libc::EINVAL),
        "data of a request that has ended: {got:?}"
    );
    // SAFETY: mapped above, not used any more.
    unsafe { libc::munmap(descs, descs_len(DEPTH)) };
    drop((queue, disk));
    delete(&control, device)
}

/// TRY_STOP: not while somebody has it open.
pub fn safe_stop() -> Result<()> {
    let store = Store::start(0, Data::Copied, &one_thread())?;
    let id = store.device.id();
    crate::support::sh("settle")?;
    let user = File::open(store.device.node())?;
    let busy = store
        .control
        .try_stop(id)
        .expect_err("stopped although open");
    ensure!(
        busy.errno() == Some(libc::EBUSY) || busy.kind() == ubd_bpf::error::Kind::Busy,
        "{busy:#}"
    );
    read_direct(store.device.node(), 0, 4096)?;
    drop(user);
    // udev may be looking at it.
    crate::support::wait_for("a stop", Duration::from_secs(20), || {
        store.control.try_stop(id).is_ok()
    })?;
    ensure!(
        !std::path::Path::new(&store.device.node()).exists(),
        "the disk is there"
    );
    delete(&store.control, store.device)?;
    for thread in store.threads {
        thread.join().expect("joining")?;
    }
    Ok(())
}

/// Descriptors may lie further apart than they are long.
pub fn large_descriptors() -> Result<()> {
    const APART: u16 = 256;
    let control = Control::open()?;
    let add = |flags, desc_bytes| {
        control.add(&AddRequest {
            queues: 1,
            depth: DEPTH,
            max_io_bytes: IO_BYTES as u32,
            flags: flags | ublk::F_NO_AUTO_PART_SCAN,
            desc_bytes,
            ..AddRequest::default()
        })
    };
    for wrong in [0, 16, 28, APART + 8] {
        let got = add(ublk::F_IO_DESC_SIZE, wrong).expect_err("added");
        ensure!(got.errno() == Some(libc::EINVAL), "{wrong} bytes: {got:#}");
    }
    let plain = add(0, APART)?;
    let device = Ubd::adopt(plain.dev_id);
    ensure!(plain.io_desc_size == 24, "{} bytes", plain.io_desc_size);
    delete(&control, device)?;

    let info = add(ublk::F_IO_DESC_SIZE, APART)?;
    let device = Ubd::adopt(info.dev_id);
    ensure!(info.io_desc_size == APART, "{} bytes", info.io_desc_size);
    control.set_params(info.dev_id, &params())?;
    let mut queue = Queue::new(open_node(info.dev_id)?, 0, DEPTH)?;
    let len = usize::from(DEPTH * APART).next_multiple_of(4096);
    let descs = map(&queue.node, libc::PROT_READ, len, 0)?;
    for tag in 0..DEPTH {
        queue.fetch(tag)?;
    }
    control.start(info.dev_id, std::process::id())?;
    let disk = open_direct(device.node(), true)?;
    // All tags have their turn.
    let writes = 4 * u64::from(DEPTH);
    let writer = spawn_writer(&disk, 0..writes, 1)?;
    let mut seen = 0;
    while seen < writes {
        let (tag, result) = queue.next(seconds(20))?.context("no request came")?;
        ensure!(result == ublk::IO_RES_OK, "tag {tag} ended with {result}");
        // SAFETY: the mapping holds DEPTH descriptors, this one is ours by the completion.
        let desc = unsafe {
            let at = descs.cast::<u8>().add(usize::from(tag * APART));
            at.cast::<ublk::IoDesc>().read_volatile()
        };
        if desc.op_flags & 0xff == ublk::IO_OP_WRITE {
            ensure!(desc.start_sector == seen * 8, "{desc:?}, not write {seen}");
            seen += 1;
        }
        let done = queue.cmd(tag, (desc.nr_sectors << 9) as i32);
        let commit = ublk::U_IO_COMMIT_AND_FETCH_REQ;
        queue.submit(commit, done, squeue::Flags::empty())?;
    }
    writer.join().expect("joining")?;
    // SAFETY: mapped above, not used any more.
    unsafe { libc::munmap(descs, len) };
    drop((queue, disk));
    delete(&control, device)
}

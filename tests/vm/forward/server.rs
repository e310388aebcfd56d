// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device of one queue, served by a thread that does to each request what a test wants.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{ensure, Context, Result};
use io_uring::squeue::Flags;
use ubd_bpf::control::{AddRequest, Control, Slot};
use ubd_bpf::uapi::{ubd, ublk};

use crate::control::server::{delete, descs_len, map, open_node, params, Queue, IO_BYTES};
use crate::support::{seconds, sh, Ubd};

pub const DEPTH: u16 = 16;

/// What is behind slot 0, 1, … and how the device is to be.
pub struct Setup<'a> {
    /// With whether it may be written.
    pub slots: &'a [(&'a Path, bool)],
    pub params: ublk::Params,
    /// Of ublk.
    pub flags: u64,
}

impl<'a> Setup<'a> {
    /// A device of `sectors`, without a cache.
    pub fn new(slots: &'a [(&'a Path, bool)], sectors: u64) -> Setup<'a> {
        let mut params = params();
        params.basic.dev_sectors = sectors;
        Setup {
            slots,
            params,
            flags: 0,
        }
    }
}

/// What has become of a tag.
pub struct Event<'a> {
    pub tag: u16,
    /// 0: it has a new request; else why its last command was refused.
    pub result: i32,
    /// The request.
    pub desc: ublk::IoDesc,
    pub queue: &'a mut Queue,
    user_copy: bool,
}

impl Event<'_> {
    pub fn op(&self) -> u32 {
        self.desc.op_flags & 0xff
    }

    /// The whole request, to the same place of slot 0.
    pub fn forward(&mut self) -> Result<()> {
        let at = (0, self.desc.start_sector);
        self.queue.forward(self.tag, at, 0, 0)
    }

    /// The first `sectors` sectors to a slot and a sector there.
    pub fn forward_to(&mut self, at: (u32, u64), sectors: u32) -> Result<()> {
        self.queue.forward(self.tag, at, sectors, 0)
    }

    /// As [`Self::forward`], with a word to install; it must stay where it is.
    pub fn install(&mut self, install: &ubd::Install) -> Result<()> {
        let at = (0, self.desc.start_sector);
        self.queue
            .forward(self.tag, at, 0, &raw const *install as u64)
    }

    /// COMMIT.
    pub fn answer(&mut self, result: i32) -> Result<()> {
        let mut cmd = self.queue.cmd(self.tag, result);
        if self.user_copy {
            cmd.addr = 0;
        }
        self.queue
            .submit(ublk::U_IO_COMMIT_AND_FETCH_REQ, cmd, Flags::empty())
    }
}

/// The device; stopped and deleted when dropped.
pub struct Device {
    pub control: Control,
    pub ubd: Ubd,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Device {
    /// Starts it; `on` is called for each event, and submits one command.
    pub fn start(
        setup: &Setup<'_>,
        on: impl FnMut(&mut Event<'_>) -> Result<()> + Send + 'static,
    ) -> Result<Device> {
        let control = Control::open()?;
        let info = control.add(&AddRequest {
            queues: 1,
            depth: DEPTH,
            max_io_bytes: IO_BYTES as u32,
            flags: setup.flags,
            ..AddRequest::default()
        })?;
        let id = info.dev_id;
        let ubd = Ubd::adopt(id);
        control.set_params(id, &setup.params)?;
        for (number, (path, write)) in (0..).zip(setup.slots) {
            let file = OpenOptions::new().read(true).write(*write).open(path)?;
            control.register_slot(
                id,
                &Slot {
                    file: file.as_fd(),
                    write: *write,
                    direct: file.metadata()?.is_file(),
                    offset: 0,
                    sectors: 0,
                    number: Some(number),
                },
            )?;
        }
        let user_copy = setup.flags & ublk::F_USER_COPY != 0;
        let thread = std::thread::spawn(move || serve(id, user_copy, on));
        let device = Device {
            control,
            ubd,
            thread: Some(thread),
        };
        device.control.start(id, std::process::id())?;
        sh("settle")?;
        Ok(device)
    }

    /// Deletes it; an error if the server had one.
    pub fn end(mut self) -> Result<()> {
        let thread = self.thread.take().context("ended already")?;
        delete(&self.control, self.ubd)?;
        thread.join().expect("the server")
    }
}

fn serve(id: u32, user_copy: bool, mut on: impl FnMut(&mut Event<'_>) -> Result<()>) -> Result<()> {
    let node = open_node(id)?;
    let descs = map(&node, libc::PROT_READ, descs_len(DEPTH), 0)?;
    let mut queue = Queue::new(node, 0, DEPTH)?;
    for tag in 0..DEPTH {
        let mut cmd = queue.cmd(tag, 0);
        if user_copy {
            cmd.addr = 0;
        }
        queue.submit(ublk::U_IO_FETCH_REQ, cmd, Flags::empty())?;
    }
    let mut live = DEPTH;
    while live > 0 {
        let Some((tag, result)) = queue.next(seconds(1))? else {
            continue;
        };
        if result == ublk::IO_RES_ABORT {
            live -= 1;
            continue;
        }
        ensure!(result <= 0, "tag {tag} ended with {result}");
        // SAFETY: the mapping holds DEPTH descriptors, this one is ours by the completion.
        let desc = unsafe { descs.cast::<ublk::IoDesc>().add(tag.into()).read_volatile() };
        on(&mut Event {
            tag,
            result,
            desc,
            queue: &mut queue,
            user_copy,
        })?;
    }
    // SAFETY: mapped above, not used any more.
    unsafe { libc::munmap(descs, descs_len(DEPTH)) };
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes by io_submit: one at a time, and nobody waits for it meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{ensure, Context, Result};

const PWRITE: u16 = 1;

/// `struct io_event`.
#[repr(C)]
#[derive(Default)]
struct Event {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// A context for one operation.
pub struct Aio(libc::c_ulong);

fn checked(what: &str, res: libc::c_long) -> Result<libc::c_long> {
    if res < 0 {
        return Err(io::Error::last_os_error()).context(format!("{what} failed"));
    }
    Ok(res)
}

impl Aio {
    pub fn new() -> Result<Aio> {
        let mut ctx: libc::c_ulong = 0;
        // SAFETY: the kernel fills in the context's number.
        checked("io_setup", unsafe {
            libc::syscall(libc::SYS_io_setup, 1, &raw mut ctx)
        })?;
        Ok(Aio(ctx))
    }

    /// Begins to write. `data` must live until [`Self::end`].
    pub fn write(&self, file: &File, data: &[u8], at: i64) -> Result<()> {
        // SAFETY: integers alone.
        let mut iocb: libc::iocb = unsafe { std::mem::zeroed() };
        iocb.aio_lio_opcode = PWRITE;
        iocb.aio_fildes = file.as_raw_fd() as u32;
        iocb.aio_buf = data.as_ptr() as u64;
        iocb.aio_nbytes = data.len() as u64;
        iocb.aio_offset = at;
        let list = [&raw mut iocb];
        // SAFETY: the kernel copies the list and what is in it; the data is the caller's to keep.
        let taken = checked("io_submit", unsafe {
            libc::syscall(libc::SYS_io_submit, self.0, 1, list.as_ptr())
        })?;
        ensure!(taken == 1, "io_submit took {taken}");
        Ok(())
    }

    /// The result of the write; `wait` until there is one.
    pub fn end(&self, wait: bool) -> Result<Option<i64>> {
        let mut event = Event::default();
        let least = libc::c_long::from(wait);
        // SAFETY: room for one event, and no limit to the waiting.
        let got = checked("io_getevents", unsafe {
            libc::syscall(libc::SYS_io_getevents, self.0, least, 1, &raw mut event, 0)
        })?;
        Ok((got == 1).then_some(event.res))
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: waits for what is under way, and forgets it.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loop that serves one queue on one ring.

mod entries;
mod entry;

use super::buffers::Buffers;
use super::data::Data;
use super::node::{CharNode, Descriptors};
use super::patience::Patience;
use super::pinned::Pinned;
use super::request::{Handler, Install, Request, Step};
use super::signal::Ticket;
use crate::error::{Context, Error, Kind, Result};
use crate::uapi::ublk;
use io_uring::{cqueue, squeue, types, IoUring};
use nix::errno::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use entry::Entry;

/// The character node's place among the ring's registered files; those of the
/// handler follow.
const NODE: types::Fixed = types::Fixed(0);

/// What a completion is of; kept above the tag in the user data.
const KIND_IO_CMD: u64 = 0;
const KIND_BACKING: u64 = 1;
const KIND_WAIT: u64 = 2;
const KIND_FORWARD: u64 = 3;
const KIND_REGISTER: u64 = 4;
const KIND_UNREGISTER: u64 = 5;

/// One queue of a device: its ring, descriptors, buffers and handler.
///
/// Make it and run it on the same thread: the driver answers only to the
/// thread that fetched.
pub struct Queue<'a> {
    /// Goes before the ring, whose number it takes back.
    entry: Entry,
    ring: IoUring,
    id: u16,
    node: &'a CharNode,
    data: Data,
    descriptors: Descriptors,
    buffers: Buffers,
    pinned: Pinned,
    requests: Vec<Option<Request>>,
    /// What the tags wait for; the ring has its address.
    tickets: Vec<Option<Ticket>>,
    /// What the driver is to install; it reads them when their commands are submitted.
    installs: Vec<Option<Install>>,
    /// Answers of requests whose pages were registered by hand, and are to be unregistered first.
    by_hand: HashMap<u16, Option<Result<u32, Errno>>>,
    handler: Box<dyn Handler + 'a>,
}

impl<'a> Queue<'a> {
    /// Sets up queue `id` of the device behind `node`, described by `info`, to
    /// be served by `handler`, whose operations name files by their place in `files`.
    pub fn new(
        node: &'a CharNode,
        info: &ublk::DevInfo,
        id: u16,
        files: &[BorrowedFd<'_>],
        handler: Box<dyn Handler + 'a>,
    ) -> Result<Self> {
        let depth = info.queue_depth;
        let ring = new_ring(depth.into())?;
        let fds: Vec<_> = std::iter::once(node.as_fd())
            .chain(files.iter().copied())
            .map(|fd| fd.as_raw_fd())
            .collect();
        ring.submitter()
            .register_files(&fds)
            .context(|| "failed to register the files of a queue with its ring")?;
        let data = Data::of(info.flags);
        if data == Data::Stays {
            ring.submitter()
                .register_buffers_sparse(depth.into())
                .context(|| "failed to make room for the registered buffers of a queue")?;
        }
        let pinned = match data {
            Data::Stays => Pinned::never(depth),
            _ => Pinned::new(&ring, depth),
        };
        Ok(Queue {
            entry: Entry::new(&ring),
            ring,
            id,
            node,
            data,
            by_hand: HashMap::new(),
            descriptors: node.descriptors(id, depth)?,
            buffers: Buffers::new(depth, info.max_io_buf_bytes)?,
            pinned,
            requests: vec![None; depth.into()],
            tickets: vec![None; depth.into()],
            installs: vec![None; depth.into()],
            handler,
        })
    }

    /// Fetches with every tag, calls `fetched` once the driver has the commands,
    /// then serves requests until the driver has taken all tags back.
    ///
    /// # Errors
    /// The ring fails, or the driver refuses the fetch; `fetched` is not called then.
    pub fn run(&mut self, fetched: impl FnOnce()) -> Result<()> {
        let depth = self.requests.len() as u16;
        for tag in 0..depth {
            let sqe = self.io_cmd(ublk::U_IO_FETCH_REQ, tag, 0);
            self.push(&sqe)?;
        }
        self.submit(0)?;
        // A refused fetch completes at once; a good one does not before START.
        if let Some(cqe) = self.ended() {
            let errno = Errno::from_raw(-cqe.result());
            return Err(Error::os(
                format!("the driver refused to serve queue {}", self.id),
                errno,
            ));
        }
        fetched();

        let mut patience = Patience::begin();
        let mut live = depth;
        while live > 0 {
            self.submit(1)?;
            let mut requests = 0;
            while let Some(cqe) = self.ended() {
                requests += u32::from(is_request(&cqe));
                live -= u16::from(self.complete(&cqe)? == Tag::Ended);
            }
            patience.learn(requests);
        }
        Ok(())
    }

    /// Handles one completion.
    fn complete(&mut self, cqe: &cqueue::Entry) -> Result<Tag> {
        let (tag, res) = (cqe.user_data() as u16, cqe.result());
        let index = usize::from(tag);
        let step = match cqe.user_data() >> 16 {
            KIND_IO_CMD | KIND_FORWARD if res == ublk::IO_RES_OK => {
                let desc = self.descriptors.read(tag);
                let req = Request::new(tag, &desc);
                self.requests[index] = Some(req);
                if desc.op_flags & ublk::IO_F_NEED_REG_BUF != 0 {
                    self.push(&self.register(ublk::U_IO_REGISTER_IO_BUF, KIND_REGISTER, tag))?;
                    return Ok(Tag::Live);
                }
                self.start(&req)
            }
            KIND_FORWARD if res != ublk::IO_RES_ABORT => {
                let req = self.requests[index].ok_or_else(|| unexpected(cqe))?;
                self.refused(&req, known(Errno::from_raw(-res)))
            }
            KIND_IO_CMD | KIND_FORWARD => {
                self.requests[index] = None;
                if res != ublk::IO_RES_ABORT {
                    let errno = Errno::from_raw(-res);
                    log::warn!("queue {}: the driver closed tag {tag}: {errno}", self.id);
                }
                return Ok(Tag::Ended);
            }
            KIND_BACKING => {
                let req = self.requests[index].ok_or_else(|| unexpected(cqe))?;
                let res = u32::try_from(res).map_err(|_| known(Errno::from_raw(-res)));
                // SAFETY: the only backing operation of the tag has just ended.
                self.handler
                    .resume(&req, unsafe { self.buffers.slice(tag) }, res)
            }
            KIND_WAIT => {
                let req = self.requests[index].ok_or_else(|| unexpected(cqe))?;
                self.tickets[index] = None;
                // An old ticket (EAGAIN) and an interruption are ends too: the
                // handler looks again.
                match -res {
                    libc::EAGAIN | libc::EINTR | ..=0 => {}
                    errno => return Err(no_futex(Errno::from_raw(errno))),
                }
                // SAFETY: a tag that waits has no backing operation.
                self.handler
                    .resume(&req, unsafe { self.buffers.slice(tag) }, Ok(0))
            }
            KIND_REGISTER => {
                let req = self.requests[index].ok_or_else(|| unexpected(cqe))?;
                match res {
                    0.. => {
                        self.by_hand.insert(tag, None);
                        self.start(&req)
                    }
                    _ => Step::Done(Err(Errno::from_raw(-res))),
                }
            }
            KIND_UNREGISTER => match self.by_hand.remove(&tag) {
                Some(Some(answer)) => Step::Done(answer),
                _ => return Err(unexpected(cqe)),
            },
            _ => return Err(unexpected(cqe)),
        };
        let sqe = match step {
            Step::Submit(op) => self.backing(tag, &op),
            Step::Wait(ticket) => self.wait(tag, ticket),
            // Its buffer is in the ring by hand, which keeps the request.
            Step::Forward(_) if self.by_hand.contains_key(&tag) => {
                return Err(Error::new(
                    Kind::Protocol,
                    "a request cannot be forwarded while its pages are registered by hand",
                ))
            }
            Step::Forward(to) => self.forward(tag, &to),
            Step::Done(res) if self.by_hand.contains_key(&tag) => {
                self.by_hand.insert(tag, Some(res));
                self.register(ublk::U_IO_UNREGISTER_IO_BUF, KIND_UNREGISTER, tag)
            }
            Step::Done(res) => {
                let res = self.deliver(tag, res);
                self.requests[index] = None;
                self.io_cmd(ublk::U_IO_COMMIT_AND_FETCH_REQ, tag, answer(res))
            }
        };
        self.push(&sqe)?;
        Ok(Tag::Live)
    }

    /// Hands a request to the handler.
    fn start(&mut self, req: &Request) -> Step {
        // SAFETY: the driver has handed the tag over, and no backing operation of it has begun.
        let buf = unsafe { self.buffers.slice(req.tag) };
        if self.handler.starts_blind() {
            return self.handler.start(req, buf);
        }
        match self.data.fetch(self.node, self.id, req, buf) {
            Ok(()) => self.handler.start(req, buf),
            Err(errno) => Step::Done(Err(errno)),
        }
    }

    /// Gives a request back to the handler that the driver will not do.
    fn refused(&mut self, req: &Request, why: Errno) -> Step {
        // SAFETY: the driver has left the tag to us, and no backing operation of it has begun.
        let buf = unsafe { self.buffers.slice(req.tag) };
        match self.data.fetch(self.node, self.id, req, buf) {
            Ok(()) => self.handler.resume(req, buf, Err(why)),
            Err(errno) => Step::Done(Err(errno)),
        }
    }

    /// Hands over what the handler has read; gives what is answered.
    fn deliver(&mut self, tag: u16, res: Result<u32, Errno>) -> Result<u32, Errno> {
        let Some(req) = self.requests[usize::from(tag)] else {
            return res;
        };
        // SAFETY: the handler has answered, so the last operation of the tag has ended.
        let buf = unsafe { self.buffers.slice(tag) };
        self.data.deliver(self.node, self.id, &req, buf, res)
    }

    fn push(&mut self, sqe: &squeue::Entry) -> Result<()> {
        // SAFETY: an I/O command's argument is inside the SQE, the buffers stay
        // mapped until their operations have ended (`drop` sees to that), and so
        // do the words of tickets and what is to be installed, which the kernel only reads.
        unsafe { self.ring.submission().push(sqe) }
            .map_err(|err| Error::caused_by(Kind::Protocol, "more operations than tags", err))
    }

    fn ended(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    fn failed(&self) -> String {
        format!("failed to run the ring of queue {}", self.id)
    }

    fn submit(&mut self, want: u32) -> Result<()> {
        loop {
            match self.entry.enter(&mut self.ring, want) {
                Ok(()) => return Ok(()),
                Err(err) if err.raw_os_error() == Some(libc::EINTR) => {}
                // The kernel has no memory for an operation. What is under way gives some back, and
                // somebody may wait for its end.
                Err(err) if err.raw_os_error() == Some(libc::EAGAIN) => {
                    thread::sleep(Duration::from_millis(1));
                    if want > 0 {
                        return self.entry.look().context(|| self.failed());
                    }
                }
                Err(err) => return Err(err).context(|| self.failed()),
            }
        }
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        // Closing a ring does not wait for its operations. Only a failed queue
        // has any left, and its process is about to end.
        if self.requests.iter().any(Option::is_some) {
            self.buffers.leak();
        }
    }
}

#[derive(PartialEq, Eq)]
enum Tag {
    Live,
    /// The driver took it back for good.
    Ended,
}

/// A ring with room for one operation a tag, in the cheapest mode there is.
///
/// DEFER_TASKRUN runs the driver's task work in our own wait for completions
/// instead of interrupting the thread; it asks for SINGLE_ISSUER. Entries are
/// submitted in their order: no array has to say so.
fn new_ring(entries: u32) -> Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_no_sqarray()
        .build(entries)
        .context(|| "failed to create the io_uring of a queue")
}

/// The result of a request, as the driver takes it.
fn answer(res: Result<u32, Errno>) -> i32 {
    match res {
        Ok(bytes) => bytes as i32,
        Err(errno) => -(known(errno) as i32),
    }
}

/// An errno that is not 0: drivers leak some that only the kernel has a name
/// for (524, ENOTSUPP), and as 0 a failed flush would count as done.
fn known(errno: Errno) -> Errno {
    match errno {
        Errno::UnknownErrno => Errno::EIO,
        known => known,
    }
}

/// Whether the driver has handed over a request.
fn is_request(cqe: &cqueue::Entry) -> bool {
    let kind = cqe.user_data() >> 16;
    (kind == KIND_IO_CMD || kind == KIND_FORWARD) && cqe.result() == ublk::IO_RES_OK
}

fn no_futex(errno: Errno) -> Error {
    Error::os("failed to wait for a signal in the ring of a queue", errno)
}

fn unexpected(cqe: &cqueue::Entry) -> Error {
    Error::new(
        Kind::Protocol,
        format!("a completion of nothing known: {:#x}", cqe.user_data()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_failure_is_answered_as_success() {
        assert_eq!(answer(Ok(4096)), 4096);
        assert_eq!(answer(Err(Errno::ENOSPC)), -libc::ENOSPC);
        assert_eq!(answer(Err(Errno::from_raw(524))), -libc::EIO);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serving what a program declined, one cluster at a time.

use super::{Content, Locked, Piece, Table};
use crate::channel::{Op, Request, Ticket};
use nix::errno::Errno;
use std::ops::Range;

/// Bytes.
const SECTOR: u32 = 512;

/// How far the request of a tag is, for handlers.
///
/// It is cut where clusters end. While a piece is at work its cluster is locked, so that it cannot
/// move and nobody else allocates it; while somebody else has the lock, the request waits.
#[derive(Debug, Default)]
pub struct Progress<'a> {
    done: u64,
    lock: Option<Locked<'a>>,
}

/// What to do next for a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// This part, whose cluster is locked now and has this content. `buf` is its place in the
    /// tag's buffer; for operations without data it is the start of the buffer.
    Piece {
        piece: Piece,
        buf: Range<usize>,
        content: Content,
    },
    /// [`crate::channel::Step::Wait`], for the lock on a cluster.
    Wait(Ticket),
    /// [`crate::channel::Step::Done`].
    Done(Result<u32, Errno>),
}

impl<'a> Progress<'a> {
    /// Begins with a new request. `room` bounds the pieces: the length of the tag's buffer.
    pub fn begin(&mut self, table: &'a Table, req: &Request, room: usize) -> Next {
        self.done = 0;
        self.next(table, req, room)
    }

    /// Goes on when what [`Next`] asked for has ended with `res`.
    pub fn resume(
        &mut self,
        table: &'a Table,
        req: &Request,
        room: usize,
        res: Result<u32, Errno>,
    ) -> Next {
        match (self.lock.is_some(), res) {
            // Interrupted before anything was done.
            (true, Err(Errno::EINTR)) => {}
            // The backing ends before its slot does: somebody cut it.
            (true, Ok(0..SECTOR)) => return self.fail(Errno::EIO),
            (_, Err(errno)) => return self.fail(errno),
            // A file that was cut ends anywhere; past the page cache nothing goes on from there.
            (_, Ok(bytes)) => self.done += u64::from(bytes - bytes % SECTOR),
        }
        self.next(table, req, room)
    }

    /// Ends the request with an error, and unlocks.
    pub fn fail(&mut self, errno: Errno) -> Next {
        self.lock = None;
        Next::Done(Err(errno))
    }

    /// Installs what has become of the cluster of the piece at work, once its bytes are where
    /// `content` says; then [`Progress::resume`] with the bytes of the piece. See
    /// [`Locked::install`] for what may be installed.
    pub fn install(&mut self, content: Content) {
        if let Some(lock) = self.lock.take() {
            lock.install(content);
        }
    }

    fn next(&mut self, table: &'a Table, req: &Request, room: usize) -> Next {
        self.lock = None;
        let data = matches!(req.op, Op::Read | Op::Write);
        let left = req.len().saturating_sub(self.done);
        if left == 0 {
            return Next::Done(Ok(if data { req.len() as u32 } else { 0 }));
        }
        let Some(piece) = table.piece(req.start() + self.done, left.min(room as u64)) else {
            return self.fail(Errno::EIO);
        };
        match table.lock_or_wait(piece.cluster) {
            Err(ticket) => Next::Wait(ticket),
            Ok(lock) => {
                let content = lock.content();
                self.lock = Some(lock);
                let start = if data { self.done as usize } else { 0 };
                Next::Piece {
                    piece,
                    buf: start..start + piece.len as usize,
                    content,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 512 << 10;

    fn request(op: Op, sector: u64, sectors: u32) -> Request {
        Request {
            tag: 0,
            op,
            fua: false,
            no_unmap: false,
            sector,
            sectors,
        }
    }

    /// The piece that is asked for: cluster, start in it, and part of the buffer.
    fn piece(next: Next) -> (u32, u64, Range<usize>) {
        match next {
            Next::Piece { piece, buf, .. } => {
                assert_eq!(piece.len, buf.len() as u64);
                (piece.cluster, piece.within, buf)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_cut_where_clusters_end_and_locks_one_at_a_time() {
        let table = Table::new(4, 4096).unwrap();
        let mut progress = Progress::default();
        let req = request(Op::Write, 6, 12);
        let next = progress.begin(&table, &req, ROOM);
        assert_eq!(piece(next), (0, 3072, 0..1024));
        assert!(table.get(0).locked);
        let next = progress.resume(&table, &req, ROOM, Ok(1024));
        assert_eq!(piece(next), (1, 0, 1024..5120));
        assert!(!table.get(0).locked && table.get(1).locked);
        // A short one goes on where it stopped, an interrupted one where it was.
        let next = progress.resume(&table, &req, ROOM, Ok(700));
        assert_eq!(piece(next), (1, 512, 1536..5120));
        let next = progress.resume(&table, &req, ROOM, Err(Errno::EINTR));
        assert_eq!(piece(next), (1, 512, 1536..5120));
        let next = progress.resume(&table, &req, ROOM, Ok(3584));
        assert_eq!(piece(next), (2, 0, 5120..6144));
        let next = progress.resume(&table, &req, ROOM, Ok(1024));
        assert_eq!(next, Next::Done(Ok(6144)));
        assert!((0..4).all(|cluster| !table.get(cluster).locked));
    }

    #[test]
    fn without_data_every_piece_uses_the_start_of_the_buffer() {
        let table = Table::new(4, 4096).unwrap();
        let mut progress = Progress::default();
        let req = request(Op::Discard, 0, 16);
        let next = progress.begin(&table, &req, 3072);
        assert_eq!(piece(next), (0, 0, 0..3072));
        let next = progress.resume(&table, &req, 3072, Ok(3072));
        assert_eq!(piece(next), (0, 3072, 0..1024));
        let next = progress.resume(&table, &req, 3072, Ok(1024));
        assert_eq!(piece(next), (1, 0, 0..3072));
        let next = progress.resume(&table, &req, 3072, Ok(3072));
        assert_eq!(piece(next), (1, 3072, 0..1024));
        let next = progress.resume(&table, &req, 3072, Ok(1024));
        assert_eq!(next, Next::Done(Ok(0)));
    }

    #[test]
    fn a_locked_cluster_is_waited_for() {
        let table = Table::new(4, 4096).unwrap();
        let mut progress = Progress::default();
        let req = request(Op::Read, 8, 8);
        let lock = table.lock(1);
        assert!(matches!(progress.begin(&table, &req, ROOM), Next::Wait(_)));
        // Woken too early, it waits again.
        assert!(matches!(
            progress.resume(&table, &req, ROOM, Ok(0)),
            Next::Wait(_)
        ));
        lock.install(Content::Zero);
        let next = progress.resume(&table, &req, ROOM, Ok(0));
        assert!(matches!(
            next,
            Next::Piece {
                content: Content::Zero,
                ..
            }
        ));
    }

    #[test]
    fn errors_unlock() {
        let table = Table::new(1, 4096).unwrap();
        let mut progress = Progress::default();
        let req = request(Op::Read, 0, 16);
        for (res, errno) in [
            (Err(Errno::ENOSPC), Errno::ENOSPC),
            (Ok(0), Errno::EIO),
            // Behind the end of the table.
            (Ok(4096), Errno::EIO),
        ] {
            progress.begin(&table, &req, ROOM);
            assert!(table.get(0).locked);
            let next = progress.resume(&table, &req, ROOM, res);
            assert_eq!(next, Next::Done(Err(errno)));
            assert!(!table.get(0).locked);
        }
    }
}

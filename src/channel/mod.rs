// SPDX-License-Identifier: MIT OR Apache-2.0
//! The channel between the driver and whoever serves a device.
//!
//! ```text
//!   driver ──descriptor──► Queue ──Request──► Handler
//!          ◄───commit────        ◄───Step────
//!                            └─ Backing ──► kernel (same ring) ─► Handler::resume
//! ```
//!
//! A [`Queue`] owns one ring and one thread. Each tag of the queue is, at any
//! time, either the driver's (a fetch is pending), the handler's, a backing
//! operation's, or asleep until a [`Signal`]; so no tag waits for another, and a
//! buffer has one owner.

mod buffers;
mod data;
mod node;
mod patience;
mod pinned;
mod queue;
mod request;
mod signal;

pub use node::CharNode;
pub use queue::Queue;
pub use request::{Backing, Forward, Handler, Install, Op, Request, Step};
pub use signal::{Signal, Ticket};

//! What does an HTTP/2 connection do with bytes, and which bytes does it send? RFC 9113 and 7541 without I/O.
//!
//! `l7` owns the socket and feeds a [`Connection`] what it reads, writes what it queued, and serves streams by their
//! [`Key`]s. Header fields go between HPACK and [`http1::HeaderBlock`] without a form in between; that is what this crate
//! exists for. Absent on purpose: sockets, timers, tasks, push, priorities.

// Blocks and streams change hands; their boxes stay where they are.
#![allow(clippy::vec_box)]

mod connection;
mod fields;
pub mod frame;
pub mod hpack;
pub mod huffman;
mod receive;
mod send;
mod stream;

pub use connection::{Connection, Fatal, Options, Role};
pub use stream::{Failure, Head, Key};

//! What is known of one stream?

use std::task::Waker;

use http1::HeaderBlock;

/// Names a stream of a connection. Valid until it is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub(crate) slot: u32,
    pub(crate) id: u32,
}

impl Key {
    /// The stream's number on the wire.
    pub fn id(self) -> u32 {
        self.id
    }
}

/// Why a stream broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The connection is gone.
    Closed,
    /// The peer broke the protocol on this stream; it was reset.
    Protocol,
    /// The peer reset it, with this code; also streams that a GOAWAY left unserved.
    Reset(u32),
}

/// A received head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Nothing follows.
    pub ends: bool,
}

#[derive(Default)]
pub(crate) struct Stream {
    pub id: u32,
    /// The peer may still send.
    pub recv_open: bool,
    /// We may still send.
    pub send_open: bool,
    /// Somebody holds the key.
    pub held: bool,
    pub failed: Option<Failure>,

    /// Heads not yet taken, oldest first: informational ones, then the message's.
    pub heads: Vec<Box<HeaderBlock>>,
    /// The message's own head came.
    pub headed: bool,
    pub trailers: Option<Box<HeaderBlock>>,
    /// Body not yet taken.
    pub body: Vec<u8>,
    /// Body bytes that must still come, when declared.
    pub expected: Option<u64>,
    pub recv_window: i64,
    /// Taken and not yet given back.
    pub taken: u32,
    pub receiver: Option<Waker>,

    pub send_window: i64,
    /// Body that waits for the windows, from `queued_at` on.
    pub queued: Vec<u8>,
    pub queued_at: usize,
    /// What follows the queue.
    pub then: Then,
    /// Waits for the connection's window or for room in its buffer.
    pub blocked: bool,
    pub sender: Option<Waker>,
    /// `sender` waits for room.
    pub wants_room: bool,
    /// A response to it was begun (server).
    pub answered: bool,
}

/// What comes after the queued body.
#[derive(Default)]
pub(crate) enum Then {
    #[default]
    More,
    End,
    Trailers(Box<HeaderBlock>),
}

impl Stream {
    pub fn queued(&self) -> usize {
        self.queued.len() - self.queued_at
    }

    pub fn wake_receiver(&mut self) {
        if let Some(w) = self.receiver.take() {
            w.wake();
        }
    }

    pub fn wake_sender(&mut self) {
        self.wants_room = false;
        if let Some(w) = self.sender.take() {
            w.wake();
        }
    }
}

/// Notes whom to wake.
pub(crate) fn note(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(w) if w.will_wake(waker) => {}
        _ => *slot = Some(waker.clone()),
    }
}

//! Which task serves an HTTP/2 stream? One that served another before, if there is one.
//!
//! The future that serves a stream is kilobytes large; making a task for each stream would allocate, move and free it each
//! time. A worker's stream tasks wait for the next stream instead, up to [`WAITING_MAX`] of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::worker::Worker;

/// Tasks of a worker that wait for a stream; more end when their stream does.
const WAITING_MAX: usize = 128;

/// The waiting tasks of a worker, which serve jobs of type `J`.
pub struct StreamTasks<J>(RefCell<Vec<Rc<Seat<J>>>>);

impl<J> Default for StreamTasks<J> {
    fn default() -> Self {
        StreamTasks(RefCell::default())
    }
}

struct Seat<J> {
    job: Cell<Option<J>>,
    waker: Cell<Option<Waker>>,
}

impl<J: 'static> StreamTasks<J> {
    /// Has `job` served by `serve`, of which one worker uses only one.
    pub fn serve<F>(worker: &Rc<Worker>, of: fn(&Worker) -> &Self, job: J, serve: fn(J) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        if let Some(seat) = of(worker).0.borrow_mut().pop() {
            seat.job.set(Some(job));
            if let Some(w) = seat.waker.take() {
                w.wake();
            }
            return;
        }
        let seat = Rc::new(Seat { job: Cell::new(Some(job)), waker: Cell::new(None) });
        let worker = worker.clone();
        tokio::task::spawn_local(async move {
            loop {
                let job = std::future::poll_fn(|cx| match seat.job.take() {
                    Some(job) => Poll::Ready(job),
                    None => {
                        seat.waker.set(Some(cx.waker().clone()));
                        Poll::Pending
                    }
                })
                .await;
                let serving = std::pin::pin!(serve(job));
                worker.timers.polling(serving).await;
                let mut waiting = of(&worker).0.borrow_mut();
                if waiting.len() >= WAITING_MAX {
                    return;
                }
                waiting.push(seat.clone());
            }
        });
    }
}

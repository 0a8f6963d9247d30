//! How are processes started and awaited? The supervisor is PID 1 of its namespace, so it reaps everything once, here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::process::Command;
use std::rc::Rc;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How a process ended: its exit code, or 128 plus the signal.
pub(crate) type ExitStatus = i32;

/// The table of running processes; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Processes(Rc<RefCell<HashMap<i32, watch::Sender<Option<ExitStatus>>>>>);

/// A running process. Dropping it does not end it.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Processes {
    /// Reaps children for as long as the local mesh lives; spawn once.
    pub(crate) async fn reap(self) -> io::Result<()> {
        let mut children = signal(SignalKind::child())?;
        loop {
            children.recv().await;
            loop {
                let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                    Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                    Ok(WaitStatus::StillAlive) | Err(_) => break,
                    Ok(_) => continue,
                };
                if let Some(waiting) = self.0.borrow_mut().remove(&pid.as_raw()) {
                    waiting.send_replace(Some(code));
                }
            }
        }
    }

    /// Starts `command` in the process namespace `pids`, or as the first process of a new one.
    pub(crate) fn spawn_in(&self, command: &mut Command, pids: Option<BorrowedFd<'_>>) -> io::Result<Process> {
        // A thread's children are born where it says; the thread is gone before anything else is started.
        let child = std::thread::scope(|scope| {
            let started = scope.spawn(|| {
                match pids {
                    Some(namespace) => setns(namespace, CloneFlags::CLONE_NEWPID)?,
                    None => unshare(CloneFlags::CLONE_NEWPID)?,
                }
                command.spawn()
            });
            started.join().unwrap_or_else(|_| Err(io::Error::other("a starting thread died")))
        })?;
        Ok(self.enter(child.id()))
    }

    /// Takes a child into the table. No await lies between its start and this, so no exit is missed.
    fn enter(&self, pid: u32) -> Process {
        let pid = i32::try_from(pid).expect("process ids fit");
        let (sender, exit) = watch::channel(None);
        self.0.borrow_mut().insert(pid, sender);
        Process { pid, exit }
    }
}

impl Process {
    /// Waits for the end.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        match self.exit.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or(-1),
            Err(_) => -1,
        }
    }

    /// Waits for the end, and ends what a container's first process leaves behind: the container is gone with it.
    pub(crate) async fn finished(&mut self) -> ExitStatus {
        let status = self.exited().await;
        let _ = kill(Pid::from_raw(-self.pid), Signal::SIGKILL);
        status
    }

    pub(crate) fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Signals the process alone: what a container's end means for those it started is its own matter, as under a kubelet.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.is_running() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Signals the process and those it started (each container is a session of its own).
    pub(crate) fn signal_all(&self, signal: Signal) {
        if self.is_running() {
            let _ = kill(Pid::from_raw(self.pid), signal);
            let _ = kill(Pid::from_raw(-self.pid), signal);
        }
    }
}

//! The engine behind its lock, and what is copied out of it while the lock is held.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chinwag_engine::{Engine, Event, LeaseLost, Outbox, Time};
use pyo3::prelude::*;

use crate::batch::Call;

pub(crate) type Payload = Py<PyAny>;

/// What the lock of a queue protects.
pub(crate) struct Scheduler {
    pub(crate) engine: Engine<Payload>,
    /// Calls that were handed out and not yet settled.
    pub(crate) running: usize,
    /// What happened and nobody has been told yet, in the engine's order.
    pub(crate) events: Vec<Event>,
    pub(crate) slice: Slice,
}

impl Scheduler {
    pub(crate) fn new(engine: Engine<Payload>) -> Self {
        Self {
            engine,
            running: 0,
            events: Vec::new(),
            slice: Slice::default(),
        }
    }

    /// The next batch, copied; `None`: nothing is left to do now, the next push wakes the driver.
    pub(crate) fn next(
        &mut self,
        py: Python<'_>,
        now: Time,
        out: &mut Outbox<Payload>,
    ) -> Option<Call> {
        let lease = self.engine.next(now, out)?;
        self.running += 1;
        Call::of(py, lease, &self.engine.batch(lease)?)
    }

    /// Ends a call by `end`; false when it was ended already.
    pub(crate) fn end(
        &mut self,
        end: impl FnOnce(&mut Engine<Payload>) -> Result<(), LeaseLost>,
    ) -> bool {
        let ended = end(&mut self.engine).is_ok();
        self.running -= usize::from(ended);
        ended
    }

    /// Keeps what happened for the loop.
    pub(crate) fn keep_events(&mut self, out: &mut Outbox<Payload>) {
        self.events.append(&mut out.events);
    }
}

/// How long calls may follow each other without a turn of the event loop. Otherwise a handler that
/// never suspends and a thread that pushes without end would keep everybody else from it.
#[derive(Default)]
pub(crate) struct Slice {
    calls: u32,
    since: Option<Time>,
}

impl Slice {
    const CALLS: u32 = 256;
    const SPAN: Duration = Duration::from_millis(2);

    /// The event loop has turned.
    pub(crate) fn renew(&mut self) {
        *self = Self::default();
    }

    /// Counts a call that ended; whether the loop must turn before the next.
    pub(crate) fn is_over(&mut self, now: Time) -> bool {
        self.calls += 1;
        let since = *self.since.get_or_insert(now);
        self.calls > Self::CALLS || now.since(since) > Self::SPAN
    }
}

/// A panic elsewhere does not make the queue useless.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

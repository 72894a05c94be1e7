//! The engine behind its lock, and what is copied out of it while the lock is held.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chinwag_engine::{End, Engine, Event, LeaseId, Outbox, Ticket, Time};
use pyo3::prelude::*;

use crate::batch::Call;

pub(crate) type Payload = Py<PyAny>;

/// Messages that are dead, and of what.
pub(crate) type Dead = HashMap<u64, &'static str>;

/// What the lock of a queue protects.
pub(crate) struct Scheduler {
    pub(crate) engine: Engine<Payload>,
    /// Calls that are to end and why, or that have lost their lease.
    endings: Vec<(LeaseId, Option<&'static str>)>,
    /// Messages that ended dead because their call had lost its lease, and of what. Their call is told.
    dead: Dead,
    /// What happened and nobody has been told yet, in the engine's order.
    events: Vec<Event>,
    /// What was too much to be kept until the loop gets to it.
    missed: u64,
    /// Futures of those who stand in line for room.
    pub(crate) line: HashMap<Ticket, Py<PyAny>>,
    pub(crate) slice: Slice,
}

impl Scheduler {
    pub(crate) fn new(engine: Engine<Payload>) -> Self {
        Self {
            engine,
            endings: Vec::new(),
            dead: Dead::new(),
            events: Vec::new(),
            missed: 0,
            line: HashMap::new(),
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
        Call::of(py, lease, &self.engine.batch(lease)?)
    }

    /// The futures of those in line who have been given a place.
    pub(crate) fn take_admitted(&mut self) -> Vec<Py<PyAny>> {
        if self.line.is_empty() {
            return Vec::new();
        }
        let admitted = self.engine.take_admitted();
        let line = &mut self.line;
        admitted
            .iter()
            .filter_map(|ticket| line.remove(ticket))
            .collect()
    }

    /// Keeps what is for the loop; of what happened up to a limit, since it may be blocked. The call
    /// that is `over`, if one is, is told at once what is dead of it.
    pub(crate) fn keep(&mut self, out: &mut Outbox<Payload>, over: Option<LeaseId>) {
        if !out.fenced.is_empty() {
            let dead = out.ended.iter().filter(|message| {
                let told = message.error.is_some() || over.is_some() && message.lease == over;
                message.end == End::Dead && !told
            });
            let dead = dead.map(|message| (message.seq.as_u64(), message.reason));
            self.dead.extend(dead);
        }
        let room = MOST_EVENTS.saturating_sub(self.events.len());
        self.missed += out.events.len().saturating_sub(room) as u64;
        self.events.extend(out.events.drain(..).take(room));
        let ending = out.ending.drain(..);
        let superseded = out.superseded.drain(..);
        self.endings
            .extend(superseded.map(|lease| (lease, Some("superseded"))));
        self.endings
            .extend(ending.map(|(lease, reason)| (lease, Some(reason))));
        self.endings
            .extend(out.fenced.drain(..).map(|lease| (lease, None)));
    }

    /// Calls to be asked to end, or given up, since the last time; and what is dead of those, and why.
    pub(crate) fn take_endings(&mut self) -> (Vec<(LeaseId, Option<&'static str>)>, Dead) {
        let dead = std::mem::take(&mut self.dead);
        (std::mem::take(&mut self.endings), dead)
    }

    /// Whether any of these ended dead because their call had lost its lease.
    pub(crate) fn has_dead(&self, mut seqs: impl Iterator<Item = u64>) -> bool {
        !self.dead.is_empty() && seqs.any(|seq| self.dead.contains_key(&seq))
    }

    /// Those, and of what.
    pub(crate) fn take_dead(
        &mut self,
        seqs: impl Iterator<Item = u64>,
    ) -> Vec<(u64, &'static str)> {
        if self.dead.is_empty() {
            return Vec::new();
        }
        seqs.filter_map(|seq| Some((seq, self.dead.remove(&seq)?)))
            .collect()
    }

    /// What happened since the last time, and how much of it was too much.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.events);
        let count = std::mem::take(&mut self.missed);
        if count > 0 {
            events.push(Event::EventsMissed { count });
        }
        events
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

/// Events kept for a loop that does not come to tell them.
const MOST_EVENTS: usize = 100_000;

/// A panic elsewhere does not make the queue useless.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

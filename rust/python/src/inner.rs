//! What a queue is made of, and the one way to its engine: lock, call, unlock, tell.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chinwag_engine::{End, Ended, Engine, Intake, OnBusy, Outbox, Profile, Time};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::calls::Answer;
use crate::clock::{Clock, ManualClock};
use crate::error;
use crate::receipts::{self, Receipts};
use crate::scheduler::{Payload, Scheduler, lock};
use crate::settings::profile;

/// What there is once `__init__` has run.
pub(crate) struct Inner {
    /// Which queue: receipts and batches carry it.
    pub(crate) number: u32,
    pub(crate) intake: Arc<Intake<Payload>>,
    pub(crate) scheduler: Mutex<Scheduler>,
    pub(crate) clock: Clock,
    pub(crate) receipts: Receipts,
    /// Has the driver look, from any thread; none while there is no driver.
    pub(crate) waker: Mutex<Option<Py<PyAny>>>,
    /// The driver has been asked to look and has not looked since.
    pub(crate) woken: AtomicBool,
    /// Messages of some group may interrupt: pushes have to say from which call they come.
    pub(crate) interrupts: AtomicBool,
    /// Somebody wants events.
    pub(crate) observed: AtomicBool,
    pub(crate) life: AtomicU8,
}

/// Whether the queue is still of use.
const ALIVE: u8 = 0;
/// Its event loop was closed before it was.
pub(crate) const LOOP_LOST: u8 = 1;
/// It belongs to the process that this one was forked from.
pub(crate) const FORKED: u8 = 2;

static QUEUES: AtomicU32 = AtomicU32::new(0);

impl Inner {
    pub(crate) fn new(
        py: Python<'_>,
        given: &Bound<'_, PyDict>,
        clock: Option<&Bound<'_, ManualClock>>,
    ) -> PyResult<Self> {
        let profile = profile(given)?;
        let interrupts = interrupts(&profile);
        let number = QUEUES.fetch_add(1, Ordering::Relaxed);
        let engine = Engine::new(profile);
        let inner = Self {
            number,
            intake: engine.intake(),
            scheduler: Mutex::new(Scheduler::new(engine)),
            clock: Clock::system(),
            receipts: Receipts::new(number, one_thread_at_a_time(py)?),
            waker: Mutex::new(None),
            woken: AtomicBool::new(false),
            interrupts: AtomicBool::new(interrupts),
            observed: AtomicBool::new(false),
            life: AtomicU8::new(ALIVE),
        };
        if let Some(clock) = clock {
            inner.clock.follow(clock.get(), false)?;
        }
        Ok(inner)
    }

    /// Locks, calls, unlocks; then tells receipts and those in line what has come of it, and drops
    /// the payloads of what ended. `answer` is that of the call that is over, if one is.
    pub(crate) fn schedule<T>(
        &self,
        py: Python<'_>,
        answer: Option<Answer<'_, '_>>,
        call: impl FnOnce(&mut Scheduler, Time, &mut Outbox<Payload>) -> T,
    ) -> PyResult<T> {
        let now = self.clock.now();
        let mut out = Outbox::default();
        let (called, admitted) = {
            let mut scheduler = lock(&self.scheduler);
            let called = call(&mut scheduler, now, &mut out);
            scheduler.keep(&mut out, answer.map(|answer| answer.lease));
            (called, scheduler.take_admitted())
        };
        die(py, &out.ended, answer)?;
        self.receipts.end(py, &out.ended, answer)?;
        receipts::resolve(py, admitted)?;
        Ok(called)
    }

    /// The same for those who need the engine alone.
    pub(crate) fn operate<T>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut Engine<Payload>, Time, &mut Outbox<Payload>) -> T,
    ) -> PyResult<T> {
        self.schedule(py, None, |scheduler, now, out| {
            call(&mut scheduler.engine, now, out)
        })
    }

    /// The same for those who only ask. The driver looks if there is something to tell.
    pub(crate) fn look<T>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut Engine<Payload>, Time, &mut Outbox<Payload>) -> T,
    ) -> PyResult<T> {
        let answer = self.operate(py, call);
        self.wake_if_observed(py)?;
        answer
    }

    /// The same for those who change something: there may be something to start, or a timer to set.
    pub(crate) fn control<T>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut Engine<Payload>, Time, &mut Outbox<Payload>) -> T,
    ) -> PyResult<T> {
        let answer = self.operate(py, call);
        self.wake(py)?;
        answer
    }

    /// Has the driver look, once for all who ask before it does.
    pub(crate) fn wake(&self, py: Python<'_>) -> PyResult<()> {
        let Some(waker) = self.waker(py) else {
            return Ok(());
        };
        if !self.woken.swap(true, Ordering::AcqRel) {
            waker.call0(py)?;
        }
        Ok(())
    }

    /// The same if somebody wants to hear of what may have happened.
    pub(crate) fn wake_if_observed(&self, py: Python<'_>) -> PyResult<()> {
        if self.observed.load(Ordering::Relaxed) {
            self.wake(py)?;
        }
        Ok(())
    }

    /// The same for a push that was told to: nobody else will see to its message.
    #[cold]
    pub(crate) fn wake_for_push(&self, py: Python<'_>) -> PyResult<()> {
        let Some(waker) = self.waker(py) else {
            return Ok(());
        };
        if waker.call0(py)?.is_truthy(py)? {
            return Ok(());
        }
        Err(error::closed(py, "loop_closed", self.intake.depth()))
    }

    fn waker(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let waker = lock(&self.waker);
        waker.as_ref().map(|waker| waker.clone_ref(py))
    }

    /// The longest wait of a window in a group, whatever its size.
    pub(crate) fn max_wait(&self, group: &str) -> Duration {
        lock(&self.scheduler).engine.longest_wait(group)
    }

    /// Why it takes no pushes, with as many messages waiting.
    pub(crate) fn closed(&self, py: Python<'_>, depth: u64) -> PyErr {
        let reason = match self.life.load(Ordering::Acquire) {
            LOOP_LOST => "loop_closed",
            FORKED => "forked",
            _ => "closed",
        };
        error::closed(py, reason, depth)
    }
}

/// Whether messages that follow these settings may interrupt.
pub(crate) fn interrupts(profile: &Profile) -> bool {
    let bands = profile.bands.iter().map(|band| &band.settings);
    let mut all = bands.chain([&profile.settings]);
    all.any(|it| matches!(it.on_busy, OnBusy::Interrupt | OnBusy::Rollback))
}

/// Tells failures what is dead of them, and why.
fn die(py: Python<'_>, ended: &[Ended<Payload>], answer: Option<Answer<'_, '_>>) -> PyResult<()> {
    for message in ended.iter().filter(|message| message.end == End::Dead) {
        let of_call = answer.and_then(|answer| answer.to(message));
        let own = message.error.as_ref().map(|error| error.bind(py));
        if let Some(failure) = own.or(of_call) {
            failure.call_method1("die", (message.seq.as_u64(), message.reason))?;
        }
    }
    Ok(())
}

/// Whether reference counts mean something: not in a build of Python without its global lock.
fn one_thread_at_a_time(py: Python<'_>) -> PyResult<bool> {
    match py.import("sys")?.getattr("_is_gil_enabled") {
        Ok(asked) => asked.call0()?.extract(),
        Err(_) => Ok(true),
    }
}

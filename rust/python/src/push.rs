//! The ways in: one message, or rows of them.

use std::sync::atomic::Ordering;

use chinwag_engine::{Accepted, Attempt, Engine, LeaseId, Options, Refusal, Refused, Ticket, Time};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::arguments;
use crate::batch::Batch;
use crate::columns::{self, Row};
use crate::error;
use crate::inner::Inner;
use crate::options::{self, Wish};
use crate::receipt::{Names, Receipt, Told};
use crate::scheduler::{Payload, lock};

/// What the engine says to a push.
type Pushed = Result<Accepted, Refused<Payload>>;

impl Inner {
    /// Reads, pushes, wakes. The inner error is a refusal, which may be for the caller to raise.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn put(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        sender: &Bound<'_, PyAny>,
        payload: Payload,
        wish: &Wish<'_>,
        attempt: Attempt,
        ticket: Option<Ticket>,
    ) -> PyResult<Result<Py<Receipt>, Refused<Payload>>> {
        let read = || {
            let options = wish.read()?;
            let room = arguments::name("group", group)?;
            options::fits_group(&options, || self.max_wait(room))?;
            PyResult::Ok((room, arguments::name("sender", sender)?, options))
        };
        let (room, who, mut options) = read().map_err(|wrong| self.closed_or(py, wrong))?;
        if self.interrupts.load(Ordering::Relaxed) || options.on_busy.is_some() {
            options.inside = self.call_in_which(py)?;
        }
        let receipt = self.receipts.blank(py)?;
        let now = self.clock.now();
        let names = || Names {
            group: group.clone().unbind(),
            sender: sender.clone().unbind(),
            id: wish.id.clone().map(Bound::unbind),
        };
        let told = |accepted: &Accepted| Told::new(accepted.seq.as_u64(), names());
        let push = |attempt, payload, options| {
            let push = || {
                self.intake
                    .push_as(attempt, now, room, who, payload, options)
            };
            self.receipts.accept(py, &receipt, push, told)
        };
        let ask = |attempt, payload, options| {
            let (pushed, before) = self.schedule(py, None, |scheduler, _, out| {
                let engine = &mut scheduler.engine;
                let pushed = engine.push(now, attempt, room, who, payload, options, out);
                let accepted = pushed.as_ref().ok();
                let before =
                    accepted.map(|accepted| self.receipts.adopt(py, &receipt, told(accepted)));
                (pushed, before)
            })?;
            drop(before); // with nothing locked
            PyResult::Ok(pushed)
        };
        let pushed = match ticket {
            None => push(attempt, payload, options),
            Some(ticket) => {
                let (pushed, before) = self.schedule(py, None, |scheduler, _, _| {
                    let engine = &mut scheduler.engine;
                    let pushed = engine.push_with(now, ticket, room, who, payload, options);
                    let accepted = pushed.as_ref().ok();
                    let before =
                        accepted.map(|accepted| self.receipts.adopt(py, &receipt, told(accepted)));
                    (pushed, before)
                })?;
                drop(before); // with nothing locked
                pushed
            }
        };
        let pushed = match pushed {
            Ok(accepted) if !accepted.crowded && !accepted.evicted => pushed,
            pushed => self.make_room(py, (pushed, attempt), push, ask)?,
        };
        let accepted = match pushed {
            Ok(accepted) => accepted,
            Err(refused) => return Ok(Err(refused)),
        };
        if accepted.wake {
            self.wake_for_push(py)?;
        }
        Ok(Ok(receipt))
    }

    /// Pushes rows, whose receipts nobody asked for. Gives a verdict a row.
    pub(crate) fn put_many(
        &self,
        py: Python<'_>,
        read: impl FnOnce() -> PyResult<Vec<Row>>,
    ) -> PyResult<Vec<u8>> {
        let read = || {
            let rows = read()?;
            for row in &rows {
                options::fits_group(&row.options, || self.max_wait(&row.group))?;
                if row.options.on_busy.is_some() && !self.serves(&row.group, &row.options) {
                    return Err(options::unserved(&row.options));
                }
            }
            PyResult::Ok(rows)
        };
        let rows = read().map_err(|wrong| self.closed_or(py, wrong))?;
        if self.intake.is_closed() {
            return Err(self.closed(py, self.intake.depth()));
        }
        let mut verdicts = Vec::with_capacity(rows.len());
        let (now, mut wake) = (self.clock.now(), false);
        for row in rows {
            let pushed = self.push_row(py, now, row)?;
            verdicts.push(columns::verdict(&pushed));
            wake |= pushed.as_ref().is_ok_and(|accepted| accepted.wake);
        }
        if wake {
            self.wake_for_push(py)?;
        } else {
            self.wake_if_observed(py)?;
        }
        Ok(verdicts)
    }

    fn push_row(&self, py: Python<'_>, now: Time, row: Row) -> PyResult<Pushed> {
        let (group, sender) = (row.group, row.sender);
        let push = |attempt, payload, options| {
            self.intake
                .push_as(attempt, now, &group, &sender, payload, options)
        };
        let ask = |attempt, payload, options| {
            self.operate(py, |engine, _, out| {
                engine.push(now, attempt, &group, &sender, payload, options, out)
            })
        };
        let pushed = push(Attempt::First, row.payload, row.options);
        match pushed {
            Ok(accepted) if !accepted.crowded => Ok(pushed),
            pushed => self.make_room(py, (pushed, Attempt::First), push, ask),
        }
    }

    /// Has the engine make room where a push says so, and pushes once more if that may help.
    #[cold] // not to be inlined: most pushes need none of it
    fn make_room(
        &self,
        py: Python<'_>,
        (pushed, attempt): (Pushed, Attempt),
        push: impl FnOnce(Attempt, Payload, Options) -> Pushed,
        ask: impl FnOnce(Attempt, Payload, Options) -> PyResult<Pushed>,
    ) -> PyResult<Pushed> {
        let pushed = match pushed {
            Err(refused) if refused.stale && refused.reason == Refusal::Busy => {
                let attempt = match attempt {
                    Attempt::First => Attempt::Last, // what could make room has been done by then
                    attempt => attempt,
                };
                ask(attempt, refused.payload, *refused.options)?
            }
            Err(refused) if refused.stale => {
                self.operate(py, Engine::make_room)?;
                push(Attempt::Last, refused.payload, *refused.options)
            }
            pushed => pushed,
        };
        // Evicted: this ends its receipt.
        if pushed
            .as_ref()
            .is_ok_and(|accepted| accepted.crowded || accepted.evicted)
        {
            self.operate(py, Engine::make_room)?;
        }
        Ok(pushed)
    }

    /// The call of this queue in which this code runs, or was started, if that goes on.
    fn call_in_which(&self, py: Python<'_>) -> PyResult<Option<LeaseId>> {
        static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let current = CURRENT.get_or_try_init(py, || {
            let found = py.import("chinwag._calling")?.getattr("current_batch")?;
            PyResult::Ok(found.unbind())
        })?;
        let batch = current.bind(py).call0()?;
        let batch = batch.cast::<Batch>().ok();
        Ok(batch.and_then(|batch| batch.get().lease_in(self.number)))
    }

    /// Whether a group could do with a message what its own policy asks for.
    fn serves(&self, group: &str, options: &Options) -> bool {
        lock(&self.scheduler).engine.serves(group, options)
    }

    /// A refusal, to be raised.
    #[cold]
    pub(crate) fn refuse(&self, py: Python<'_>, refused: &Refused<Payload>) -> PyErr {
        // The event of the refusal, if anybody wants it, is told at the driver's next look.
        if let Err(error) = self.wake_if_observed(py) {
            return error;
        }
        match refused.reason {
            Refusal::Closed => self.closed(py, refused.depth),
            Refusal::Unserved => options::unserved(&refused.options),
            reason => error::rejected(py, reason, refused.depth),
        }
    }

    /// What is wrong with a push, unless the queue takes none at all: that comes first (rule A1).
    #[cold]
    fn closed_or(&self, py: Python<'_>, wrong: PyErr) -> PyErr {
        if self.intake.is_closed() {
            self.closed(py, self.intake.depth())
        } else {
            wrong
        }
    }
}

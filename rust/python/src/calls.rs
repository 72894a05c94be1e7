//! The way out: the next call, and what comes of one.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use chinwag_engine::{Ended, Engine, Failure, LeaseId, LeaseLost, Outbox, Outcome, Time};
use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::batch::{Batch, Call};
use crate::inner::Inner;
use crate::scheduler::Payload;

/// How a call ended.
pub(crate) enum Ending {
    Done,
    /// It returned, but has given up on some messages, or wants to be called again.
    Parted(Outcome<Payload>, Vec<Failure<Payload>>),
    /// In a word, and whether trying again may help.
    Failed(&'static str, bool),
    /// Somebody cancelled it whom the engine had not told to.
    PutBack,
    Abandoned,
}

/// What came of a call: its result, or what tells of its failure. It is for the messages of that call
/// alone; those of others can end at the same time, because theirs is over.
#[derive(Clone, Copy)]
pub(crate) struct Answer<'a, 'py> {
    pub(crate) lease: LeaseId,
    value: &'a Bound<'py, PyAny>,
}

impl<'a, 'py> Answer<'a, 'py> {
    pub(crate) fn to(self, message: &Ended<Payload>) -> Option<&'a Bound<'py, PyAny>> {
        (message.lease == Some(self.lease)).then_some(self.value)
    }
}

impl Inner {
    /// The next batch; none: nothing is left to do now, and the next push wakes the driver.
    pub(crate) fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, Batch>>> {
        self.woken.store(false, Ordering::Release);
        let call = self.schedule(py, None, |scheduler, now, out| {
            scheduler.slice.renew();
            scheduler.next(py, now, out)
        })?;
        call.map(|call| self.hand_out(py, call)).transpose()
    }

    /// A call ended. The next batch of its slot, if there may be `more`; None as above; False: the
    /// loop must turn first. One that returned too late has failed: this raises `TimeoutError` and
    /// has changed nothing, so that the call is settled again with what tells of that.
    pub(crate) fn settle<'py>(
        &self,
        py: Python<'py>,
        batch: &Batch,
        ending: Ending,
        outcome: Option<&Bound<'py, PyAny>>,
        more: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let lease = batch.lease_id();
        let over = matches!(ending, Ending::Done | Ending::Abandoned);
        let answer = outcome.map(|value| Answer { lease, value });
        let returned = matches!(ending, Ending::Done | Ending::Parted(..));
        let settled = self.schedule(py, answer, |scheduler, now, out| {
            let late = || scheduler.engine.is_late(now, lease) || scheduler.has_dead(batch.seqs());
            if returned && late() {
                return None;
            }
            let engine = &mut scheduler.engine;
            // A lease that is lost changes nothing: somebody has seen to its messages.
            let _ = match ending {
                Ending::Done => engine.settle(now, lease, Outcome::Done, out),
                Ending::Parted(outcome, failures) => {
                    engine.settle_with(now, lease, outcome, failures, out)
                }
                Ending::Failed(reason, retry) => {
                    let error = outcome.map(|outcome| outcome.clone().unbind());
                    let outcome = Outcome::Failed {
                        reason,
                        retry,
                        error,
                    };
                    engine.settle(now, lease, outcome, out)
                }
                Ending::PutBack => {
                    let error = outcome.map(|outcome| outcome.clone().unbind());
                    engine.settle(now, lease, Outcome::Cancelled { error }, out)
                }
                Ending::Abandoned => engine.abandon_call(now, lease, out),
            };
            let dead = scheduler.take_dead(batch.seqs());
            let ended = out.ended.iter().filter(|it| it.lease == Some(lease));
            if !over || ended.count() < batch.grown() {
                self.receipts.rest(py, batch.seqs()); // before they can be in another call
            }
            // On a manual clock whatever happens at one instant comes before its starts (rule T1).
            let turn = !more || self.clock.is_manual() || scheduler.slice.is_over(now);
            let next = if turn {
                None
            } else {
                scheduler.next(py, now, out)
            };
            Some((next, turn, dead))
        })?;
        let Some((next, turn, dead)) = settled else {
            return Err(PyTimeoutError::new_err("the call returned too late"));
        };
        if let Some(failure) = outcome {
            for died in dead {
                failure.call_method1("die", died)?;
            }
        }
        match next {
            Some(call) => Ok(self.hand_out(py, call)?.into_any()),
            None if turn => Ok(PyBool::new(py, false).to_owned().into_any()),
            None => Ok(py.None().into_bound(py)),
        }
    }

    /// What the context of a call asks of the engine; false: its lease is lost.
    pub(crate) fn of_call(
        &self,
        py: Python<'_>,
        batch: &Bound<'_, Batch>,
        ask: impl FnOnce(
            &mut Engine<Payload>,
            Time,
            LeaseId,
            &mut Outbox<Payload>,
        ) -> Result<(), LeaseLost>,
    ) -> PyResult<bool> {
        let lease = batch.get().lease_id();
        let answer = self.control(py, |engine, now, out| ask(engine, now, lease, out))?;
        Ok(answer.is_ok())
    }

    /// Ends the calls of all batches but these. Returns how many.
    pub(crate) fn abandon_calls(
        &self,
        py: Python<'_>,
        kept: &[Bound<'_, Batch>],
    ) -> PyResult<usize> {
        let kept: HashSet<_> = kept.iter().map(|batch| batch.get().lease_id()).collect();
        self.operate(py, |engine, now, out| {
            let calls = engine.calls();
            let lost: Vec<_> = calls.filter(|lease| !kept.contains(lease)).collect();
            for &lease in &lost {
                let _ = engine.abandon_call(now, lease, out); // it was there just now
            }
            lost.len()
        })
    }

    fn hand_out<'py>(&self, py: Python<'py>, call: Call) -> PyResult<Bound<'py, Batch>> {
        self.receipts.run(py, call.seqs())?;
        Bound::new(py, Batch::new(call, self.number))
    }
}

//! The queue without its loop: pushes, controls and looks from any thread, and what the driver asks.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chinwag_engine as engine;
use chinwag_engine::{
    Accepted, Attempt, End, Ended, Engine, Failure, Intake, Outbox, Outcome, Refusal, Refused,
    Ticket, Time,
};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyList, PyTuple};

use crate::batch::{Batch, Call};
use crate::clock::{Clock, ManualClock};
use crate::push::{self, Wish};
use crate::receipt::{Names, Receipt, Told};
use crate::receipts::{self, Receipts};
use crate::scheduler::{Payload, Scheduler, lock};
use crate::settings::profile;
use crate::{arguments, columns, error, events, explain, figures};

/// The compiled base of `Queue`.
#[pyclass(frozen, subclass, generic, module = "chinwag._core")]
pub struct Core {
    inner: OnceLock<Inner>,
}

/// What there is once `__init__` has run.
struct Inner {
    /// Which queue: receipts and batches carry it.
    number: u32,
    intake: Arc<Intake<Payload>>,
    scheduler: Mutex<Scheduler>,
    clock: Clock,
    receipts: Receipts,
    /// Has the driver look, from any thread; none while there is no driver.
    waker: Mutex<Option<Py<PyAny>>>,
    /// The driver has been asked to look and has not looked since.
    woken: AtomicBool,
    /// Somebody wants events.
    observed: AtomicBool,
    life: AtomicU8,
}

/// Whether the queue is still of use.
const ALIVE: u8 = 0;
/// Its event loop was closed before it was.
const LOOP_LOST: u8 = 1;
/// It belongs to the process that this one was forked from.
const FORKED: u8 = 2;

static QUEUES: AtomicU32 = AtomicU32::new(0);

#[pymethods]
impl Core {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            inner: OnceLock::new(),
        }
    }

    #[pyo3(signature = (given, clock = None))]
    fn __init__(
        &self,
        py: Python<'_>,
        given: &Bound<'_, PyDict>,
        clock: Option<&Bound<'_, ManualClock>>,
    ) -> PyResult<()> {
        let inner = Inner::new(py, given, clock)?;
        self.inner
            .set(inner)
            .map_err(|_| PyRuntimeError::new_err("the queue has been initialised already"))
    }

    #[pyo3(
        signature = (group, sender, payload, *, id = None, at = None, real_time = None, rank = None,
                     size = None, batch_key = None, quiet_s = None, flush = None, standalone = None,
                     bypass = None, context = None, ttl_s = None, delay_s = None),
        text_signature = "($self, group, sender, payload, *, id=None, at=None, real_time=False, \
                          rank=0, size=1, batch_key=None, quiet_s=None, flush=False, \
                          standalone=False, bypass=False, context=False, ttl_s=None, delay_s=None)"
    )]
    #[allow(clippy::too_many_arguments)] // they are the message's
    fn put_nowait(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        sender: &Bound<'_, PyAny>,
        payload: Payload,
        id: Option<&Bound<'_, PyAny>>,
        at: Option<&Bound<'_, PyAny>>,
        real_time: Option<&Bound<'_, PyAny>>,
        rank: Option<&Bound<'_, PyAny>>,
        size: Option<&Bound<'_, PyAny>>,
        batch_key: Option<&Bound<'_, PyAny>>,
        quiet_s: Option<&Bound<'_, PyAny>>,
        flush: Option<&Bound<'_, PyAny>>,
        standalone: Option<&Bound<'_, PyAny>>,
        bypass: Option<&Bound<'_, PyAny>>,
        context: Option<&Bound<'_, PyAny>>,
        ttl_s: Option<&Bound<'_, PyAny>>,
        delay_s: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<Receipt>> {
        let wish = Wish {
            id,
            at,
            real_time,
            rank,
            size,
            batch_key,
            quiet_s,
            flush,
            standalone,
            bypass,
            context,
            ttl_s,
            delay_s,
        };
        let inner = self.inner()?;
        match inner.put(py, group, sender, payload, &wish, Attempt::First, None)? {
            Ok(receipt) => Ok(receipt),
            Err(refused) => Err(inner.refuse(py, &refused)),
        }
    }

    /// The same for `put`: None, and nothing has happened, if it would have to wait for room; with a
    /// ticket that has been served, into the place that is kept for it.
    #[pyo3(signature = (ticket, group, sender, payload, *, id = None, at = None, real_time = None,
                        rank = None, size = None, batch_key = None, quiet_s = None, flush = None,
                        standalone = None, bypass = None, context = None, ttl_s = None,
                        delay_s = None))]
    #[allow(clippy::too_many_arguments)]
    fn _put(
        &self,
        py: Python<'_>,
        ticket: Option<u64>,
        group: &Bound<'_, PyAny>,
        sender: &Bound<'_, PyAny>,
        payload: Payload,
        id: Option<&Bound<'_, PyAny>>,
        at: Option<&Bound<'_, PyAny>>,
        real_time: Option<&Bound<'_, PyAny>>,
        rank: Option<&Bound<'_, PyAny>>,
        size: Option<&Bound<'_, PyAny>>,
        batch_key: Option<&Bound<'_, PyAny>>,
        quiet_s: Option<&Bound<'_, PyAny>>,
        flush: Option<&Bound<'_, PyAny>>,
        standalone: Option<&Bound<'_, PyAny>>,
        bypass: Option<&Bound<'_, PyAny>>,
        context: Option<&Bound<'_, PyAny>>,
        ttl_s: Option<&Bound<'_, PyAny>>,
        delay_s: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Py<Receipt>>> {
        let wish = Wish {
            id,
            at,
            real_time,
            rank,
            size,
            batch_key,
            quiet_s,
            flush,
            standalone,
            bypass,
            context,
            ttl_s,
            delay_s,
        };
        let inner = self.inner()?;
        let ticket = ticket.map(Ticket::from_u64);
        match inner.put(py, group, sender, payload, &wish, Attempt::Willing, ticket)? {
            Ok(receipt) => Ok(Some(receipt)),
            Err(refused) => match refused.reason {
                Refusal::GroupFull | Refusal::Full => Ok(None),
                _ => Err(inner.refuse(py, &refused)),
            },
        }
    }

    /// Stands in line for a place in a group; the future is resolved once there is one.
    fn _queue_up(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        future: Py<PyAny>,
    ) -> PyResult<u64> {
        let group = arguments::name("group", group)?;
        let inner = self.inner()?;
        let now = inner.clock.now();
        let mut out = Outbox::default();
        let (ticket, admitted) = {
            let mut scheduler = lock(&inner.scheduler);
            let ticket = scheduler.engine.queue_up(now, group, &mut out);
            scheduler.line.insert(ticket, future);
            scheduler.keep_events(&mut out);
            (ticket, scheduler.take_admitted())
        };
        inner.tell(py, &out, admitted, None)?;
        Ok(ticket.as_u64())
    }

    /// Leaves the line, or gives back the place that was kept.
    fn _leave_line(&self, py: Python<'_>, ticket: u64) -> PyResult<()> {
        let inner = self.inner()?;
        let (future, admitted) = {
            let mut scheduler = lock(&inner.scheduler);
            let ticket = Ticket::from_u64(ticket);
            scheduler.engine.leave_line(ticket);
            (scheduler.line.remove(&ticket), scheduler.take_admitted())
        };
        drop(future);
        inner.tell(py, &Outbox::default(), admitted, None)
    }

    /// Pushes the rows of columns that are lists of one length; see `queue.py`. Gives a verdict a row,
    /// as its place among the words of `Verdicts`.
    fn _put_many<'py>(
        &self,
        py: Python<'py>,
        groups: &Bound<'py, PyList>,
        senders: &Bound<'py, PyList>,
        payloads: &Bound<'py, PyList>,
        options: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.inner()?;
        let read = || {
            let rows = columns::read(groups, senders, payloads, options)?;
            for row in &rows {
                push::fits_group(&row.options, || inner.max_wait(&row.group))?;
            }
            PyResult::Ok(rows)
        };
        let rows = read().map_err(|wrong| inner.closed_or(py, wrong))?;
        if inner.intake.is_closed() {
            return Err(inner.closed(py, inner.intake.depth()));
        }
        let mut verdicts = Vec::with_capacity(rows.len());
        let (now, mut wake) = (inner.clock.now(), false);
        for row in rows {
            let pushed = inner.push(
                py,
                now,
                (&row.group, &row.sender),
                row.payload,
                row.options,
                Attempt::First,
            )?;
            verdicts.push(columns::verdict(&pushed));
            wake |= pushed.as_ref().is_ok_and(|accepted| accepted.wake);
        }
        if wake {
            inner.wake_for_push(py)?;
        } else if inner.observed.load(Ordering::Relaxed) {
            inner.wake(py)?;
        }
        Ok(PyBytes::new(py, &verdicts))
    }

    fn withdraw(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        id: &Bound<'_, PyAny>,
    ) -> PyResult<&'static str> {
        let (group, id) = (arguments::name("group", group)?, arguments::name("id", id)?);
        let done = self
            .usable()?
            .control(py, |engine, now, out| engine.withdraw(now, group, id, out))?;
        Ok(if done { "done" } else { "too_late" })
    }

    fn edit(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        id: &Bound<'_, PyAny>,
        payload: Payload,
    ) -> PyResult<&'static str> {
        let (group, id) = (arguments::name("group", group)?, arguments::name("id", id)?);
        let edited = self.usable()?.control(py, |engine, now, out| {
            engine.edit(now, group, id, payload, out)
        })?;
        Ok(if edited.is_ok() { "done" } else { "too_late" })
    }

    #[pyo3(signature = (group, sender, on = None), text_signature = "($self, group, sender, on=True)")]
    fn typing(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        sender: &Bound<'_, PyAny>,
        on: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let group = arguments::name("group", group)?;
        let sender = arguments::name("sender", sender)?;
        let on = on.map_or(Ok(true), |on| arguments::flag("on", on))?;
        self.usable()?.control(py, |engine, now, out| {
            engine.typing(now, group, sender, on, out);
        })
    }

    fn set_members(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        members: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let group = arguments::name("group", group)?;
        let members = arguments::count("members", members)?;
        self.usable()?.control(py, |engine, now, out| {
            engine.set_members(now, group, members, out);
        })
    }

    fn set_sender(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        sender: &Bound<'_, PyAny>,
        weight: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let group = arguments::name("group", group)?;
        let sender = arguments::name("sender", sender)?;
        let weight = match weight {
            Some(weight) => arguments::points("weight", weight)?,
            None => engine::Points::default(),
        };
        self.usable()?.control(py, |engine, now, out| {
            engine.set_sender(now, group, sender, weight, out);
        })
    }

    /// Gives a group the settings of a `Config.profile()`; False: `lanes` is in use.
    fn _configure(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        given: &Bound<'_, PyDict>,
    ) -> PyResult<bool> {
        let group = arguments::name("group", group)?;
        let profile = profile(given)?;
        let configured = self.usable()?.control(py, |engine, now, out| {
            engine.configure(now, group, profile, out)
        })?;
        Ok(configured.is_ok())
    }

    /// The name of a group as a plain str; refuses what cannot be one.
    fn _named<'a>(&self, group: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
        self.usable()?;
        arguments::name("group", group)
    }

    /// Size, strategy and mark of the band of a group that has not been met.
    fn _outlook(&self, group: &Bound<'_, PyAny>) -> PyResult<(u32, &'static str, u32)> {
        let group = arguments::name("group", group)?;
        let scheduler = lock(&self.usable()?.scheduler);
        let (size, strategy, mark) = scheduler.engine.outlook(group);
        Ok((size, strategy.name(), mark))
    }

    fn _explain<'py>(
        &self,
        py: Python<'py>,
        group: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let group = arguments::name("group", group)?;
        self.usable()?
            .look(py, |engine, now, out| engine.explain(now, group, out))?
            .map(|explained| explain::explained(py, explained))
            .transpose()
    }

    #[pyo3(signature = (group = None, *, for_s = None))]
    fn pause(
        &self,
        py: Python<'_>,
        group: Option<&Bound<'_, PyAny>>,
        for_s: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let group = arguments::optional_name("group", group)?;
        let span = for_s
            .map(|span| arguments::seconds("for_s", span))
            .transpose()?;
        self.usable()?
            .control(py, |engine, now, out| engine.pause(now, group, span, out))
    }

    #[pyo3(signature = (group = None))]
    fn resume(&self, py: Python<'_>, group: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let group = arguments::optional_name("group", group)?;
        self.usable()?
            .control(py, |engine, now, out| engine.resume(now, group, out))
    }

    #[pyo3(signature = (group = None))]
    fn clear(&self, py: Python<'_>, group: Option<&Bound<'_, PyAny>>) -> PyResult<u64> {
        let group = arguments::optional_name("group", group)?;
        self.usable()?
            .control(py, |engine, now, out| engine.clear(now, group, out))
    }

    #[pyo3(signature = (group, sender = None))]
    fn stop(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        sender: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<(u64, u64)> {
        let group = arguments::name("group", group)?;
        let sender = arguments::optional_name("sender", sender)?;
        self.usable()?
            .control(py, |engine, now, out| engine.stop(now, group, sender, out))
    }

    #[pyo3(signature = (group, sender = None))]
    fn flush(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        sender: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let group = arguments::name("group", group)?;
        let sender = arguments::optional_name("sender", sender)?;
        self.usable()?
            .control(py, |engine, now, out| engine.flush(now, group, sender, out))
    }

    fn __contains__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let pair = key.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2);
        let Some(pair) = pair else {
            return Err(PyTypeError::new_err(
                "what is looked for must be a pair: (group, id) in queue",
            ));
        };
        let (group, id) = (pair.get_item(0)?, pair.get_item(1)?);
        let group = arguments::sought_name("group", &group)?;
        let id = arguments::sought_name("id", &id)?;
        let (Some(group), Some(id)) = (group, id) else {
            return Ok(false);
        };
        self.usable()?
            .look(py, |engine, now, out| engine.contains(now, group, id, out))
    }

    fn groups(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let names = self.usable()?.control(py, Engine::groups)?;
        Ok(names.into_iter().map(String::from).collect())
    }

    /// Goes by a manual clock from now on.
    fn _follow(&self, clock: &Bound<'_, ManualClock>) -> PyResult<()> {
        let inner = self.usable()?;
        inner.clock.follow(clock.get(), inner.intake.depth() > 0)
    }

    /// `wake` has the driver look; it returns False when there is no loop any more.
    fn _attach(&self, wake: Py<PyAny>) -> PyResult<()> {
        let before = lock(&self.usable()?.waker).replace(wake);
        drop(before);
        Ok(())
    }

    fn _detach(&self) -> PyResult<()> {
        let before = lock(&self.inner()?.waker).take();
        drop(before);
        Ok(())
    }

    /// The next batch; None: nothing is left to do now, and the next push wakes the driver.
    fn _next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, Batch>>> {
        let inner = self.inner()?;
        inner.woken.store(false, Ordering::Release);
        let now = inner.clock.now();
        let mut out = Outbox::default();
        let (call, admitted) = {
            let mut scheduler = lock(&inner.scheduler);
            scheduler.slice.renew();
            let call = scheduler.next(py, now, &mut out);
            scheduler.keep_events(&mut out);
            (call, scheduler.take_admitted())
        };
        inner.tell(py, &out, admitted, None)?;
        call.map(|call| inner.hand_out(py, call)).transpose()
    }

    /// A call returned. The next batch of its slot; None as above; False: the loop must turn first.
    fn _done<'py>(
        &self,
        py: Python<'py>,
        batch: &Bound<'py, Batch>,
        result: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.inner()?
            .settle(py, batch.get(), Ending::Done, Some(result), true)
    }

    /// A call ended. `reason`: None: it returned; `closed`: its messages are abandoned; otherwise why
    /// they are dead. Not followed by the next batch unless asked for `more`.
    #[pyo3(signature = (batch, reason, outcome, more = false, retry = false))]
    fn _end<'py>(
        &self,
        py: Python<'py>,
        batch: &Bound<'py, Batch>,
        reason: Option<&str>,
        outcome: Option<&Bound<'py, PyAny>>,
        more: bool,
        retry: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let ending = match reason {
            None => Ending::Done,
            Some("closed") => Ending::Abandoned,
            Some("error") => Ending::Failed("error", retry),
            Some("cancelled") => Ending::Failed("cancelled", retry),
            Some(reason) => return Err(PyValueError::new_err(format!("reason={reason:?}"))),
        };
        self.inner()?.settle(py, batch.get(), ending, outcome, more)
    }

    /// A call returned that has given up on messages (each with what it failed of), or that wants to
    /// be called again after so many seconds.
    fn _part<'py>(
        &self,
        py: Python<'py>,
        batch: &Bound<'py, Batch>,
        result: &Bound<'py, PyAny>,
        failures: Vec<(u64, Payload)>,
        snooze_s: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let outcome = match snooze_s {
            Some(span) => Outcome::Snoozed(arguments::seconds("seconds", span)?),
            None => Outcome::Done,
        };
        let failures = failures.into_iter().filter_map(|(seq, error)| {
            let seq = batch.get().seq(seq)?;
            let error = Some(error);
            Some(Failure { seq, error })
        });
        let ending = Ending::Parted(outcome, failures.collect());
        self.inner()?
            .settle(py, batch.get(), ending, Some(result), true)
    }

    /// Refuses what is no span of time.
    fn _check_seconds(&self, seconds: &Bound<'_, PyAny>) -> PyResult<()> {
        self.inner()?;
        arguments::seconds("seconds", seconds).map(|_| ())
    }

    /// From here on nothing interrupts the call; False: its lease is lost.
    fn _commit(&self, batch: &Bound<'_, Batch>) -> PyResult<bool> {
        let mut scheduler = lock(&self.inner()?.scheduler);
        Ok(scheduler.engine.commit(batch.get().lease_id()).is_ok())
    }

    /// Calls to be asked to end, with the reason, or to be given up, with None.
    fn _take_endings(&self) -> PyResult<Vec<(u64, Option<&'static str>)>> {
        let endings = lock(&self.inner()?.scheduler).take_endings();
        let endings = endings.into_iter();
        Ok(endings
            .map(|(lease, reason)| (lease.as_u64(), reason))
            .collect())
    }

    /// When to look again, in microseconds of the queue's clock.
    fn _due(&self) -> PyResult<Option<u64>> {
        let inner = self.inner()?;
        let scheduler = lock(&inner.scheduler);
        let mut due = scheduler.engine.wake_at();
        let tidy = scheduler.engine.tidy_at();
        drop(scheduler);
        // Nothing depends on tidying up in time, and virtual time must not be dragged on by it.
        if tidy != Time::NEVER && !inner.clock.is_manual() {
            due = due.min(tidy.max(inner.clock.now().after(BETWEEN_TIDYING)));
        }
        Ok((due != Time::NEVER).then(|| due.as_micros()))
    }

    fn _now_us(&self) -> PyResult<u64> {
        Ok(self.inner()?.clock.now().as_micros())
    }

    #[getter]
    fn _manual(&self) -> PyResult<bool> {
        Ok(self.inner()?.clock.is_manual())
    }

    /// Whether nothing waits, runs or retries. Looks, and drains nothing.
    fn _is_idle(&self) -> PyResult<bool> {
        let inner = self.inner()?;
        // In this order: what starts between the two is counted by both.
        let waiting = inner.intake.depth() + u64::from(inner.intake.bypassing());
        let scheduler = lock(&inner.scheduler);
        let engine = &scheduler.engine;
        Ok(waiting == 0 && engine.running() == 0 && engine.held() == 0)
    }

    /// Whether nothing runs and only a pause holds what waits. After a `_next`.
    fn _is_stuck(&self) -> PyResult<bool> {
        Ok(lock(&self.inner()?.scheduler).engine.stuck())
    }

    /// Groups forgotten so far.
    fn _forgotten(&self) -> PyResult<u64> {
        let mut scheduler = lock(&self.inner()?.scheduler);
        Ok(scheduler.engine.metrics().forgotten_groups)
    }

    fn _is_closed(&self) -> PyResult<bool> {
        Ok(self.inner()?.intake.is_closed())
    }

    fn _close(&self, py: Python<'_>) -> PyResult<()> {
        self.inner()?.operate(py, Engine::close)
    }

    fn _abandon(&self, py: Python<'_>) -> PyResult<()> {
        self.inner()?.operate(py, Engine::abandon)
    }

    /// Ends the calls of all batches but these: nobody has theirs any more. Returns how many.
    fn _abandon_calls(&self, py: Python<'_>, kept: Vec<Bound<'_, Batch>>) -> PyResult<usize> {
        let kept: std::collections::HashSet<_> =
            kept.iter().map(|batch| batch.get().lease_id()).collect();
        let inner = self.inner()?;
        let now = inner.clock.now();
        let mut out = Outbox::default();
        let lost = {
            let mut scheduler = lock(&inner.scheduler);
            let calls = scheduler.engine.calls();
            let lost: Vec<_> = calls.filter(|lease| !kept.contains(lease)).collect();
            for &lease in &lost {
                let _ = scheduler.engine.abandon_call(now, lease, &mut out); // it was there just now
            }
            scheduler.keep_events(&mut out);
            lost.len()
        };
        inner.receipts.end(py, &out.ended, None)?;
        Ok(lost)
    }

    /// The loop was closed before the queue.
    fn _lose(&self) -> PyResult<()> {
        self.inner()?.life.store(LOOP_LOST, Ordering::Release);
        Ok(())
    }

    /// This process was forked from the one whose queue this is: the copy refuses everything.
    fn _fork(&self) {
        let Some(inner) = self.inner.get() else {
            return;
        };
        inner.life.store(FORKED, Ordering::Release);
        let mut out = Outbox::default();
        // Another thread of the parent may have held it; here nobody will ever give it back.
        if let Ok(mut scheduler) = inner.scheduler.try_lock() {
            scheduler.engine.close(inner.clock.now(), &mut out);
        }
        inner.receipts.fork();
    }

    fn _observe(&self, on: bool) -> PyResult<()> {
        let inner = self.inner()?;
        inner.observed.store(on, Ordering::Relaxed);
        let mut scheduler = lock(&inner.scheduler);
        scheduler.engine.observe(on);
        if !on {
            scheduler.take_events();
        }
        Ok(())
    }

    fn _take_events<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let taken = lock(&self.inner()?.scheduler).take_events();
        events::objects(py, &taken)
    }

    fn _figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let inner = self.usable()?;
        let now = inner.clock.now();
        let (ledger, metrics, oldest) = inner.look(py, |engine, now, out| {
            let ledger = engine.check(now, out);
            (ledger, engine.metrics().clone(), engine.oldest_at())
        })?;
        let figures = figures::metrics(py, &metrics)?;
        figures.set_item("running", lock(&inner.scheduler).engine.running())?;
        figures.set_item("oldest_age_s", figures::age(now, oldest))?;
        let ledger = ledger.map_err(|what| error::imbalance(py, &what))?;
        figures.set_item("ledger", figures::ledger(py, &ledger)?)?;
        Ok(figures)
    }

    fn _status<'py>(
        &self,
        py: Python<'py>,
        group: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let group = arguments::name("group", group)?;
        let inner = self.usable()?;
        let now = inner.clock.now();
        inner
            .look(py, |engine, now, out| engine.status(now, group, out))?
            .map(|status| figures::status(py, now, status))
            .transpose()
    }

    fn _ledger<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let checked = self.usable()?.control(py, Engine::check)?;
        figures::ledger(py, &checked.map_err(|what| error::imbalance(py, &what))?)
    }

    /// The same, after a walk through every structure.
    fn _audit<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let audited = self.usable()?.control(py, Engine::audit)?;
        figures::ledger(py, &audited.map_err(|what| error::imbalance(py, &what))?)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(inner) = self.inner.get() else {
            return Ok(());
        };
        if let Ok(waker) = inner.waker.try_lock() {
            visit.call(&*waker)?;
        }
        inner.receipts.traverse(&visit)
    }

    fn __clear__(&self) {
        if let Some(inner) = self.inner.get() {
            let waker = inner.waker.try_lock().map(|mut waker| waker.take());
            drop(waker);
            inner.receipts.clear();
        }
    }
}

impl Core {
    fn inner(&self) -> PyResult<&Inner> {
        self.inner.get().ok_or_else(|| {
            PyRuntimeError::new_err("the queue is not set up; call super().__init__() first")
        })
    }

    /// What looks and controls go to: not a copy in a forked process.
    fn usable(&self) -> PyResult<&Inner> {
        let inner = self.inner()?;
        if inner.life.load(Ordering::Acquire) == FORKED {
            return Err(PyRuntimeError::new_err(
                "this queue belongs to the process that this one was forked from; make a new one",
            ));
        }
        Ok(inner)
    }
}

/// How a call ended.
enum Ending {
    Done,
    /// It returned, but has given up on some messages, or wants to be called again.
    Parted(Outcome<Payload>, Vec<Failure<Payload>>),
    /// In a word, and whether trying again may help.
    Failed(&'static str, bool),
    Abandoned,
}

impl Inner {
    fn new(
        py: Python<'_>,
        given: &Bound<'_, PyDict>,
        clock: Option<&Bound<'_, ManualClock>>,
    ) -> PyResult<Self> {
        let profile = profile(given)?;
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
            observed: AtomicBool::new(false),
            life: AtomicU8::new(ALIVE),
        };
        if let Some(clock) = clock {
            inner.clock.follow(clock.get(), false)?;
        }
        Ok(inner)
    }

    /// Reads, pushes, wakes. The inner error is a refusal, which may be for the caller to raise.
    #[allow(clippy::too_many_arguments)]
    fn put(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        sender: &Bound<'_, PyAny>,
        payload: Payload,
        wish: &Wish<'_, '_>,
        attempt: Attempt,
        ticket: Option<Ticket>,
    ) -> PyResult<Result<Py<Receipt>, Refused<Payload>>> {
        let read = || {
            let options = wish.read()?;
            let room = arguments::name("group", group)?;
            push::fits_group(&options, || self.max_wait(room))?;
            PyResult::Ok((room, arguments::name("sender", sender)?, options))
        };
        let (room, who, options) = read().map_err(|wrong| self.closed_or(py, wrong))?;
        let receipt = self.receipts.blank(py)?;
        let now = self.clock.now();
        let names = || Names {
            group: group.clone().unbind(),
            sender: sender.clone().unbind(),
            id: wish.id.map(|id| id.clone().unbind()),
        };
        let told = |accepted: &Accepted| Told::new(accepted.seq.as_u64(), names());
        let mut pushed = match ticket {
            None => self.receipts.accept(
                py,
                &receipt,
                || {
                    self.intake
                        .push_as(attempt, now, room, who, payload, options)
                },
                told,
            ),
            Some(ticket) => {
                let mut scheduler = lock(&self.scheduler);
                let engine = &mut scheduler.engine;
                let pushed = engine.push_with(now, ticket, room, who, payload, options);
                let (future, admitted) =
                    (scheduler.line.remove(&ticket), scheduler.take_admitted());
                let accepted = pushed.as_ref().ok();
                let before =
                    accepted.map(|accepted| self.receipts.adopt(py, &receipt, told(accepted)));
                drop(scheduler);
                drop((future, before));
                self.tell(py, &Outbox::default(), admitted, None)?;
                pushed
            }
        };
        if pushed.as_ref().is_err_and(|refused| refused.stale) {
            self.operate(py, Engine::make_room)?;
            pushed = pushed.or_else(|refused| {
                let Refused {
                    payload, options, ..
                } = refused;
                self.receipts.accept(
                    py,
                    &receipt,
                    || {
                        self.intake
                            .push_as(Attempt::Last, now, room, who, payload, *options)
                    },
                    told,
                )
            });
        }
        let accepted = match pushed {
            Ok(accepted) => accepted,
            Err(refused) => return Ok(Err(refused)),
        };
        if accepted.crowded || accepted.evicted {
            self.operate(py, Engine::make_room)?; // which ends the receipt of what was evicted
        }
        if accepted.wake {
            self.wake_for_push(py)?;
        }
        Ok(Ok(receipt))
    }

    /// The longest wait of a window in a group, whatever its size.
    fn max_wait(&self, group: &str) -> Duration {
        lock(&self.scheduler).engine.longest_wait(group)
    }

    /// The same for a row whose receipt nobody asked for.
    fn push(
        &self,
        py: Python<'_>,
        now: Time,
        (group, sender): (&str, &str),
        payload: Payload,
        options: engine::Options,
        attempt: Attempt,
    ) -> PyResult<Result<Accepted, Refused<Payload>>> {
        let pushed = self
            .intake
            .push_as(attempt, now, group, sender, payload, options);
        match pushed {
            Ok(accepted) if accepted.crowded => {
                self.operate(py, Engine::make_room)?;
                Ok(Ok(accepted))
            }
            Err(Refused {
                stale: true,
                payload,
                options,
                ..
            }) => {
                self.operate(py, Engine::make_room)?;
                self.push(py, now, (group, sender), payload, *options, Attempt::Last)
            }
            verdict => Ok(verdict),
        }
    }

    /// Tells receipts and those in line what has come of a call, once the engine is free again. What
    /// ended is dropped by the caller.
    fn tell(
        &self,
        py: Python<'_>,
        out: &Outbox<Payload>,
        admitted: Vec<Py<PyAny>>,
        outcome: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        die(py, &out.ended, outcome)?;
        self.receipts.end(py, &out.ended, outcome)?;
        receipts::resolve(py, admitted)
    }

    /// Locks, calls, unlocks; then tells receipts, and drops the payloads of what ended.
    fn operate<T>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut Engine<Payload>, Time, &mut Outbox<Payload>) -> T,
    ) -> PyResult<T> {
        let now = self.clock.now();
        let mut out = Outbox::default();
        let (answer, admitted) = {
            let mut scheduler = lock(&self.scheduler);
            let answer = call(&mut scheduler.engine, now, &mut out);
            scheduler.keep_events(&mut out);
            (answer, scheduler.take_admitted())
        };
        self.tell(py, &out, admitted, None)?;
        Ok(answer)
    }

    /// The same for those who only ask. The driver looks if there is something to tell.
    fn look<T>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut Engine<Payload>, Time, &mut Outbox<Payload>) -> T,
    ) -> PyResult<T> {
        let answer = self.operate(py, call);
        if self.observed.load(Ordering::Relaxed) {
            self.wake(py)?;
        }
        answer
    }

    /// The same for those who change something: there may be something to start, or a timer to set.
    fn control<T>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut Engine<Payload>, Time, &mut Outbox<Payload>) -> T,
    ) -> PyResult<T> {
        let answer = self.operate(py, call);
        self.wake(py)?;
        answer
    }

    fn settle<'py>(
        &self,
        py: Python<'py>,
        batch: &Batch,
        ending: Ending,
        outcome: Option<&Bound<'py, PyAny>>,
        more: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let now = self.clock.now();
        let lease = batch.lease_id();
        let mut out = Outbox::default();
        let over = matches!(ending, Ending::Done | Ending::Abandoned);
        let (next, turn, admitted) = {
            let mut scheduler = lock(&self.scheduler);
            let engine = &mut scheduler.engine;
            // A lease that is lost changes nothing: somebody has seen to its messages.
            let _ = match ending {
                Ending::Done => engine.settle(now, lease, Outcome::Done, &mut out),
                Ending::Parted(outcome, failures) => {
                    engine.settle_with(now, lease, outcome, failures, &mut out)
                }
                Ending::Failed(reason, retry) => {
                    let error = outcome.map(|outcome| outcome.clone().unbind());
                    let outcome = Outcome::Failed {
                        reason,
                        retry,
                        error,
                    };
                    engine.settle(now, lease, outcome, &mut out)
                }
                Ending::Abandoned => engine.abandon_call(now, lease, &mut out),
            };
            // On a manual clock whatever happens at one instant comes before its starts (rule T1).
            let turn = !more || self.clock.is_manual() || scheduler.slice.is_over(now);
            let next = if turn {
                None
            } else {
                scheduler.next(py, now, &mut out)
            };
            scheduler.keep_events(&mut out);
            (next, turn, scheduler.take_admitted())
        };
        if !over {
            self.receipts.rest(py, batch.seqs());
        }
        self.tell(py, &out, admitted, outcome)?;
        match next {
            Some(call) => Ok(self.hand_out(py, call)?.into_any()),
            None if turn => Ok(PyBool::new(py, false).to_owned().into_any()),
            None => Ok(py.None().into_bound(py)),
        }
    }

    fn hand_out<'py>(&self, py: Python<'py>, call: Call) -> PyResult<Bound<'py, Batch>> {
        self.receipts.run(py, call.seqs());
        Bound::new(py, Batch::new(call, self.number))
    }

    /// Has the driver look, once for all who ask before it does.
    fn wake(&self, py: Python<'_>) -> PyResult<()> {
        let Some(waker) = self.waker(py) else {
            return Ok(());
        };
        if !self.woken.swap(true, Ordering::AcqRel) {
            waker.call0(py)?;
        }
        Ok(())
    }

    /// The same for a push that was told to: nobody else will see to its message.
    #[cold]
    fn wake_for_push(&self, py: Python<'_>) -> PyResult<()> {
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

    #[cold]
    fn refuse(&self, py: Python<'_>, refused: &Refused<Payload>) -> PyErr {
        // The event of the refusal, if anybody wants it, is told at the driver's next look.
        if self.observed.load(Ordering::Relaxed)
            && let Err(error) = self.wake(py)
        {
            return error;
        }
        match refused.reason {
            Refusal::Closed => self.closed(py, refused.depth),
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

    fn closed(&self, py: Python<'_>, depth: u64) -> PyErr {
        let reason = match self.life.load(Ordering::Acquire) {
            LOOP_LOST => "loop_closed",
            FORKED => "forked",
            _ => "closed",
        };
        error::closed(py, reason, depth)
    }
}

/// Tells failures what is dead of them, and why.
fn die(
    py: Python<'_>,
    ended: &[Ended<Payload>],
    outcome: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    for message in ended.iter().filter(|message| message.end == End::Dead) {
        let of_call = outcome.filter(|_| message.lease.is_some());
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

/// A look only to tidy up comes no sooner after the last one.
const BETWEEN_TIDYING: Duration = Duration::from_millis(100);

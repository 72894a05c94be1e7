//! The queue without its loop: pushes, controls and looks from any thread, and what the driver asks.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chinwag_engine as engine;
use chinwag_engine::{Attempt, Engine, Failure, Outbox, Outcome, Refusal, Ticket, Time};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::batch::{Batch, Entry};
use crate::calls::Ending;
use crate::clock::ManualClock;
use crate::inner::{FORKED, Inner, LOOP_LOST};
use crate::options::Wish;
use crate::receipt::Receipt;
use crate::scheduler::{Dead, Payload, lock};
use crate::settings::profile;
use crate::{arguments, columns, error, events, explain, figures};

/// The compiled base of `Queue`.
#[pyclass(frozen, subclass, generic, module = "chinwag._core")]
pub struct Core {
    inner: OnceLock<Inner>,
}

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
                     bypass = None, context = None, ttl_s = None, delay_s = None, background = None,
                     on_busy = None),
        text_signature = "($self, group, sender, payload, *, id=None, at=None, real_time=False, \
                          rank=0, size=1, batch_key=None, quiet_s=None, flush=False, \
                          standalone=False, bypass=False, context=False, ttl_s=None, delay_s=None, \
                          background=False, on_busy=None)"
    )]
    #[allow(clippy::too_many_arguments)] // they are the message's
    fn put_nowait(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        sender: &Bound<'_, PyAny>,
        payload: Payload,
        id: Option<Bound<'_, PyAny>>,
        at: Option<Bound<'_, PyAny>>,
        real_time: Option<Bound<'_, PyAny>>,
        rank: Option<Bound<'_, PyAny>>,
        size: Option<Bound<'_, PyAny>>,
        batch_key: Option<Bound<'_, PyAny>>,
        quiet_s: Option<Bound<'_, PyAny>>,
        flush: Option<Bound<'_, PyAny>>,
        standalone: Option<Bound<'_, PyAny>>,
        bypass: Option<Bound<'_, PyAny>>,
        context: Option<Bound<'_, PyAny>>,
        ttl_s: Option<Bound<'_, PyAny>>,
        delay_s: Option<Bound<'_, PyAny>>,
        background: Option<Bound<'_, PyAny>>,
        on_busy: Option<Bound<'_, PyAny>>,
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
            background,
            on_busy,
        };
        let inner = self.inner()?;
        match inner.put(py, group, sender, payload, &wish, Attempt::First, None)? {
            Ok(receipt) => Ok(receipt),
            Err(refused) => Err(inner.refuse(py, &refused)),
        }
    }

    /// The same for `put`, with the options in the order above: None, and nothing has happened, if it
    /// would have to wait for room; with a ticket that has been served, into the place that is kept
    /// for it.
    fn _put(
        &self,
        py: Python<'_>,
        ticket: Option<u64>,
        group: &Bound<'_, PyAny>,
        sender: &Bound<'_, PyAny>,
        payload: Payload,
        options: &Bound<'_, PyTuple>,
    ) -> PyResult<Option<Py<Receipt>>> {
        let mut given = options.iter();
        let wish = Wish::each(|_| {
            let given = given
                .next()
                .ok_or_else(|| PyTypeError::new_err("an option is missing"))?;
            Ok((!given.is_none()).then_some(given))
        })?;
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
        let ticket = self.inner()?.schedule(py, None, |scheduler, now, out| {
            let ticket = scheduler.engine.queue_up(now, group, out);
            scheduler.line.insert(ticket, future);
            ticket
        })?;
        Ok(ticket.as_u64())
    }

    /// Leaves the line, or gives back the place that was kept.
    fn _leave_line(&self, py: Python<'_>, ticket: u64) -> PyResult<()> {
        let ticket = Ticket::from_u64(ticket);
        let future = self.inner()?.schedule(py, None, |scheduler, _, _| {
            scheduler.engine.leave_line(ticket);
            scheduler.line.remove(&ticket)
        })?;
        drop(future); // with nothing locked
        Ok(())
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
        let read = || columns::read(groups, senders, payloads, options);
        let verdicts = self.inner()?.put_many(py, read)?;
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

    #[pyo3(
        signature = (group, id, payload, *, restart = None),
        text_signature = "($self, group, id, payload, *, restart=False)"
    )]
    fn edit(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        id: &Bound<'_, PyAny>,
        payload: Payload,
        restart: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<&'static str> {
        let (group, id) = (arguments::name("group", group)?, arguments::name("id", id)?);
        let restart = restart.map_or(Ok(false), |restart| arguments::flag("restart", restart))?;
        let edited = self.usable()?.control(py, |engine, now, out| {
            engine.edit(now, group, id, payload, restart, out)
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
        if crate::inner::interrupts(&profile) {
            self.usable()?.interrupts.store(true, Ordering::Relaxed);
        }
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

    fn _disable(&self, py: Python<'_>, group: &Bound<'_, PyAny>) -> PyResult<bool> {
        let group = arguments::name("group", group)?;
        self.usable()?
            .control(py, |engine, now, out| engine.disable(now, group, out))
    }

    fn enable(&self, py: Python<'_>, group: &Bound<'_, PyAny>) -> PyResult<bool> {
        let group = arguments::name("group", group)?;
        self.usable()?
            .control(py, |engine, now, out| engine.enable(now, group, out))
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
        let names = self.usable()?.look(py, Engine::groups)?;
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
        self.inner()?.next(py)
    }

    /// A call returned. The next batch of its slot; None as above; False: the loop must turn first.
    /// `TimeoutError`, and nothing has happened: it was too late, so it has failed.
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
            Some("decided" | "put_back") => Ending::PutBack,
            Some(reason) => return Err(PyValueError::new_err(format!("reason={reason:?}"))),
        };
        self.inner()?.settle(py, batch.get(), ending, outcome, more)
    }

    /// A call returned that has given up on messages (place and what it failed of), or that wants to
    /// be called again after so many seconds. `more` as above.
    fn _part<'py>(
        &self,
        py: Python<'py>,
        batch: &Bound<'py, Batch>,
        result: &Bound<'py, PyAny>,
        failures: Vec<(usize, Payload)>,
        snooze_s: Option<&Bound<'py, PyAny>>,
        more: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let outcome = match snooze_s {
            Some(span) => Outcome::Snoozed(arguments::seconds("seconds", span)?),
            None => Outcome::Done,
        };
        let failures = failures.into_iter().filter_map(|(place, error)| {
            let seq = batch.get().seq(place)?;
            let error = Some(error);
            Some(Failure { seq, error })
        });
        let ending = Ending::Parted(outcome, failures.collect());
        self.inner()?
            .settle(py, batch.get(), ending, Some(result), more)
    }

    /// Refuses what is no span of time.
    fn _check_seconds(&self, seconds: &Bound<'_, PyAny>) -> PyResult<()> {
        self.inner()?;
        arguments::seconds("seconds", seconds).map(|_| ())
    }

    /// From here on nothing interrupts the call; False: its lease is lost, or about to be.
    fn _commit(&self, py: Python<'_>, batch: &Bound<'_, Batch>) -> PyResult<bool> {
        self.inner()?.of_call(py, batch, Engine::commit)
    }

    /// Delays interruptions from now on, or no longer; False: its lease is lost, or about to be.
    fn _shield(&self, py: Python<'_>, batch: &Bound<'_, Batch>, on: bool) -> PyResult<bool> {
        self.inner()?.of_call(py, batch, |engine, now, lease, out| {
            engine.shield(now, lease, on, out)
        })
    }

    /// Keeps a state for the next call; False: its lease is lost.
    fn _save(&self, py: Python<'_>, batch: &Bound<'_, Batch>, state: Payload) -> PyResult<bool> {
        let lease = batch.get().lease_id();
        let saved = self
            .inner()?
            .operate(py, |engine, _, out| engine.save(lease, state, out))?;
        Ok(saved.is_ok())
    }

    /// Keeps what the call puts out for the next one; False: its lease is lost.
    fn _emit(&self, py: Python<'_>, batch: &Bound<'_, Batch>, all: Payload) -> PyResult<bool> {
        let lease = batch.get().lease_id();
        let kept = self
            .inner()?
            .operate(py, |engine, _, out| engine.keep_emitted(lease, all, out))?;
        Ok(kept.is_ok())
    }

    /// Receipts of its messages that somebody holds.
    fn _receipts(&self, py: Python<'_>, batch: &Bound<'_, Batch>) -> PyResult<Vec<Py<Receipt>>> {
        Ok(self.inner()?.receipts.held(py, batch.get().seqs()))
    }

    /// Whether the messages of the call would go back if somebody cancelled it.
    fn _would_go_back(&self, batch: &Bound<'_, Batch>) -> PyResult<bool> {
        let scheduler = lock(&self.inner()?.scheduler);
        Ok(scheduler.engine.would_go_back(batch.get().lease_id()))
    }

    /// Whether its lease is not lost.
    fn _holds(&self, batch: &Bound<'_, Batch>) -> PyResult<bool> {
        let scheduler = lock(&self.inner()?.scheduler);
        Ok(scheduler.engine.batch(batch.get().lease_id()).is_some())
    }

    /// Status, saved state and what was put out of the lane's last call that did not complete.
    #[allow(clippy::type_complexity)]
    fn _previous(
        &self,
        py: Python<'_>,
        batch: &Bound<'_, Batch>,
    ) -> PyResult<Option<(&'static str, Option<Payload>, Option<Payload>)>> {
        let scheduler = lock(&self.inner()?.scheduler);
        let found = scheduler.engine.previous(batch.get().lease_id());
        Ok(found.map(|found| {
            let copy = |state: Option<&Payload>| state.map(|state| state.clone_ref(py));
            (found.status, copy(found.saved), copy(found.emitted))
        }))
    }

    /// Whether something waits behind the call in its lane; None: its lease is lost.
    fn _superseded(&self, py: Python<'_>, batch: &Bound<'_, Batch>) -> PyResult<Option<bool>> {
        let lease = batch.get().lease_id();
        let found = self
            .inner()?
            .look(py, |engine, now, out| engine.superseded(now, lease, out))?;
        Ok(found.ok())
    }

    /// The first that the call could take now, at most `most`; None: its lease is lost.
    #[pyo3(signature = (batch, most = None))]
    fn _inbox<'py>(
        &self,
        py: Python<'py>,
        batch: &Bound<'py, Batch>,
        most: Option<usize>,
    ) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let (lease, most) = (batch.get().lease_id(), most.unwrap_or(usize::MAX));
        let found = self.inner()?.look(py, |engine, now, out| {
            engine.inbox_with(now, lease, most, |message| Entry::of(py, &message), out)
        })?;
        let found = found.ok();
        found
            .map(|entries| batch.get().make(py, &entries))
            .transpose()
    }

    /// Takes some of that; None: its lease is lost.
    fn _take<'py>(
        &self,
        py: Python<'py>,
        batch: &Bound<'py, Batch>,
        most: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let most = most
            .map(|most| arguments::count("limit", most))
            .transpose()?;
        let (inner, call) = (self.inner()?, batch.get());
        let lease = call.lease_id();
        let taken = inner.control(py, |engine, now, out| {
            engine.take(now, lease, most, out).ok()?;
            let messages = engine.batch(lease)?;
            let messages = messages.messages().skip(call.grown());
            Some(messages.map(|message| Entry::of(py, &message)).collect())
        })?;
        let Some(taken): Option<Vec<Entry>> = taken else {
            return Ok(None);
        };
        inner
            .receipts
            .run(py, taken.iter().map(|entry| entry.seq))?;
        call.take(py, taken).map(Some)
    }

    /// Calls to be asked to end, with the reason, or to be given up, with None; and which messages of
    /// these are dead, and of what.
    #[allow(clippy::type_complexity)] // a list of pairs, and a dict
    fn _take_endings(&self) -> PyResult<(Vec<(u64, Option<&'static str>)>, Dead)> {
        let (endings, dead) = lock(&self.inner()?.scheduler).take_endings();
        let endings = endings.into_iter();
        let endings = endings.map(|(lease, reason)| (lease.as_u64(), reason));
        Ok((endings.collect(), dead))
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
        self.inner()?.abandon_calls(py, &kept)
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
        let checked = self.usable()?.look(py, Engine::check)?;
        figures::ledger(py, &checked.map_err(|what| error::imbalance(py, &what))?)
    }

    /// The same, after a walk through every structure.
    fn _audit<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let audited = self.usable()?.look(py, Engine::audit)?;
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

/// A look only to tidy up comes no sooner after the last one.
const BETWEEN_TIDYING: Duration = Duration::from_millis(100);

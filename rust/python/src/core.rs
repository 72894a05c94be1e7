//! The queue without its loop: pushes, controls and looks from any thread, and what the driver asks.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chinwag_engine as engine;
use chinwag_engine::{Engine, Intake, Lanes, Outbox, Outcome, Refusal, Refused, Time};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyTuple};

use crate::batch::{Batch, Call};
use crate::clock::{Clock, ManualClock};
use crate::receipt::{Names, Receipt, Told};
use crate::receipts::Receipts;
use crate::scheduler::{Payload, Scheduler, lock};
use crate::settings::settings;
use crate::{arguments, error, events, figures};

/// The compiled base of `Queue`.
#[pyclass(frozen, subclass, generic, module = "chinwag._core")]
pub struct Core {
    inner: OnceLock<Inner>,
}

/// What there is once `__init__` has run.
struct Inner {
    /// Which queue: receipts and batches carry it.
    number: u32,
    lanes: Lanes,
    max_wait: Duration,
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

    #[pyo3(signature = (flat, clock = None))]
    fn __init__(
        &self,
        py: Python<'_>,
        flat: &Bound<'_, PyDict>,
        clock: Option<&Bound<'_, ManualClock>>,
    ) -> PyResult<()> {
        let inner = Inner::new(py, flat, clock)?;
        self.inner
            .set(inner)
            .map_err(|_| PyRuntimeError::new_err("the queue has been initialised already"))
    }

    #[pyo3(
        signature = (group, sender, payload, *, id = None, at = None, size = None, batch_key = None,
                     quiet_s = None, flush = None, standalone = None),
        text_signature = "($self, group, sender, payload, *, id=None, at=None, size=1, \
                          batch_key=None, quiet_s=None, flush=False, standalone=False)"
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
        size: Option<&Bound<'_, PyAny>>,
        batch_key: Option<&Bound<'_, PyAny>>,
        quiet_s: Option<&Bound<'_, PyAny>>,
        flush: Option<&Bound<'_, PyAny>>,
        standalone: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<Receipt>> {
        let inner = self.inner()?;
        let read = || {
            let options = engine::Options {
                id: arguments::optional_name("id", id)?.map(Into::into),
                at: at.map(|at| arguments::time("at", at)).transpose()?,
                size: size.map_or(Ok(engine::Size::ONE), |size| arguments::size("size", size))?,
                batch_key: arguments::optional_name("batch_key", batch_key)?.map(Into::into),
                quiet: inner.own_quiet(quiet_s)?,
                flush: flush.map_or(Ok(false), |flag| arguments::flag("flush", flag))?,
                standalone: standalone
                    .map_or(Ok(false), |flag| arguments::flag("standalone", flag))?,
                ..engine::Options::default()
            };
            let (room, who) = (
                arguments::name("group", group)?,
                arguments::name("sender", sender)?,
            );
            PyResult::Ok((room, who, options))
        };
        let (room, who, options) = read().map_err(|wrong| inner.closed_or(py, wrong))?;
        let receipt = inner.receipts.blank(py)?;
        let now = inner.clock.now();
        let names = Names {
            group: group.clone().unbind(),
            sender: sender.clone().unbind(),
            id: id.map(|id| id.clone().unbind()),
        };
        let accepted = inner.receipts.accept(
            py,
            &receipt,
            || inner.intake.push(now, room, who, payload, options),
            |accepted| Told::new(accepted.seq.as_u64(), names),
        );
        match accepted {
            Ok(accepted) if accepted.wake => inner.wake_for_push(py)?,
            Ok(_) => {}
            Err(refused) => return Err(inner.refuse(py, &refused)),
        }
        Ok(receipt)
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
        let call = {
            let mut scheduler = lock(&inner.scheduler);
            scheduler.slice.renew();
            let call = scheduler.next(py, now, &mut out);
            scheduler.keep_events(&mut out);
            call
        };
        inner.receipts.end(py, &out.ended, None)?;
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
    #[pyo3(signature = (batch, reason, outcome, more = false))]
    fn _end<'py>(
        &self,
        py: Python<'py>,
        batch: &Bound<'py, Batch>,
        reason: Option<&str>,
        outcome: Option<&Bound<'py, PyAny>>,
        more: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let ending = match reason {
            None => Ending::Done,
            Some("closed") => Ending::Abandoned,
            Some("error") => Ending::Dead("error"),
            Some("cancelled") => Ending::Dead("cancelled"),
            Some(reason) => return Err(PyValueError::new_err(format!("reason={reason:?}"))),
        };
        self.inner()?.settle(py, batch.get(), ending, outcome, more)
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

    /// Whether nothing waits and nothing runs. Looks, and drains nothing.
    fn _is_idle(&self) -> PyResult<bool> {
        let inner = self.inner()?;
        // In this order: what starts between the two is counted by both.
        let waiting = inner.intake.depth();
        Ok(waiting == 0 && lock(&inner.scheduler).running == 0)
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
                scheduler.end(|engine| engine.abandon_call(now, lease, &mut out));
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
        figures.set_item("running", lock(&inner.scheduler).running)?;
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
    Dead(&'static str),
    Abandoned,
}

impl Inner {
    fn new(
        py: Python<'_>,
        flat: &Bound<'_, PyDict>,
        clock: Option<&Bound<'_, ManualClock>>,
    ) -> PyResult<Self> {
        let settings = settings(flat)?;
        let (lanes, max_wait) = (settings.lanes, settings.max_wait);
        let number = QUEUES.fetch_add(1, Ordering::Relaxed);
        let engine = Engine::new(settings);
        let inner = Self {
            number,
            lanes,
            max_wait,
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

    /// A quiet period of the message's own (rule W6).
    fn own_quiet(&self, quiet_s: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
        let Some(given) = quiet_s else {
            return Ok(None);
        };
        let quiet = arguments::seconds("quiet_s", given)?;
        if quiet == Duration::MAX && self.max_wait == Duration::MAX {
            return Err(PyValueError::new_err(
                "quiet_s=inf in a queue with max_wait_s=inf: the message would wait for ever; give \
                 it seconds, or the queue a max_wait_s",
            ));
        }
        Ok(Some(quiet))
    }

    /// Locks, calls, unlocks; then tells receipts, and drops the payloads of what ended.
    fn operate<T>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut Engine<Payload>, Time, &mut Outbox<Payload>) -> T,
    ) -> PyResult<T> {
        let now = self.clock.now();
        let mut out = Outbox::default();
        let answer = {
            let mut scheduler = lock(&self.scheduler);
            let answer = call(&mut scheduler.engine, now, &mut out);
            scheduler.keep_events(&mut out);
            answer
        };
        self.receipts.end(py, &out.ended, None)?;
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
        let (next, turn) = {
            let mut scheduler = lock(&self.scheduler);
            scheduler.end(|engine| match ending {
                Ending::Done => engine.settle(now, lease, Outcome::Done, &mut out),
                Ending::Dead(reason) => {
                    engine.settle(now, lease, Outcome::Failed { reason }, &mut out)
                }
                Ending::Abandoned => engine.abandon_call(now, lease, &mut out),
            });
            // On a manual clock whatever happens at one instant comes before its starts (rule T1).
            let turn = !more || self.clock.is_manual() || scheduler.slice.is_over(now);
            let next = if turn {
                None
            } else {
                scheduler.next(py, now, &mut out)
            };
            scheduler.keep_events(&mut out);
            (next, turn)
        };
        self.receipts.end(py, &out.ended, outcome)?;
        match next {
            Some(call) => Ok(self.hand_out(py, call)?.into_any()),
            None if turn => Ok(PyBool::new(py, false).to_owned().into_any()),
            None => Ok(py.None().into_bound(py)),
        }
    }

    fn hand_out<'py>(&self, py: Python<'py>, call: Call) -> PyResult<Bound<'py, Batch>> {
        self.receipts.run(py, call.seqs());
        Bound::new(py, Batch::new(call, self.number, self.lanes))
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

/// Whether reference counts mean something: not in a build of Python without its global lock.
fn one_thread_at_a_time(py: Python<'_>) -> PyResult<bool> {
    match py.import("sys")?.getattr("_is_gil_enabled") {
        Ok(asked) => asked.call0()?.extract(),
        Err(_) => Ok(true),
    }
}

/// A look only to tidy up comes no sooner after the last one.
const BETWEEN_TIDYING: Duration = Duration::from_millis(100);

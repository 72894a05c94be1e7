//! What the caller of a push holds: how its message ends.
//!
//! A receipt waits, runs, then ends for good. One that nobody has kept is used again for a later
//! message (see `receipts.rs`), so what it tells of stands behind a lock.

use std::sync::Mutex;

use chinwag_engine::{End, Seq};
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use crate::batch::Batch;
use crate::error;
use crate::scheduler::lock;

/// A message's way through the queue, as its pusher sees it.
#[pyclass(frozen, generic, module = "chinwag._core")]
pub struct Receipt {
    /// Which queue it is of.
    queue: u32,
    told: Mutex<Told>,
}

/// What a receipt tells.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) seq: u64,
    /// None until the first message is accepted.
    pub(crate) names: Option<Names>,
    place: Place,
    /// Futures of those that await it.
    waiters: Vec<Py<PyAny>>,
    /// What streams read from, once there is one.
    feed: Option<Py<PyAny>>,
}

/// The message's names as its pusher gave them.
pub(crate) struct Names {
    pub(crate) group: Py<PyAny>,
    pub(crate) sender: Py<PyAny>,
    pub(crate) id: Option<Py<PyAny>>,
}

/// Where the message is.
#[derive(Default)]
enum Place {
    #[default]
    Waiting,
    Running,
    /// Between two calls.
    Retrying,
    Ended(Ending),
}

/// How it ended, with the result, or the error of the call.
struct Ending {
    end: End,
    reason: &'static str,
    outcome: Option<Py<PyAny>>,
}

impl Told {
    pub(crate) fn new(seq: u64, names: Names) -> Self {
        Self {
            seq,
            names: Some(names),
            ..Self::default()
        }
    }
}

impl Receipt {
    pub(crate) fn new(queue: u32) -> Self {
        Self {
            queue,
            told: Mutex::default(),
        }
    }

    pub(crate) fn seq(&self) -> u64 {
        lock(&self.told).seq
    }

    /// Whether there is still something to be told.
    pub(crate) fn is_open(&self) -> bool {
        let told = lock(&self.told);
        told.names.is_some() && !matches!(told.place, Place::Ended(_))
    }

    /// Tells of another message. What is given back must be dropped without a lock.
    #[must_use]
    pub(crate) fn retell(&self, told: Told) -> Told {
        std::mem::replace(&mut *lock(&self.told), told)
    }

    /// A call of it begins. Gives back what its streams read from, if there is one.
    pub(crate) fn run(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let mut told = lock(&self.told);
        if matches!(told.place, Place::Waiting | Place::Retrying) {
            told.place = Place::Running;
        }
        told.feed.as_ref().map(|feed| feed.clone_ref(py))
    }

    /// Its call is over; unless it ends with that, there will be another.
    pub(crate) fn rest(&self) {
        let mut told = lock(&self.told);
        if matches!(told.place, Place::Running) {
            told.place = Place::Retrying;
        }
    }

    /// Ends it and gives back the futures of those that wait.
    pub(crate) fn end(
        &self,
        end: End,
        reason: &'static str,
        outcome: Option<Py<PyAny>>,
    ) -> Vec<Py<PyAny>> {
        let mut told = lock(&self.told);
        told.place = Place::Ended(Ending {
            end,
            reason,
            outcome,
        });
        std::mem::take(&mut told.waiters)
    }
}

#[pymethods]
impl Receipt {
    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        let told = lock(&self.told);
        let given = told.names.as_ref().and_then(|names| names.id.as_ref());
        let given = given.map(|id| id.clone_ref(py));
        let seq = told.seq;
        drop(told);
        match given {
            Some(id) => id.into_bound(py),
            None => PyString::new(py, &Seq::from_u64(seq).automatic_id()).into_any(),
        }
    }

    #[getter]
    fn group<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let told = lock(&self.told);
        Some(told.names.as_ref()?.group.bind(py).clone())
    }

    #[getter]
    fn state(&self) -> &'static str {
        match &lock(&self.told).place {
            Place::Waiting => "waiting",
            Place::Running => "running",
            Place::Retrying => "retrying",
            Place::Ended(ending) => ending.end.name(),
        }
    }

    fn __await__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static FOLLOW: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        FOLLOW
            .import(slf.py(), "chinwag._receipts", "follow")?
            .call1((slf,))
    }

    #[pyo3(signature = (timeout = None))]
    fn result<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static WAIT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        WAIT.import(slf.py(), "chinwag._receipts", "wait")?
            .call1((slf, timeout))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let group = self
            .group(py)
            .map_or_else(String::new, |group| group.to_string());
        format!("<Receipt {} in {group:?}: {}>", self.id(py), self.state())
    }

    fn stream<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static STREAM: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        STREAM
            .import(slf.py(), "chinwag.stream", "Stream")?
            .call1((slf,))
    }

    /// What its streams read from; made when first asked for.
    #[getter]
    fn _feed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static FEED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let made = FEED.import(py, "chinwag.stream", "Feed")?.call0()?;
        let mut told = lock(&self.told);
        let feed = told.feed.get_or_insert_with(|| made.clone().unbind());
        Ok(feed.bind(py).clone())
    }

    /// Keeps a future that is to be resolved at the end; false: the end has come.
    fn _attach(&self, future: Py<PyAny>) -> bool {
        let mut told = lock(&self.told);
        let open = !matches!(told.place, Place::Ended(_));
        if open {
            told.waiters.push(future);
        }
        open
    }

    /// Whether its message has.
    #[getter]
    fn _ended(&self) -> bool {
        matches!(lock(&self.told).place, Place::Ended(_))
    }

    /// Forgets a future that nobody waits for any more.
    fn _detach(&self, future: &Bound<'_, PyAny>) {
        let mut told = lock(&self.told);
        let at = told.waiters.iter().position(|waiter| waiter.is(future));
        let waiter = at.map(|at| told.waiters.swap_remove(at));
        drop(told);
        drop(waiter);
    }

    /// The result of the call, or `Dropped`.
    fn _outcome<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let told = lock(&self.told);
        let Place::Ended(ending) = &told.place else {
            drop(told);
            return Err(PyRuntimeError::new_err("the message has not ended"));
        };
        let (end, reason) = (ending.end, ending.reason);
        let outcome = ending.outcome.as_ref().map(|outcome| outcome.clone_ref(py));
        drop(told);
        match (end, outcome) {
            (End::Done, outcome) => {
                Ok(outcome.map_or_else(|| py.None().into_bound(py), |o| o.into_bound(py)))
            }
            (_, None) => Err(error::dropped(py, end.name(), reason)),
            (_, Some(failure)) => {
                let dropped = error::dropped(py, end.name(), reason);
                let cause = failure.bind(py).call_method0("seen")?;
                dropped.set_cause(py, (!cause.is_none()).then(|| PyErr::from_value(cause)));
                Err(dropped)
            }
        }
    }

    /// Whether the message cannot come before the end of this call.
    fn _waits_for(&self, py: Python<'_>, batch: &Bound<'_, Batch>) -> bool {
        let told = lock(&self.told);
        let Some(names) = &told.names else {
            return false;
        };
        let (group, sender) = (names.group.clone_ref(py), names.sender.clone_ref(py));
        let seq = told.seq;
        drop(told);
        match (text(group.bind(py)), text(sender.bind(py))) {
            (Some(group), Some(sender)) => batch.get().holds_up(self.queue, group, sender, seq),
            _ => false,
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Not visited: kept alive this time.
        let Ok(told) = self.told.try_lock() else {
            return Ok(());
        };
        if let Some(names) = &told.names {
            visit.call(&names.group)?;
            visit.call(&names.sender)?;
            visit.call(&names.id)?;
        }
        visit.call(&told.feed)?;
        if let Place::Ended(ending) = &told.place {
            visit.call(&ending.outcome)?;
        }
        told.waiters
            .iter()
            .try_for_each(|waiter| visit.call(waiter))
    }

    fn __clear__(&self) {
        let told = match self.told.try_lock() {
            Ok(mut told) => {
                let place = match &mut told.place {
                    Place::Ended(ending) => ending.outcome.take(),
                    _ => None,
                };
                (place, told.feed.take(), std::mem::take(&mut told.waiters))
            }
            Err(_) => return,
        };
        drop(told);
    }
}

fn text<'a>(name: &'a Bound<'_, PyAny>) -> Option<&'a str> {
    name.cast::<PyString>().ok()?.to_str().ok()
}

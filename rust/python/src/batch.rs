//! What a handler gets: one thin object per call, whose messages are made when somebody looks.

use std::sync::{Mutex, OnceLock};

use chinwag_engine as engine;
use chinwag_engine::{ClosedBy, Kind, Lanes, LeaseId, MessageName, Points, Seq, Size, Time};
use compact_str::CompactString;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::OnceLockExt;
use pyo3::types::{PyIterator, PyList, PyString, PyTuple};

use crate::explain;
use crate::message::Message;
use crate::scheduler::{Payload, lock};

/// A call, copied out of the engine under its lock.
#[allow(clippy::struct_excessive_bools)] // what is known of it
pub(crate) struct Call {
    pub(crate) lease: LeaseId,
    group: CompactString,
    kind: Kind,
    closed_by: ClosedBy,
    attempt: u32,
    lanes: Lanes,
    bypass: bool,
    resumed: bool,
    fallback: bool,
    buffers: bool,
    saved: Option<Payload>,
    entries: Entries,
    beside: Option<Box<Beside>>,
}

/// What few calls have.
struct Beside {
    context: Vec<Entry>,
    evicted: Vec<MessageName>,
}

/// The messages of a batch; one alone needs no room of its own.
enum Entries {
    One(Entry),
    Many(Vec<Entry>),
}

impl Entries {
    fn as_slice(&self) -> &[Entry] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }
}

/// A message, copied likewise.
#[allow(clippy::struct_excessive_bools)] // each is a wish of its own
pub(crate) struct Entry {
    pub(crate) payload: Payload,
    pub(crate) seq: u64,
    pub(crate) arrived_at: Time,
    pub(crate) sender: CompactString,
    pub(crate) kind: Kind,
    pub(crate) flush: bool,
    pub(crate) standalone: bool,
    pub(crate) real_time: bool,
    pub(crate) background: bool,
    pub(crate) options: Option<Box<Options>>,
}

/// What few messages have.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) id: Option<Box<str>>,
    pub(crate) at: Option<Time>,
    pub(crate) size: Size,
    pub(crate) batch_key: Option<Box<str>>,
    pub(crate) rank: Points,
}

impl Entry {
    pub(crate) fn of(py: Python<'_>, message: &engine::BatchMessage<'_, Payload>) -> Self {
        let plain = message.id.is_none()
            && message.at.is_none()
            && message.batch_key.is_none()
            && message.rank == Points::default()
            && message.size == Size::ONE;
        Self {
            payload: message.payload.clone_ref(py),
            seq: message.seq.as_u64(),
            arrived_at: message.arrived_at,
            sender: message.sender.clone(),
            kind: message.kind,
            flush: message.flush,
            standalone: message.standalone,
            real_time: message.real_time,
            background: message.background,
            options: (!plain).then(|| {
                Box::new(Options {
                    id: message.id.map(Into::into),
                    at: message.at,
                    size: message.size,
                    batch_key: message.batch_key.map(Into::into),
                    rank: message.rank,
                })
            }),
        }
    }

    pub(crate) fn copy(&self, py: Python<'_>) -> Self {
        Self {
            payload: self.payload.clone_ref(py),
            sender: self.sender.clone(),
            options: self.options.clone(),
            ..*self
        }
    }
}

impl Beside {
    fn of(py: Python<'_>, batch: &engine::Batch<'_, Payload>) -> Option<Box<Self>> {
        if batch.context_len() == 0 && batch.evicted().is_empty() {
            return None;
        }
        let context = batch.context().map(|message| Entry::of(py, &message));
        Some(Box::new(Self {
            context: context.collect(),
            evicted: batch.evicted().to_vec(),
        }))
    }
}

impl Call {
    /// Copies what a call is for. Counts references, allocates nothing of Python's.
    pub(crate) fn of(
        py: Python<'_>,
        lease: LeaseId,
        batch: &engine::Batch<'_, Payload>,
    ) -> Option<Self> {
        let mut messages = batch.messages().map(|message| Entry::of(py, &message));
        let first = messages.next()?;
        let entries = if batch.len() == 1 {
            Entries::One(first)
        } else {
            let mut entries = Vec::with_capacity(batch.len());
            entries.push(first);
            entries.extend(messages);
            Entries::Many(entries)
        };
        Some(Self {
            lease,
            group: batch.group().clone(),
            kind: batch.kind(),
            closed_by: batch.closed_by(),
            attempt: batch.attempt(),
            lanes: batch.lanes(),
            bypass: batch.is_bypass(),
            resumed: batch.resumed(),
            fallback: batch.is_fallback(),
            buffers: batch.is_transaction(),
            saved: batch.saved().map(|saved| saved.clone_ref(py)),
            entries,
            beside: Beside::of(py, batch),
        })
    }

    /// Its messages and its context, by their place in the push order.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = u64> {
        let context = self.beside.as_ref().map(|beside| beside.context.iter());
        let entries = self.entries.as_slice().iter();
        entries
            .chain(context.into_iter().flatten())
            .map(|entry| entry.seq)
    }
}

/// A batch of messages, the argument of the handler.
#[pyclass(frozen, generic, module = "chinwag._core")]
pub struct Batch {
    call: Call,
    /// Which queue it is of.
    queue: u32,
    group: OnceLock<Py<PyString>>,
    messages: OnceLock<Py<PyTuple>>,
    /// Messages that the call took while it ran.
    taken: Mutex<Vec<Entry>>,
    context: OnceLock<Py<PyTuple>>,
}

impl Batch {
    pub(crate) fn new(call: Call, queue: u32) -> Self {
        Self {
            call,
            queue,
            group: OnceLock::new(),
            messages: OnceLock::new(),
            taken: Mutex::default(),
            context: OnceLock::new(),
        }
    }

    /// Its messages by their place in the push order, those of its context and those taken too.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = u64> {
        let taken: Vec<_> = lock(&self.taken).iter().map(|entry| entry.seq).collect();
        self.call.seqs().chain(taken)
    }

    /// Messages that have become part of the call; as a handler sees them.
    pub(crate) fn take<'py>(
        &self,
        py: Python<'py>,
        entries: Vec<Entry>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let made = self.make(py, &entries)?;
        lock(&self.taken).extend(entries);
        Ok(made)
    }

    /// How many messages the call has now.
    pub(crate) fn grown(&self) -> usize {
        self.entries().len() + lock(&self.taken).len()
    }

    /// Its lease, if it is of that queue.
    pub(crate) fn lease_in(&self, queue: u32) -> Option<LeaseId> {
        (self.queue == queue).then_some(self.call.lease)
    }

    /// The place in the push order of the message at a place of the batch.
    pub(crate) fn seq(&self, place: usize) -> Option<Seq> {
        let (entries, taken) = (self.entries(), lock(&self.taken));
        let entry = entries.get(place);
        let entry = entry.or_else(|| taken.get(place - entries.len()))?;
        Some(Seq::from_u64(entry.seq))
    }

    pub(crate) fn lease_id(&self) -> LeaseId {
        self.call.lease
    }

    /// Whether a message waits behind this call, or is part of it.
    pub(crate) fn holds_up(&self, queue: u32, group: &str, sender: &str, seq: u64) -> bool {
        let same_group = self.queue == queue && self.call.group == group;
        same_group
            && match self.call.lanes {
                _ if self.call.bypass => self.last().seq == seq,
                Lanes::Group => true,
                Lanes::Sender => self.last().sender == sender,
                Lanes::Message => self.seqs().any(|own| own == seq),
            }
    }

    fn context_entries(&self) -> &[Entry] {
        let beside = self.call.beside.as_ref();
        beside.map_or(&[], |beside| &beside.context)
    }

    pub(crate) fn make<'py>(
        &self,
        py: Python<'py>,
        entries: &[Entry],
    ) -> PyResult<Bound<'py, PyTuple>> {
        let made: PyResult<Vec<_>> = entries
            .iter()
            .map(|entry| Py::new(py, Message::new(entry.copy(py), &self.call.group)))
            .collect();
        PyTuple::new(py, made?)
    }

    /// Messages as Python sees them, the same each time.
    fn kept<'py>(
        &self,
        py: Python<'py>,
        kept: &OnceLock<Py<PyTuple>>,
        entries: &[Entry],
    ) -> PyResult<Bound<'py, PyTuple>> {
        if let Some(kept) = kept.get() {
            return Ok(kept.bind(py).clone());
        }
        let made = self.make(py, entries)?.unbind();
        let kept = kept.get_or_init_py_attached(py, || made);
        Ok(kept.bind(py).clone())
    }

    fn entries(&self) -> &[Entry] {
        self.call.entries.as_slice()
    }

    fn last(&self) -> &Entry {
        match &self.call.entries {
            Entries::One(entry) => entry,
            Entries::Many(entries) => &entries[entries.len() - 1],
        }
    }
}

#[pymethods]
impl Batch {
    #[getter]
    fn group<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        let group = self
            .group
            .get_or_init_py_attached(py, || PyString::new(py, &self.call.group).unbind());
        group.bind(py).clone()
    }

    #[getter]
    fn sender(&self) -> &str {
        &self.last().sender
    }

    #[getter]
    fn messages<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.kept(py, &self.messages, self.entries())
    }

    #[getter]
    fn payloads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(
            py,
            self.entries().iter().map(|entry| entry.payload.bind(py)),
        )
    }

    #[getter]
    fn primary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.messages(py)?.get_item(self.entries().len() - 1)
    }

    #[getter]
    fn kind(&self) -> &'static str {
        self.call.kind.name()
    }

    #[getter]
    fn closed_by(&self) -> &'static str {
        self.call.closed_by.name()
    }

    #[getter]
    fn context<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.kept(py, &self.context, self.context_entries())
    }

    #[getter]
    fn evicted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let beside = self.call.beside.as_ref();
        explain::ids(py, beside.map_or(&[], |beside| &beside.evicted))
    }

    #[getter]
    fn _attempt(&self) -> u32 {
        self.call.attempt
    }

    #[getter]
    fn _taken<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let taken = lock(&self.taken);
        let taken: Vec<_> = taken.iter().map(|entry| entry.copy(py)).collect();
        self.make(py, &taken)
    }

    #[getter]
    fn _resumed(&self) -> bool {
        self.call.resumed
    }

    #[getter]
    fn _fallback(&self) -> bool {
        self.call.fallback
    }

    #[getter]
    fn _buffers(&self) -> bool {
        self.call.buffers
    }

    #[getter]
    fn _saved<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let saved = self.call.saved.as_ref()?;
        Some(saved.bind(py).clone())
    }

    #[getter]
    fn _lease(&self) -> u64 {
        self.call.lease.as_u64()
    }

    fn __len__(&self) -> usize {
        self.entries().len()
    }

    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        index: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.messages(py)?.as_any().get_item(index)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.messages(py)?.as_any().try_iter()
    }

    fn __reversed__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let messages = self.messages(py)?;
        py.import("builtins")?
            .getattr("reversed")?
            .call1((messages,))
    }

    fn __contains__(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.messages(py)?.contains(value)
    }

    #[pyo3(signature = (value, start = 0, stop = None))]
    fn index(
        &self,
        py: Python<'_>,
        value: &Bound<'_, PyAny>,
        start: isize,
        stop: Option<isize>,
    ) -> PyResult<usize> {
        let messages = self.messages(py)?;
        let stop = stop.unwrap_or(isize::MAX);
        messages
            .call_method1("index", (value, start, stop))?
            .extract()
    }

    fn count(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.messages(py)?
            .call_method1("count", (value,))?
            .extract()
    }

    fn __repr__(&self) -> String {
        let count = self.entries().len();
        let plural = if count == 1 { "" } else { "s" };
        format!(
            "<Batch of {count} message{plural} in {:?}, the last by {:?}: {}, closed by {}>",
            self.call.group.as_str(),
            self.last().sender.as_str(),
            self.kind(),
            self.closed_by(),
        )
    }

    #[allow(clippy::unused_self)] // Python calls it on an object
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a batch belongs to its running call and cannot be pickled; take its payloads",
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for entry in self.entries().iter().chain(self.context_entries()) {
            visit.call(&entry.payload)?;
        }
        if let Ok(taken) = self.taken.try_lock() {
            for entry in taken.iter() {
                visit.call(&entry.payload)?;
            }
        }
        visit.call(&self.call.saved)?;
        visit.call(self.group.get())?;
        // Messages that were made hold the payloads too.
        visit.call(self.messages.get())?;
        visit.call(self.context.get())
    }
}

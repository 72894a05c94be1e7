//! One message of a batch.

use chinwag_engine::{Seq, Size};
use compact_str::CompactString;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::batch::{Entry, Options};
use crate::clock::seconds;

/// A message as a handler sees it.
#[pyclass(frozen, generic, module = "chinwag._core")]
pub struct Message {
    entry: Entry,
    group: CompactString,
}

impl Message {
    pub(crate) fn new(entry: Entry, group: &CompactString) -> Self {
        Self {
            entry,
            group: group.clone(),
        }
    }

    fn options(&self) -> Option<&Options> {
        self.entry.options.as_deref()
    }
}

#[pymethods]
impl Message {
    #[getter]
    fn id(&self) -> String {
        match self.options().and_then(|options| options.id.as_deref()) {
            Some(id) => id.to_owned(),
            None => Seq::from_u64(self.entry.seq).automatic_id(),
        }
    }

    #[getter]
    fn group(&self) -> &str {
        &self.group
    }

    #[getter]
    fn sender(&self) -> &str {
        &self.entry.sender
    }

    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.entry.payload.bind(py).clone()
    }

    #[getter]
    fn at(&self) -> Option<f64> {
        self.options()?.at.map(seconds)
    }

    #[getter]
    fn arrived_at(&self) -> f64 {
        seconds(self.entry.arrived_at)
    }

    #[getter]
    fn kind(&self) -> &'static str {
        self.entry.kind.name()
    }

    #[getter]
    fn size(&self) -> f64 {
        self.options()
            .map_or(Size::ONE, |options| options.size)
            .as_f64()
    }

    #[getter]
    fn batch_key(&self) -> Option<&str> {
        self.options()?.batch_key.as_deref()
    }

    #[getter]
    fn flush(&self) -> bool {
        self.entry.flush
    }

    #[getter]
    fn standalone(&self) -> bool {
        self.entry.standalone
    }

    #[getter]
    fn _seq(&self) -> u64 {
        self.entry.seq
    }

    #[getter]
    fn real_time(&self) -> bool {
        self.entry.real_time
    }

    #[getter]
    fn background(&self) -> bool {
        self.entry.background
    }

    #[getter]
    fn rank(&self) -> f64 {
        self.options().map_or(0.0, |options| options.rank.as_f64())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let payload = self.entry.payload.bind(py).repr()?;
        let payload = payload.to_string_lossy();
        let shown = match payload.char_indices().nth(60) {
            Some((end, _)) => format!("{}...", &payload[..end]),
            None => payload.into_owned(),
        };
        Ok(format!(
            "<Message {} in {:?} by {:?}: {shown}>",
            self.id(),
            self.group.as_str(),
            self.entry.sender.as_str(),
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.entry.payload)
    }
}

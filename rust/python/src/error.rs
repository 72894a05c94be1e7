//! The engine's answers as exceptions of `chinwag.errors`.

use chinwag_engine::{Imbalance, Refusal};
use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

static REJECTED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static FULL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static CLOSED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static DROPPED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static IMBALANCE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

pub(crate) fn rejected(py: Python<'_>, reason: Refusal, depth: u64) -> PyErr {
    let (cell, name) = match reason {
        Refusal::Closed => (&CLOSED, "QueueClosed"),
        Refusal::Duplicate | Refusal::Busy | Refusal::Unserved => (&REJECTED, "Rejected"),
        Refusal::GroupFull | Refusal::Full | Refusal::BypassFull => (&FULL, "QueueFull"),
    };
    raised(py, cell, name, (reason.name(), depth))
}

/// A queue that is closed for a reason of its own.
pub(crate) fn closed(py: Python<'_>, reason: &str, depth: u64) -> PyErr {
    raised(py, &CLOSED, "QueueClosed", (reason, depth))
}

pub(crate) fn dropped(py: Python<'_>, end: &str, reason: &str) -> PyErr {
    raised(py, &DROPPED, "Dropped", (end, reason))
}

pub(crate) fn imbalance(py: Python<'_>, what: &Imbalance) -> PyErr {
    raised(py, &IMBALANCE, "Imbalance", (what.to_string(),))
}

fn raised<'py>(
    py: Python<'py>,
    cell: &PyOnceLock<Py<PyType>>,
    name: &str,
    args: impl PyCallArgs<'py>,
) -> PyErr {
    cell.import(py, "chinwag.errors", name)
        .and_then(|class| class.call1(args))
        .map_or_else(|error| error, PyErr::from_value)
}

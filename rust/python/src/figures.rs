//! Figures of the engine as plain Python values; `stats.py` gives them their form.

use chinwag_engine::{ClosedBy, End, Histogram, Ledger, Metrics, Refusal, Status, Strategy, Time};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::{events, explain};

/// Edges of the buckets of every histogram, in whole units.
#[pyfunction]
pub(crate) fn histogram_edges() -> Vec<u64> {
    Histogram::edges()
}

pub(crate) fn ledger<'py>(py: Python<'py>, ledger: &Ledger) -> PyResult<Bound<'py, PyDict>> {
    let figures = PyDict::new(py);
    figures.set_item("accepted", ledger.accepted)?;
    figures.set_item("waiting", ledger.waiting)?;
    figures.set_item("running", ledger.running)?;
    figures.set_item("retrying", ledger.retrying)?;
    for end in End::ALL {
        figures.set_item(end.name(), ledger.ended_as(end))?;
    }
    Ok(figures)
}

pub(crate) fn status(py: Python<'_>, now: Time, status: Status) -> PyResult<Bound<'_, PyDict>> {
    let figures = PyDict::new(py);
    figures.set_item("paused", status.paused)?;
    figures.set_item("waiting", status.waiting)?;
    figures.set_item("running", status.running)?;
    figures.set_item("senders", status.senders)?;
    figures.set_item("back_to_back_groups", status.back_to_back)?;
    figures.set_item("context", status.context)?;
    figures.set_item("size", status.size)?;
    figures.set_item("current_message_ids", explain::ids(py, &status.current)?)?;
    figures.set_item("oldest_age_s", age(now, status.oldest_at))?;
    Ok(figures)
}

pub(crate) fn age(now: Time, at: Option<Time>) -> Option<f64> {
    at.map(|at| now.since(at).as_secs_f64())
}

pub(crate) fn metrics<'py>(py: Python<'py>, metrics: &Metrics) -> PyResult<Bound<'py, PyDict>> {
    let figures = PyDict::new(py);
    let refused = PyDict::new(py);
    for reason in Refusal::ALL {
        refused.set_item(reason.name(), metrics.refused[reason as usize])?;
    }
    let closed_by = PyDict::new(py);
    for cause in ClosedBy::ALL {
        closed_by.set_item(cause.name(), metrics.closed_by[cause as usize])?;
    }
    figures.set_item("refused", refused)?;
    figures.set_item("closed_by", closed_by)?;
    figures.set_item("calls", metrics.started)?;
    figures.set_item("failed_calls", metrics.failed_calls)?;
    figures.set_item("fenced", metrics.fenced)?;
    figures.set_item("interruptions", metrics.interruptions)?;
    figures.set_item("preemptions", metrics.preemptions)?;
    figures.set_item("put_back", metrics.put_back)?;
    figures.set_item("injected", metrics.injected)?;
    figures.set_item("back_to_back", metrics.back_to_back)?;
    figures.set_item("bursts", metrics.burst)?;
    figures.set_item("forgotten_groups", metrics.forgotten_groups)?;
    figures.set_item("forgotten_ids", metrics.forgotten_ids)?;
    figures.set_item("groups", metrics.groups)?;
    let ends: Vec<_> = metrics
        .ends
        .iter()
        .map(|&(end, reason, count)| (end.name(), events::why(end, reason), count))
        .collect();
    figures.set_item("end_reasons", ends)?;
    let ages = PyDict::new(py);
    for end in End::ALL {
        let age = &metrics.ages[end as usize];
        if age.count > 0 {
            ages.set_item(end.name(), histogram(py, age)?)?;
        }
    }
    figures.set_item("ages", ages)?;
    let strategies = PyDict::new(py);
    for strategy in Strategy::ALL {
        let figures = &metrics.strategies[strategy as usize];
        let wait = histogram(py, &figures.wait)?;
        strategies.set_item(strategy.name(), (figures.started, wait))?;
    }
    figures.set_item("strategies", strategies)?;
    figures.set_item("wait", histogram(py, &metrics.wait())?)?;
    figures.set_item("handling", histogram(py, &metrics.handling)?)?;
    figures.set_item("batch_size", histogram(py, &metrics.batch_size)?)?;
    Ok(figures)
}

/// Counts as the bytes of an array of u64, so that no number becomes an object unasked.
fn histogram<'py>(py: Python<'py>, histogram: &Histogram) -> PyResult<Bound<'py, PyDict>> {
    let counts: Vec<u8> = histogram
        .counts()
        .iter()
        .flat_map(|count| count.to_ne_bytes())
        .collect();
    let figures = PyDict::new(py);
    figures.set_item("counts", PyBytes::new(py, &counts))?;
    figures.set_item("total", histogram.sum)?;
    figures.set_item("maximum", histogram.max)?;
    Ok(figures)
}

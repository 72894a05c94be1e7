//! What the engine says about who is next, as plain Python values; `explain.py` gives them their form.

use chinwag_engine::{Explained, MessageName, Running, Score, Waiting};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::clock::seconds;

pub(crate) fn explained(py: Python<'_>, explained: Explained) -> PyResult<Bound<'_, PyDict>> {
    let facts = PyDict::new(py);
    facts.set_item("strategy", explained.strategy.name())?;
    facts.set_item("size", explained.size)?;
    facts.set_item("band_from", explained.band_from)?;
    facts.set_item("standing", explained.standing.as_f64())?;
    facts.set_item("now_served", explained.now_served.as_f64())?;
    facts.set_item("senders_served", explained.senders_served.as_f64())?;
    let running: PyResult<Vec<_>> = explained
        .running
        .iter()
        .map(|call| running(py, call))
        .collect();
    facts.set_item("running", running?)?;
    let waiting: PyResult<Vec<_>> = explained
        .waiting
        .iter()
        .map(|batch| waiting(py, batch))
        .collect();
    facts.set_item("waiting", waiting?)?;
    Ok(facts)
}

fn running<'py>(py: Python<'py>, call: &Running) -> PyResult<Bound<'py, PyDict>> {
    let facts = PyDict::new(py);
    facts.set_item("sender", call.sender.as_str())?;
    facts.set_item("ids", ids(py, &call.messages)?)?;
    facts.set_item("started_at", seconds(call.started_at))?;
    facts.set_item("closed_by", (!call.bypass).then_some(call.closed_by.name()))?;
    facts.set_item("score", score(py, &call.score)?)?;
    facts.set_item("standing", call.standing.as_f64())?;
    facts.set_item("group_standing", call.group_standing.as_f64())?;
    facts.set_item("bypass", call.bypass)?;
    Ok(facts)
}

fn waiting<'py>(py: Python<'py>, batch: &Waiting) -> PyResult<Bound<'py, PyDict>> {
    let facts = PyDict::new(py);
    facts.set_item("sender", batch.sender.as_str())?;
    facts.set_item("ids", ids(py, &batch.messages)?)?;
    facts.set_item("since", seconds(batch.since))?;
    facts.set_item("score", score(py, &batch.score)?)?;
    facts.set_item("standing", batch.standing.as_f64())?;
    facts.set_item("waits_for", batch.waits_for.name())?;
    facts.set_item("until", batch.until.map(seconds))?;
    Ok(facts)
}

fn score<'py>(py: Python<'py>, score: &Score) -> PyResult<Bound<'py, PyDict>> {
    let parts = PyDict::new(py);
    parts.set_item("real_time", score.real_time.as_f64())?;
    parts.set_item("back_to_back", score.back_to_back.as_f64())?;
    parts.set_item("burst", score.burst.as_f64())?;
    parts.set_item("sender", score.sender.as_f64())?;
    parts.set_item("rank", score.rank.as_f64())?;
    Ok(parts)
}

/// Ids, own or automatic.
pub(crate) fn ids<'py>(py: Python<'py>, names: &[MessageName]) -> PyResult<Bound<'py, PyTuple>> {
    let names = names.iter().map(|name| match name {
        MessageName::Given(id) => String::from(id.clone()),
        MessageName::Automatic(seq) => seq.automatic_id(),
    });
    PyTuple::new(py, names.collect::<Vec<_>>())
}

//! Many messages at once, as columns of one length: all of them are read before the first is pushed.

use chinwag_engine::{Accepted, Options, Refusal, Refused};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::options;
use crate::scheduler::Payload;

/// One message.
pub(crate) struct Row {
    pub(crate) group: String,
    pub(crate) sender: String,
    pub(crate) payload: Payload,
    pub(crate) options: Options,
}

/// Reads the columns, which `queue.py` has made lists of one length. A wrong value is told with its row.
pub(crate) fn read(
    groups: &Bound<'_, PyList>,
    senders: &Bound<'_, PyList>,
    payloads: &Bound<'_, PyList>,
    given: &Bound<'_, PyDict>,
) -> PyResult<Vec<Row>> {
    let columns = options::Options::each(|name| -> PyResult<Option<Bound<'_, PyList>>> {
        let found = given.get_item(name)?;
        found.map(|column| Ok(column.cast_into()?)).transpose()
    })?;
    let mut rows = Vec::with_capacity(groups.len());
    for row in 0..groups.len() {
        let wish = columns.try_map(|column| cell(column.as_ref(), row))?;
        let (group, sender) = (groups.get_item(row)?, senders.get_item(row)?);
        let read = || {
            PyResult::Ok(Row {
                group: crate::arguments::name("group", &group)?.to_owned(),
                sender: crate::arguments::name("sender", &sender)?.to_owned(),
                payload: payloads.get_item(row)?.unbind(),
                options: wish.read()?,
            })
        };
        rows.push(read().map_err(|wrong| in_row(groups.py(), row, &wrong))?);
    }
    Ok(rows)
}

/// The verdict on a row, as its place among the words of `Verdicts`.
pub(crate) fn verdict(pushed: &Result<Accepted, Refused<Payload>>) -> u8 {
    match pushed {
        Ok(accepted) if accepted.evicted => 4,
        Ok(_) => 0,
        Err(refused) => match refused.reason {
            Refusal::Duplicate => 1,
            Refusal::GroupFull | Refusal::Full | Refusal::BypassFull => 2,
            Refusal::Busy | Refusal::Unserved => 3,
            Refusal::Closed => 5,
        },
    }
}

/// A value of a column that may have been left out, and may leave out values.
fn cell<'py>(
    column: Option<&Bound<'py, PyList>>,
    row: usize,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let found = column.map(|column| column.get_item(row)).transpose()?;
    Ok(found.filter(|value| !value.is_none()))
}

/// What is wrong with a row, with its number.
fn in_row(py: Python<'_>, row: usize, wrong: &PyErr) -> PyErr {
    let text = format!("row {row}: {}", wrong.value(py));
    if wrong.is_instance_of::<pyo3::exceptions::PyTypeError>(py) {
        pyo3::exceptions::PyTypeError::new_err(text)
    } else if wrong.is_instance_of::<PyValueError>(py) {
        PyValueError::new_err(text)
    } else {
        wrong.clone_ref(py)
    }
}

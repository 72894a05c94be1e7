//! The flat settings of a `Config`, already checked by it, as the engine wants them.

use std::time::Duration;

use chinwag_engine::{Lanes, Settings, Size};
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments::whole_micros;

pub(crate) fn settings(flat: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let flat = Flat(flat);
    let lanes: String = flat.value("lanes")?;
    Ok(Settings {
        lanes: match lanes.as_str() {
            "sender" => Lanes::Sender,
            "group" => Lanes::Group,
            "message" => Lanes::Message,
            _ => return Err(PyValueError::new_err(format!("lanes={lanes:?}"))),
        },
        back_to_back: flat.span("back_to_back_s")?,
        burst: flat.span("burst_s")?,
        quiet: flat.span("quiet_s")?,
        max_wait: flat.span("max_wait_s")?,
        max_batch: flat
            .value::<Option<f64>>("max_batch")?
            .and_then(Size::from_f64),
        min_batch: flat.value("min_batch")?,
        max_gap: flat.value::<Option<f64>>("max_gap_s")?.map(whole_micros),
        quiet_when_idle: flat.value("quiet_when_idle")?,
        quiet_when_busy: flat.value("quiet_when_busy")?,
        max_concurrent_per_group: flat.value("max_concurrent_per_group")?,
        max_concurrent: flat.value("max_concurrent")?,
        capacity_per_group: flat.value("capacity_per_group")?,
        capacity: flat.value("capacity")?,
        dedup: flat.span("dedup_s")?,
        dedup_limit: flat.value("dedup_limit")?,
        idle_group: flat.span("idle_group_s")?,
        ..Settings::default()
    })
}

struct Flat<'a, 'py>(&'a Bound<'py, PyDict>);

impl<'py> Flat<'_, 'py> {
    fn value<T>(&self, key: &str) -> PyResult<T>
    where
        T: for<'a> FromPyObject<'a, 'py, Error: Into<PyErr>>,
    {
        let found = self
            .0
            .get_item(key)?
            .ok_or_else(|| PyKeyError::new_err(key.to_owned()))?;
        found.extract().map_err(Into::into)
    }

    fn span(&self, key: &str) -> PyResult<Duration> {
        let seconds: f64 = self.value(key)?;
        Ok(if seconds == f64::INFINITY {
            Duration::MAX
        } else {
            whole_micros(seconds)
        })
    }
}

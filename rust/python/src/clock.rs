//! What time it is: the wall clock at the start and a monotonic one from there, or a clock that a
//! test moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chinwag_engine::Time;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::arguments;

/// A point in time in epoch seconds, as Python has it.
pub(crate) fn seconds(at: Time) -> f64 {
    at.as_micros() as f64 / 1e6
}

/// A queue's clock. No step of the wall clock reaches the engine.
pub(crate) struct Clock {
    wall: u64,
    started: Instant,
    manual: OnceLock<Arc<AtomicU64>>,
}

impl Clock {
    pub(crate) fn system() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self {
            wall: wall.as_micros() as u64,
            started: Instant::now(),
            manual: OnceLock::new(),
        }
    }

    pub(crate) fn now(&self) -> Time {
        match self.manual.get() {
            None => Time::from_micros(self.wall + self.started.elapsed().as_micros() as u64),
            Some(manual) => Time::from_micros(manual.load(Ordering::Acquire)),
        }
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.manual.get().is_some()
    }

    /// Goes by a manual clock from now on. What was stamped so far must not lie in its future.
    pub(crate) fn follow(&self, clock: &ManualClock, stamped: bool) -> PyResult<()> {
        if stamped && clock.now() < self.now() {
            return Err(PyRuntimeError::new_err(
                "messages were pushed by the system clock, and the clock of this event loop is \
                 behind it; give the queue its clock when it is made: Queue(..., clock=...)",
            ));
        }
        let manual = self.manual.get_or_init(|| clock.micros.clone());
        if Arc::ptr_eq(manual, &clock.micros) {
            Ok(())
        } else {
            Err(PyRuntimeError::new_err(
                "the queue goes by another manual clock already",
            ))
        }
    }
}

/// A clock that stands still until it is moved.
#[pyclass(frozen, module = "chinwag._core")]
pub struct ManualClock {
    micros: Arc<AtomicU64>,
}

impl ManualClock {
    fn now(&self) -> Time {
        Time::from_micros(self.now_us())
    }
}

#[pymethods]
impl ManualClock {
    #[new]
    fn new(start_s: &Bound<'_, PyAny>) -> PyResult<Self> {
        let start = arguments::time("start_s", start_s)?;
        Ok(Self {
            micros: Arc::new(AtomicU64::new(start.as_micros())),
        })
    }

    #[getter]
    fn now_us(&self) -> u64 {
        self.micros.load(Ordering::Acquire)
    }

    fn advance_to_us(&self, now_us: &Bound<'_, PyAny>) -> PyResult<()> {
        let now_us = arguments::micros("now_us", now_us)?.as_micros();
        let before = self.micros.fetch_max(now_us, Ordering::AcqRel);
        if before <= now_us {
            return Ok(());
        }
        Err(PyValueError::new_err(format!(
            "now_us={now_us}: must not be before {before}; time does not go back"
        )))
    }

    fn __repr__(&self) -> String {
        format!("<ManualClock {:.6} s>", self.now_us() as f64 / 1e6)
    }
}

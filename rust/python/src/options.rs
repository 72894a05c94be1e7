//! What a push is given, read into what the engine takes.

use std::time::Duration;

use chinwag_engine::{Options, Points, Size};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments;

/// The keyword arguments of a push, as they came.
#[derive(Default)]
pub(crate) struct Wish<'a, 'py> {
    pub(crate) id: Option<&'a Bound<'py, PyAny>>,
    pub(crate) at: Option<&'a Bound<'py, PyAny>>,
    pub(crate) real_time: Option<&'a Bound<'py, PyAny>>,
    pub(crate) rank: Option<&'a Bound<'py, PyAny>>,
    pub(crate) size: Option<&'a Bound<'py, PyAny>>,
    pub(crate) batch_key: Option<&'a Bound<'py, PyAny>>,
    pub(crate) quiet_s: Option<&'a Bound<'py, PyAny>>,
    pub(crate) flush: Option<&'a Bound<'py, PyAny>>,
    pub(crate) standalone: Option<&'a Bound<'py, PyAny>>,
    pub(crate) bypass: Option<&'a Bound<'py, PyAny>>,
    pub(crate) context: Option<&'a Bound<'py, PyAny>>,
    pub(crate) ttl_s: Option<&'a Bound<'py, PyAny>>,
    pub(crate) delay_s: Option<&'a Bound<'py, PyAny>>,
}

impl Wish<'_, '_> {
    /// Reads them. Whether a quiet period fits its group is for [`fits_group`].
    pub(crate) fn read(&self) -> PyResult<Options> {
        let options = Options {
            id: own_id(self.id)?,
            at: self.at.map(|at| arguments::time("at", at)).transpose()?,
            size: match self.size {
                Some(size) => arguments::size("size", size)?,
                None => Size::ONE,
            },
            batch_key: arguments::optional_name("batch_key", self.batch_key)?.map(Into::into),
            quiet: span("quiet_s", self.quiet_s)?,
            rank: match self.rank {
                Some(rank) => arguments::points("rank", rank)?,
                None => Points::default(),
            },
            ttl: span("ttl_s", self.ttl_s)?,
            delay: delay(self.delay_s)?,
            flush: flag("flush", self.flush)?,
            standalone: flag("standalone", self.standalone)?,
            real_time: flag("real_time", self.real_time)?,
            context: flag("context", self.context)?,
            bypass: flag("bypass", self.bypass)?,
        };
        if let Err(why) = fit_together(&options) {
            return Err(PyValueError::new_err(why));
        }
        Ok(options)
    }
}

/// Which wishes contradict each other (rule T4).
pub(crate) fn fit_together(options: &Options) -> Result<(), &'static str> {
    match (options.bypass, options.context, options.delay.is_some()) {
        (true, true, _) => Err(
            "bypass=True with context=True: a message either starts at once or waits for the next \
             call; give one of them",
        ),
        (true, _, true) => Err(
            "bypass=True with delay_s: what bypasses the others starts at once; push it later, or \
             leave out bypass",
        ),
        (_, true, true) => Err(
            "context=True with delay_s: context is there at once; push it later, or leave out context",
        ),
        _ => Ok(()),
    }
}

/// An id of its own. The form `#<number>` is that of automatic ones.
pub(crate) fn own_id(id: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Box<str>>> {
    let Some(id) = arguments::optional_name("id", id)? else {
        return Ok(None);
    };
    let number = id.strip_prefix('#');
    if number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(PyValueError::new_err(format!(
            "id={id:?}: ids of the form #<number> are those that chinwag gives; put something before it"
        )));
    }
    Ok(Some(id.into()))
}

/// Whether a message would ever be handed over in a group with this `max_wait` (rule W6).
pub(crate) fn fits_group(options: &Options, max_wait: impl FnOnce() -> Duration) -> PyResult<()> {
    if options.quiet != Some(Duration::MAX) || max_wait() != Duration::MAX {
        return Ok(());
    }
    Err(PyValueError::new_err(
        "quiet_s=inf in a queue with max_wait_s=inf: the message would wait for ever; give it \
         seconds, or the queue a max_wait_s",
    ))
}

fn span(what: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    value
        .map(|value| arguments::seconds(what, value))
        .transpose()
}

/// A delay ends.
fn delay(value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    let delay = span("delay_s", value)?;
    if delay == Some(Duration::MAX) {
        return Err(PyValueError::new_err(
            "delay_s=inf: the message would never arrive; give seconds, at most 1,000,000,000",
        ));
    }
    Ok(delay.filter(|delay| !delay.is_zero()))
}

fn flag(what: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
    value.map_or(Ok(false), |value| arguments::flag(what, value))
}

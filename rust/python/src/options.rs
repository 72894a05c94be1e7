//! What a push is given, read into what the engine takes.

use std::time::Duration;

use chinwag_engine as engine;
use chinwag_engine::{Points, Size};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments;

/// The options of a push, each as it came: as what is asked for, or as a column of that.
pub(crate) struct Options<T> {
    pub(crate) id: T,
    pub(crate) at: T,
    pub(crate) real_time: T,
    pub(crate) rank: T,
    pub(crate) size: T,
    pub(crate) batch_key: T,
    pub(crate) quiet_s: T,
    pub(crate) flush: T,
    pub(crate) standalone: T,
    pub(crate) bypass: T,
    pub(crate) context: T,
    pub(crate) ttl_s: T,
    pub(crate) delay_s: T,
}

/// What one push asks for; none where it says nothing.
pub(crate) type Wish<'py> = Options<Option<Bound<'py, PyAny>>>;

impl<T> Options<T> {
    /// Finds each by its name, in the order of `put_nowait`.
    pub(crate) fn each(mut find: impl FnMut(&'static str) -> PyResult<T>) -> PyResult<Self> {
        Ok(Self {
            id: find("id")?,
            at: find("at")?,
            real_time: find("real_time")?,
            rank: find("rank")?,
            size: find("size")?,
            batch_key: find("batch_key")?,
            quiet_s: find("quiet_s")?,
            flush: find("flush")?,
            standalone: find("standalone")?,
            bypass: find("bypass")?,
            context: find("context")?,
            ttl_s: find("ttl_s")?,
            delay_s: find("delay_s")?,
        })
    }

    pub(crate) fn try_map<U>(
        &self,
        mut each: impl FnMut(&T) -> PyResult<U>,
    ) -> PyResult<Options<U>> {
        Ok(Options {
            id: each(&self.id)?,
            at: each(&self.at)?,
            real_time: each(&self.real_time)?,
            rank: each(&self.rank)?,
            size: each(&self.size)?,
            batch_key: each(&self.batch_key)?,
            quiet_s: each(&self.quiet_s)?,
            flush: each(&self.flush)?,
            standalone: each(&self.standalone)?,
            bypass: each(&self.bypass)?,
            context: each(&self.context)?,
            ttl_s: each(&self.ttl_s)?,
            delay_s: each(&self.delay_s)?,
        })
    }
}

impl Wish<'_> {
    /// Reads them. Whether a quiet period fits its group is for [`fits_group`].
    pub(crate) fn read(&self) -> PyResult<engine::Options> {
        let options = engine::Options {
            id: own_id(self.id.as_ref())?,
            at: self
                .at
                .as_ref()
                .map(|at| arguments::time("at", at))
                .transpose()?,
            size: match &self.size {
                Some(size) => arguments::size("size", size)?,
                None => Size::ONE,
            },
            batch_key: arguments::optional_name("batch_key", self.batch_key.as_ref())?
                .map(Into::into),
            quiet: span("quiet_s", self.quiet_s.as_ref())?,
            rank: match &self.rank {
                Some(rank) => arguments::points("rank", rank)?,
                None => Points::default(),
            },
            ttl: span("ttl_s", self.ttl_s.as_ref())?,
            delay: delay(self.delay_s.as_ref())?,
            flush: flag("flush", self.flush.as_ref())?,
            standalone: flag("standalone", self.standalone.as_ref())?,
            real_time: flag("real_time", self.real_time.as_ref())?,
            context: flag("context", self.context.as_ref())?,
            bypass: flag("bypass", self.bypass.as_ref())?,
            ..engine::Options::default()
        };
        if let Err(why) = fit_together(&options) {
            return Err(PyValueError::new_err(why));
        }
        Ok(options)
    }
}

/// Which wishes contradict each other (rule T4).
pub(crate) fn fit_together(options: &engine::Options) -> Result<(), &'static str> {
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
pub(crate) fn fits_group(
    options: &engine::Options,
    max_wait: impl FnOnce() -> Duration,
) -> PyResult<()> {
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

//! What a push is given, read into what the engine takes.

use std::time::Duration;

use chinwag_engine as engine;
use chinwag_engine::{OnBusy, Points, Size};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments;
use crate::settings::POLICIES;

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
    pub(crate) background: T,
    pub(crate) on_busy: T,
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
            background: find("background")?,
            on_busy: find("on_busy")?,
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
            background: each(&self.background)?,
            on_busy: each(&self.on_busy)?,
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
            background: flag("background", self.background.as_ref())?,
            on_busy: self.on_busy.as_ref().map(policy).transpose()?,
            inside: None,
        };
        if let Err(why) = fit_together(&options) {
            return Err(PyValueError::new_err(why));
        }
        Ok(options)
    }
}

/// Which wishes contradict each other (rule T4).
pub(crate) fn fit_together(options: &engine::Options) -> Result<(), &'static str> {
    let beside = options.bypass || options.context;
    if beside && options.background {
        return Err(
            "background=True with bypass or context: neither waits in a lane; leave one of them out",
        );
    }
    if beside && options.on_busy.is_some() {
        return Err(
            "on_busy with bypass or context: neither meets the call of its lane; leave one of them out",
        );
    }
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

/// What is wrong with a policy that could never be served (rule B2).
pub(crate) fn unserved(options: &engine::Options) -> PyErr {
    let own = POLICIES.iter().find(|it| Some(it.1) == options.on_busy);
    let word = own.map_or("?", |(word, _)| *word);
    let why = match options.on_busy {
        Some(OnBusy::Rollback) => {
            "its group does not buffer what calls put out; give the group on_busy='rollback', or \
             leave it out"
        }
        Some(OnBusy::Inject) => "under lanes='message' no call has an inbox; leave it out",
        _ if options.standalone => {
            "under interrupted='merge' a standalone message fits no batch with another; leave one of \
             them out, or give the group interrupted='resume' or 'abandon'"
        }
        _ if options.background => "background messages interrupt nothing; leave one of them out",
        _ => {
            "under interrupted='merge' it would need a batch of more than one message; give the group \
             a larger max_batch, or interrupted='resume' or 'abandon'"
        }
    };
    PyValueError::new_err(format!("on_busy={word:?}: {why}"))
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

/// A policy by its word.
fn policy(value: &Bound<'_, PyAny>) -> PyResult<OnBusy> {
    let word: Option<String> = value.extract().ok();
    let found = POLICIES
        .iter()
        .find(|(name, _)| word.as_deref() == Some(name));
    found.map(|&(_, policy)| policy).ok_or_else(|| {
        let words: Vec<_> = POLICIES.iter().map(|(name, _)| *name).collect();
        let shown = value
            .repr()
            .map_or_else(|_| "?".into(), |shown| shown.to_string());
        PyValueError::new_err(format!(
            "on_busy={shown}: must be one of {}, or be left out",
            words.join(", ")
        ))
    })
}

fn flag(what: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
    value.map_or(Ok(false), |value| arguments::flag(what, value))
}

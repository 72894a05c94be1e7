//! Events of the engine as the dataclasses of `chinwag.events`.

use chinwag_engine::{End, Event, Seq};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyModule};

use crate::clock::seconds;

/// The Python objects for these events, in order.
pub(crate) fn objects<'py>(py: Python<'py>, events: &[Event]) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let module = py.import("chinwag.events")?;
    events.iter().map(|event| object(&module, event)).collect()
}

macro_rules! made {
    ($module:ident, $class:literal, $($field:ident = $value:expr),+) => {{
        let fields = PyDict::new($module.py());
        $(fields.set_item(pyo3::intern!($module.py(), stringify!($field)), $value)?;)+
        $module.getattr(pyo3::intern!($module.py(), $class))?.call((), Some(&fields))
    }};
}

#[allow(clippy::too_many_lines)] // one match, one arm an event
fn object<'py>(module: &Bound<'py, PyModule>, event: &Event) -> PyResult<Bound<'py, PyAny>> {
    match event {
        Event::MessageAccepted {
            seq,
            group,
            sender,
            at,
            id,
        } => made!(
            module,
            "MessageAccepted",
            at = seconds(*at),
            group = group.as_str(),
            sender = sender.as_str(),
            id = name(id.as_deref(), *seq),
            seq = seq.as_u64()
        ),
        Event::MessageRefused {
            group,
            sender,
            reason,
            depth,
            at,
            id,
        } => made!(
            module,
            "MessageRefused",
            at = seconds(*at),
            group = group.as_str(),
            sender = sender.as_str(),
            id = id.as_deref(),
            reason = reason.name(),
            depth = *depth
        ),
        Event::WindowClosed {
            group,
            sender,
            at,
            messages,
            closed_by,
        } => made!(
            module,
            "WindowClosed",
            at = seconds(*at),
            group = group.as_str(),
            sender = sender.as_str(),
            messages = *messages,
            closed_by = closed_by.name()
        ),
        Event::BatchLeased {
            lease,
            group,
            sender,
            at,
            messages,
            kind,
            closed_by,
            attempt,
        } => made!(
            module,
            "BatchLeased",
            at = seconds(*at),
            lease = lease.as_u64(),
            group = group.as_str(),
            sender = sender.as_str(),
            messages = *messages,
            kind = kind.name(),
            closed_by = closed_by.name(),
            attempt = *attempt
        ),
        Event::BatchSettled {
            lease,
            group,
            at,
            messages,
            ok,
            reason,
            handling,
        } => made!(
            module,
            "BatchSettled",
            at = seconds(*at),
            lease = lease.as_u64(),
            group = group.as_str(),
            messages = *messages,
            ok = *ok,
            reason = (!ok).then_some(*reason),
            handling_s = handling.as_secs_f64()
        ),
        Event::MessageEnded {
            seq,
            group,
            at,
            end,
            reason,
            id,
        } => made!(
            module,
            "MessageEnded",
            at = seconds(*at),
            group = group.as_str(),
            id = name(id.as_deref(), *seq),
            seq = seq.as_u64(),
            end = end.name(),
            reason = why(*end, reason)
        ),
        Event::MessageEdited { seq, group, at, id } => made!(
            module,
            "MessageEdited",
            at = seconds(*at),
            group = group.as_str(),
            id = name(id.as_deref(), *seq),
            seq = seq.as_u64()
        ),
        Event::GroupResized {
            group,
            at,
            size,
            strategy,
        } => made!(
            module,
            "GroupResized",
            at = seconds(*at),
            group = group.as_str(),
            size = *size,
            strategy = strategy.name()
        ),
        Event::CallEnding {
            lease,
            group,
            at,
            reason,
        } => made!(
            module,
            "CallEnding",
            at = seconds(*at),
            lease = lease.as_u64(),
            group = group.as_str(),
            reason = *reason
        ),
        Event::BatchHeld {
            group,
            sender,
            at,
            messages,
            attempts,
            until,
            reason,
        } => made!(
            module,
            "BatchHeld",
            at = seconds(*at),
            group = group.as_str(),
            sender = sender.as_str(),
            messages = *messages,
            attempts = *attempts,
            until = until.map(seconds),
            reason = *reason
        ),
        Event::SenderTyping {
            group,
            sender,
            at,
            on,
        } => made!(
            module,
            "SenderTyping",
            at = seconds(*at),
            group = group.as_str(),
            sender = sender.as_str(),
            on = *on
        ),
        Event::GroupConfigured { group, at } => made!(
            module,
            "GroupConfigured",
            at = seconds(*at),
            group = group.as_str()
        ),
        Event::GroupPaused { group, at, until } => made!(
            module,
            "GroupPaused",
            at = seconds(*at),
            group = group.as_deref(),
            until = until.map(seconds)
        ),
        Event::GroupResumed { group, at } => made!(
            module,
            "GroupResumed",
            at = seconds(*at),
            group = group.as_deref()
        ),
        Event::GroupForgotten { group, at } => made!(
            module,
            "GroupForgotten",
            at = seconds(*at),
            group = group.as_str()
        ),
        Event::EventsMissed { count } => made!(module, "EventsMissed", count = *count),
        Event::QueueClosed { at } => made!(module, "QueueClosed", at = seconds(*at)),
    }
}

/// Why a message ended so; being done needs no reason.
pub(crate) fn why(end: End, reason: &'static str) -> &'static str {
    if end == End::Done { "" } else { reason }
}

fn name(id: Option<&str>, seq: Seq) -> String {
    id.map_or_else(|| seq.automatic_id(), str::to_owned)
}

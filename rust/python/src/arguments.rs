//! What callers hand in: names, numbers, times. A refusal names the argument, the value and the limit.

use std::ops::RangeInclusive;
use std::time::Duration;

use chinwag_engine::{Points, Size, Time};
use pyo3::exceptions::{PyException, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PySlice, PyString};

/// The name of a group or sender, an id, a batch key.
pub(crate) fn name<'a>(what: &str, value: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    if let Ok(text) = value.cast::<PyString>()
        && let Ok(text) = text.to_str()
        && (1..=LONGEST_NAME).contains(&text.len())
    {
        return Ok(text);
    }
    Err(wrong_name(what, value))
}

/// A name that may be left out.
pub(crate) fn optional_name<'a>(
    what: &str,
    value: Option<&'a Bound<'_, PyAny>>,
) -> PyResult<Option<&'a str>> {
    value.map(|value| name(what, value)).transpose()
}

/// A name that is only looked up: nothing is called so unless it is a proper name.
pub(crate) fn sought_name<'a>(
    what: &str,
    value: &'a Bound<'_, PyAny>,
) -> PyResult<Option<&'a str>> {
    match value.cast::<PyString>() {
        Ok(text) => Ok(text.to_str().ok()),
        Err(_) => Err(wrong_name(what, value)),
    }
}

/// A flag: nothing but `True` and `False`.
pub(crate) fn flag(what: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    match value.cast::<PyBool>() {
        Ok(flag) => Ok(flag.is_true()),
        Err(_) => Err(wrong_type(what, value, "True or False", "")),
    }
}

/// What a message takes up of a batch.
pub(crate) fn size(what: &str, value: &Bound<'_, PyAny>) -> PyResult<Size> {
    let size = number(what, value)?;
    if SIZES.contains(&size)
        && let Some(size) = Size::from_f64(size)
    {
        return Ok(size);
    }
    Err(PyValueError::new_err(format!(
        "{what}={}: must be from 0.000001 to 1,000,000,000,000; 1 is an ordinary message",
        shown(value)?
    )))
}

/// Points: any finite number.
pub(crate) fn points(what: &str, value: &Bound<'_, PyAny>) -> PyResult<Points> {
    let points = number(what, value)?;
    if (-MOST_POINTS..=MOST_POINTS).contains(&points) {
        return Ok(Points::from_f64(points));
    }
    Err(PyValueError::new_err(format!(
        "{what}={}: must be from -1,000,000,000,000 to 1,000,000,000,000; one point is one call",
        shown(value)?
    )))
}

/// A whole number from 0 to 2^32 - 1.
pub(crate) fn count(what: &str, value: &Bound<'_, PyAny>) -> PyResult<u32> {
    let count = whole(what, value, u64::from(u32::MAX))?;
    Ok(count as u32)
}

/// A point in time as whole microseconds since the epoch.
pub(crate) fn micros(what: &str, value: &Bound<'_, PyAny>) -> PyResult<Time> {
    whole(what, value, LATEST_S as u64 * 1_000_000).map(Time::from_micros)
}

fn whole(what: &str, value: &Bound<'_, PyAny>, most: u64) -> PyResult<u64> {
    let wrong = || wrong_type(what, value, "a whole number", "");
    if value.is_instance_of::<PyBool>() {
        return Err(wrong());
    }
    let number = match value.extract::<u64>() {
        Ok(number) => number,
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => u64::MAX,
        Err(error) => return Err(ordinary(value, error, wrong)),
    };
    if number <= most {
        return Ok(number);
    }
    Err(PyValueError::new_err(format!(
        "{what}={}: must be from 0 to {}",
        shown(value)?,
        grouped(most)
    )))
}

/// A span of time; `inf` is [`Duration::MAX`].
pub(crate) fn seconds(what: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds = number(what, value)?;
    if seconds == f64::INFINITY {
        Ok(Duration::MAX)
    } else if (0.0..=LONGEST_S).contains(&seconds) {
        Ok(whole_micros(seconds))
    } else {
        Err(PyValueError::new_err(format!(
            "{what}={}: must be from 0 to 1,000,000,000 seconds, or inf",
            shown(value)?
        )))
    }
}

/// A point in time: epoch seconds, or a datetime that knows its time zone.
pub(crate) fn time(what: &str, value: &Bound<'_, PyAny>) -> PyResult<Time> {
    let seconds = match value.getattr_opt("utcoffset") {
        Ok(None) => number(what, value)?,
        Ok(Some(utcoffset)) => timestamp(what, value, &utcoffset)?,
        Err(error) => return Err(ordinary(value, error, || no_time(what, value))),
    };
    if (0.0..=LATEST_S).contains(&seconds) {
        Ok(Time::from_micros((seconds * 1e6).round() as u64))
    } else {
        Err(PyValueError::new_err(format!(
            "{what}={}: must be between 1970 and 9999, in seconds since the epoch",
            shown(value)?
        )))
    }
}

/// Whole microseconds, which is what the engine counts in.
pub(crate) fn whole_micros(seconds: f64) -> Duration {
    Duration::from_micros((seconds * 1e6).round() as u64)
}

fn timestamp(what: &str, value: &Bound<'_, PyAny>, utcoffset: &Bound<'_, PyAny>) -> PyResult<f64> {
    let read = || -> PyResult<Option<f64>> {
        if utcoffset.call0()?.is_none() {
            return Ok(None);
        }
        let seconds: f64 = value.call_method0("timestamp")?.extract()?;
        Ok((!seconds.is_nan()).then_some(seconds))
    };
    match read() {
        Ok(Some(seconds)) => Ok(seconds),
        Ok(None) => Err(PyValueError::new_err(format!(
            "{what}={}: must have a time zone; use .astimezone() or .replace(tzinfo=...)",
            shown(value)?
        ))),
        Err(error) => Err(ordinary(value, error, || no_time(what, value))),
    }
}

#[cold]
fn no_time(what: &str, value: &Bound<'_, PyAny>) -> PyErr {
    wrong_type(what, value, "epoch seconds or an aware datetime", "")
}

/// What to raise where a value's own method has raised `error`: what `wrong` says, unless it is
/// something that nobody may swallow, such as a `KeyboardInterrupt`.
#[cold]
fn ordinary(value: &Bound<'_, PyAny>, error: PyErr, wrong: impl FnOnce() -> PyErr) -> PyErr {
    if error.is_instance_of::<PyException>(value.py()) {
        wrong()
    } else {
        error
    }
}

fn number(what: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let number = match value.cast_exact::<PyFloat>() {
        Ok(float) => float.value(),
        Err(_) if value.is_instance_of::<PyBool>() || is_time(value) => {
            return Err(wrong_type(what, value, "a number", ""));
        }
        Err(_) => match value.extract::<f64>() {
            Ok(number) => number,
            // An integer beyond every limit.
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => f64::MAX,
            Err(error) => {
                return Err(ordinary(value, error, || {
                    wrong_type(what, value, "a number", "")
                }));
            }
        },
    };
    if number.is_nan() {
        return Err(PyValueError::new_err(format!(
            "{what}=nan: must be a number"
        )));
    }
    Ok(number)
}

/// Whether it is a time or a span of numpy's, which give their bare counts of whatever unit.
fn is_time(value: &Bound<'_, PyAny>) -> bool {
    let name = value.get_type().name();
    name.is_ok_and(|name| name == "datetime64" || name == "timedelta64")
}

#[cold]
fn wrong_name(what: &str, value: &Bound<'_, PyAny>) -> PyErr {
    let Ok(text) = value.cast::<PyString>() else {
        return wrong_type(what, value, "a str", "; use str(...)");
    };
    let why = match text.to_str() {
        Err(_) => "must be Unicode without lone surrogates; repair it where it comes from, or use \
             .encode('utf-8', 'replace').decode()"
            .to_owned(),
        Ok("") => "must not be empty, but of 1 to 1,024 bytes".to_owned(),
        Ok(text) => format!(
            "must have at most 1,024 bytes of UTF-8, not {}; use a shorter name, or a hash of it",
            grouped(text.len() as u64)
        ),
    };
    match shown(value) {
        Ok(value) => PyValueError::new_err(format!("{what}={value}: {why}")),
        Err(error) => error,
    }
}

#[cold]
fn wrong_type(what: &str, value: &Bound<'_, PyAny>, wanted: &str, hint: &str) -> PyErr {
    let found = value
        .get_type()
        .name()
        .map_or_else(|_| "this".to_owned(), |name| name.to_string());
    match shown(value) {
        Ok(value) => PyTypeError::new_err(format!(
            "{what}={value}: must be {wanted}, not {found}{hint}"
        )),
        Err(error) => error,
    }
}

/// A value as its `repr`, shortened: whatever was given must not fill somebody's log.
fn shown(value: &Bound<'_, PyAny>) -> PyResult<String> {
    // A long text is cut before it is written out.
    let long = value.is_instance_of::<PyString>() && value.len().is_ok_and(|len| len > SHOWN);
    let text = if long {
        let start = PySlice::new(value.py(), 0, SHOWN.cast_signed(), 1);
        value.get_item(start).and_then(|start| start.repr())
    } else {
        value.repr()
    };
    let text = match text {
        Ok(text) => text,
        Err(error) if error.is_instance_of::<PyException>(value.py()) => {
            return Ok("<no repr>".to_owned());
        }
        Err(error) => return Err(error),
    };
    let text = text.to_string_lossy();
    Ok(match text.char_indices().nth(SHOWN + 2) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None if long => format!("{text}..."),
        None => text.into_owned(),
    })
}

/// A count with commas between thousands.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Longest name of a group, sender, id or key, in bytes of UTF-8.
const LONGEST_NAME: usize = 1024;
/// Beyond that points make no difference.
const MOST_POINTS: f64 = 1e12;
/// Longest finite span, in seconds.
const LONGEST_S: f64 = 1e9;
/// The end of the year 9999.
const LATEST_S: f64 = 253_402_300_800.0;
const SIZES: RangeInclusive<f64> = 1e-6..=1e12;
/// Characters of a value that a message shows.
const SHOWN: usize = 60;

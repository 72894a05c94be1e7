//! The settings of a `Config`, already checked and merged by it, as the engine wants them.

use std::sync::Arc;
use std::time::Duration;

use chinwag_engine::{
    Band, FairBy, Interrupted, Jitter, Keep, Lanes, OnBusy, Overflow, Points, Profile, Rate,
    Settings, Size, SizeBy, Strategy, Weight,
};
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::arguments::whole_micros;

/// What `Config.profile()` gives: settings and strategy below the first band, and the bands.
pub(crate) fn profile(given: &Bound<'_, PyDict>) -> PyResult<Profile> {
    let given = Flat(given);
    let strategies = Strategy::ALL.map(|strategy| (strategy.name(), strategy));
    let first = given.value::<Bound<'_, PyDict>>("settings")?;
    let below = Arc::new(settings(&first)?);
    let mut known = vec![below.clone()];
    let mut bands = Vec::new();
    for band in given.value::<Vec<Bound<'_, PyTuple>>>("bands")? {
        let (from, strategy, flat): (u32, String, Bound<'_, PyDict>) = band.extract()?;
        // Bands that differ in nothing but their strategy share their settings.
        let settings = if flat.is(&first) {
            below.clone()
        } else {
            let settings = settings(&flat)?;
            match known.iter().find(|known| ***known == settings) {
                Some(known) => known.clone(),
                None => Arc::new(settings),
            }
        };
        known.push(settings.clone());
        let strategy = word("strategy", &strategy, &strategies)?;
        bands.push(Band {
            from,
            strategy,
            settings,
        });
    }
    Ok(Profile {
        settings: below,
        strategy: given.word("strategy", &strategies)?,
        bands,
    })
}

fn settings(flat: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let flat = Flat(flat);
    Ok(Settings {
        lanes: flat.word(
            "lanes",
            &[
                ("sender", Lanes::Sender),
                ("group", Lanes::Group),
                ("message", Lanes::Message),
            ],
        )?,
        back_to_back: flat.span("back_to_back_s")?,
        burst: flat.span("burst_s")?,
        quiet: flat.span("quiet_s")?,
        max_wait: flat.span("max_wait_s")?,
        max_batch: flat
            .value::<Option<f64>>("max_batch")?
            .and_then(Size::from_f64),
        min_batch: flat.value("min_batch")?,
        max_gap: flat.optional_span("max_gap_s")?,
        keep: flat.word("keep", &[("all", Keep::All), ("latest", Keep::Latest)])?,
        quiet_when_idle: flat.value("quiet_when_idle")?,
        quiet_when_busy: flat.value("quiet_when_busy")?,
        typing_expires: flat.span("typing_expires_s")?,
        on_busy: flat.word("on_busy", &POLICIES)?,
        interrupted: flat.word(
            "interrupted",
            &[
                ("merge", Interrupted::Merge),
                ("resume", Interrupted::Resume),
                ("abandon", Interrupted::Abandon),
            ],
        )?,
        interrupt_within: flat.optional_span("interrupt_within_s")?,
        max_interrupts: flat.value("max_interrupts")?,
        preempt_margin: flat
            .value::<Option<f64>>("preempt_margin")?
            .map(Points::from_f64),
        inject_limit: flat.value("inject_limit")?,
        saved_ttl: flat.span("saved_ttl_s")?,
        hold_background: flat.value("hold_background")?,
        real_time: flat.points("real_time")?,
        back_to_back_points: flat.points("back_to_back")?,
        burst_points: flat.points("burst")?,
        sender: flat.value("sender")?,
        aging: flat.points("aging")?,
        weight: Weight::from_f64(flat.value("weight")?).unwrap_or_default(),
        max_concurrent_per_group: flat.value("max_concurrent_per_group")?,
        rate_per_group: flat.rate("rate_per_group")?,
        capacity_per_group: flat.value("capacity_per_group")?,
        overflow: flat.word(
            "overflow",
            &[
                ("refuse", Overflow::Refuse),
                ("drop_newest", Overflow::DropNewest),
                ("drop_oldest", Overflow::DropOldest),
            ],
        )?,
        dedup: flat.span("dedup_s")?,
        dedup_limit: flat.value("dedup_limit")?,
        ttl: flat.optional_span("ttl_s")?,
        context_limit: flat.value("context_limit")?,
        context_ttl: flat.span("context_ttl_s")?,
        max_attempts: flat.value("max_attempts")?,
        backoff: flat.span("backoff_s")?,
        backoff_factor: flat.value("backoff_factor")?,
        backoff_cap: flat.span("backoff_cap_s")?,
        jitter: flat.word("jitter", &[("full", Jitter::Full), ("none", Jitter::None)])?,
        retry_committed: flat.value("retry_committed")?,
        split_failed: flat.value("split_failed")?,
        handler_timeout: flat.optional_span("handler_timeout_s")?,
        cancel_grace: flat.span("cancel_grace_s")?,
        seed: flat.value("seed")?,
        max_concurrent: flat.value("max_concurrent")?,
        rate: flat.rate("rate")?,
        capacity: flat.value("capacity")?,
        max_bypass: flat.value("max_bypass")?,
        fair_by: flat.word(
            "fair_by",
            &[("calls", FairBy::Calls), ("time", FairBy::Time)],
        )?,
        size_by: flat.word(
            "size_by",
            &[("active", SizeBy::Active), ("members", SizeBy::Members)],
        )?,
        size_window: flat.span("size_window_s")?,
        idle_group: flat.span("idle_group_s")?,
    })
}

/// What a message does that finds its lane busy, by its word.
pub(crate) const POLICIES: [(&str, OnBusy); 5] = [
    ("enqueue", OnBusy::Enqueue),
    ("inject", OnBusy::Inject),
    ("interrupt", OnBusy::Interrupt),
    ("rollback", OnBusy::Rollback),
    ("reject", OnBusy::Reject),
];

fn word<T: Copy>(key: &str, given: &str, words: &[(&str, T)]) -> PyResult<T> {
    let found = words.iter().find(|(word, _)| *word == given);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| PyValueError::new_err(format!("{key}={given:?}")))
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

    fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> PyResult<T> {
        word(key, &self.value::<String>(key)?, words)
    }

    fn span(&self, key: &str) -> PyResult<Duration> {
        Ok(span(self.value(key)?))
    }

    fn optional_span(&self, key: &str) -> PyResult<Option<Duration>> {
        Ok(self.value::<Option<f64>>(key)?.map(span))
    }

    fn points(&self, key: &str) -> PyResult<Points> {
        self.value(key).map(Points::from_f64)
    }

    fn rate(&self, key: &str) -> PyResult<Option<Rate>> {
        let given: Option<(f64, f64)> = self.value(key)?;
        Ok(given.and_then(|(per_second, burst)| Rate::new(per_second, burst)))
    }
}

fn span(seconds: f64) -> Duration {
    if seconds == f64::INFINITY {
        Duration::MAX
    } else {
        whole_micros(seconds)
    }
}

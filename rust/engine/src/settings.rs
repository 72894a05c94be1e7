//! What a user can set, as plain data.
//!
//! Python validates (`python/chinwag/config.py` has every message); the engine takes what it is given.

use std::time::Duration;

/// What shares a lane: the messages between which order holds and calls never overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lanes {
    /// Every sender of a group has a lane.
    #[default]
    Sender,
    /// All senders of a group share one lane.
    Group,
    /// Every message is a lane of its own; no order is promised.
    Message,
}

/// How much of a batch a message takes up, in whole millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// What a message takes up unless it says otherwise.
    pub const ONE: Self = Self(1_000_000);

    /// The size nearest to `value`; none unless it is finite and above 0.
    pub fn from_f64(value: f64) -> Option<Self> {
        (value.is_finite() && value > 0.0).then(|| Self(((value * 1e6).round() as u64).max(1)))
    }

    /// The size as a plain number.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    pub(crate) const ZERO: Self = Self(0);

    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Default for Size {
    fn default() -> Self {
        Self::ONE
    }
}

/// Every setting of a queue. `Default` gives the documented defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What shares a lane.
    pub lanes: Lanes,
    /// Gap to the sender's previous message up to which a message is back-to-back.
    pub back_to_back: Duration,
    /// Age of the sender's last message but one up to which a message is part of a burst.
    pub burst: Duration,
    /// Quiet period after the last message of a window; [`Duration::MAX`] for none at all.
    pub quiet: Duration,
    /// Longest wait of a window from its first message; [`Duration::MAX`] for no limit.
    pub max_wait: Duration,
    /// Largest sum of sizes in a batch.
    pub max_batch: Option<Size>,
    /// Messages that must wait before the quiet period counts.
    pub min_batch: u32,
    /// Gap to the lane's previous message that cuts the window.
    pub max_gap: Option<Duration>,
    /// Whether a message that finds its lane idle waits for the quiet period.
    pub quiet_when_idle: bool,
    /// Whether what arrived during a call waits for the quiet period.
    pub quiet_when_busy: bool,
    /// Calls of one group at once.
    pub max_concurrent_per_group: u32,
    /// Calls at once in all.
    pub max_concurrent: Option<u32>,
    /// Messages of one group that may wait for their first start.
    pub capacity_per_group: Option<u32>,
    /// Messages that may wait for their first start in all.
    pub capacity: Option<u32>,
    /// How long after its acceptance the id of an ended message is a duplicate.
    pub dedup: Duration,
    /// Ids of ended messages that a group's filter holds.
    pub dedup_limit: u32,
    /// How long an idle group is remembered.
    pub idle_group: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lanes: Lanes::Sender,
            back_to_back: Duration::from_secs(5),
            burst: Duration::from_secs(10),
            quiet: Duration::ZERO,
            max_wait: Duration::from_secs(10),
            max_batch: None,
            min_batch: 1,
            max_gap: None,
            quiet_when_idle: true,
            quiet_when_busy: true,
            max_concurrent_per_group: 2,
            max_concurrent: None,
            capacity_per_group: None,
            capacity: None,
            dedup: Duration::ZERO,
            dedup_limit: 10_000,
            idle_group: Duration::from_secs(600),
        }
    }
}

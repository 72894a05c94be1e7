//! What a user can set, as plain data.
//!
//! Python validates and merges (`python/chinwag/settings.py` has every message); the engine takes what it
//! is given: a [`Profile`] for the queue, and one for each group that has settings of its own.

use std::sync::Arc;
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

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Default for Size {
    fn default() -> Self {
        Self::ONE
    }
}

/// Points in whole millionths, so that equals are equals: one point is one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Points(i64);

impl Points {
    /// What a call costs.
    pub const CALL: Self = Self(MILLION);
    pub(crate) const ZERO: Self = Self(0);

    /// The points nearest to `value`; beyond 10^12 it makes no difference any more.
    pub fn from_f64(value: f64) -> Self {
        Self((value.clamp(-MOST_POINTS, MOST_POINTS) * 1e6).round() as i64)
    }

    /// As a plain number.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// So many millionths.
    pub const fn from_millionths(millionths: i64) -> Self {
        Self(millionths)
    }

    /// How many millionths.
    pub const fn as_millionths(self) -> i64 {
        self.0
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// A group's share beside others, from 0.001 to 1,000, in whole millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(u64);

impl Weight {
    /// That of a group without one of its own.
    pub const ONE: Self = Self(MILLION as u64);

    /// The weight nearest to `value`; none outside its bounds.
    pub fn from_f64(value: f64) -> Option<Self> {
        (0.001..=1_000.0)
            .contains(&value)
            .then(|| Self((value * 1e6).round() as u64))
    }

    /// As a plain number.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// How many millionths.
    pub const fn as_millionths(self) -> u64 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

/// How many calls a second may start, and how many of them at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    /// None unless `per_second` is above 0, `burst` at least 1, and both are at most 10^6.
    pub fn new(per_second: f64, burst: f64) -> Option<Self> {
        let sound = per_second > 0.0 && per_second <= 1e6 && (1.0..=1e6).contains(&burst);
        sound.then(|| Self {
            per_second: ((per_second * 1e6).round() as u64).max(1),
            burst: (burst * 1e6).round() as u64,
        })
    }

    /// Calls a second, in millionths.
    pub const fn per_second_millionths(self) -> u64 {
        self.per_second
    }

    /// Calls at once after a rest, in millionths.
    pub const fn burst_millionths(self) -> u64 {
        self.burst
    }
}

/// What counts as served among the senders of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Every call counts the same.
    #[default]
    RoundRobin,
    /// Nothing: the score decides, and it grows while a batch waits.
    Priority,
    /// The time that calls take.
    LoadBalanced,
    /// How much a sender has just said.
    Adaptive,
}

impl Strategy {
    /// All of them, in the order of [`crate::Metrics::strategies`].
    pub const ALL: [Self; 4] = [
        Self::RoundRobin,
        Self::Priority,
        Self::LoadBalanced,
        Self::Adaptive,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Priority => "priority",
            Self::LoadBalanced => "load_balanced",
            Self::Adaptive => "adaptive",
        }
    }
}

/// What a push to a full group does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Refuses the message.
    #[default]
    Refuse,
    /// Takes it and evicts it at once.
    DropNewest,
    /// Evicts what has waited longest.
    DropOldest,
}

/// Which of the messages that wait in a lane are handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Every one.
    #[default]
    All,
    /// The newest: it supersedes the others.
    Latest,
}

/// What counts as served between groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FairBy {
    /// Calls.
    #[default]
    Calls,
    /// The time that they take.
    Time,
}

/// What a group's size is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SizeBy {
    /// How many senders have spoken lately.
    #[default]
    Active,
    /// What was said with [`crate::Engine::set_members`].
    Members,
}

/// What a message does to the running call of its lane (section B).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnBusy {
    /// Nothing: it waits.
    #[default]
    Enqueue,
    /// It is offered to the call.
    Inject,
    /// It ends the call when its window becomes due.
    Interrupt,
    /// The same, and the call is as if it had never been.
    Rollback,
    /// It is refused.
    Reject,
}

/// What becomes of the messages of an interrupted call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interrupted {
    /// They are handed over again together with what interrupted them.
    #[default]
    Merge,
    /// They are handed over again, as they were, right after the interrupting call.
    Resume,
    /// They end.
    Abandon,
}

/// How the pauses between attempts are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jitter {
    /// Evenly between nothing and all of it.
    #[default]
    Full,
    /// Not at all.
    None,
}

/// Every setting of a group; those of the whole queue are read from its own profile alone.
/// `Default` gives the documented defaults.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // they are the user's
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
    /// Which of the messages of a lane are handed over.
    pub keep: Keep,
    /// Whether a message that finds its lane idle waits for the quiet period.
    pub quiet_when_idle: bool,
    /// Whether what arrived during a call waits for the quiet period.
    pub quiet_when_busy: bool,
    /// How long somebody types who has said so once.
    pub typing_expires: Duration,
    /// What a message does that finds its lane busy, unless it says so itself.
    pub on_busy: OnBusy,
    /// What becomes of what was interrupted.
    pub interrupted: Interrupted,
    /// Age of a running batch's newest message up to which a newcomer may interrupt.
    pub interrupt_within: Option<Duration>,
    /// How often the handling of a message is put off at most.
    pub max_interrupts: u32,
    /// Lead in points with which a waiting batch ends a call of a full group.
    pub preempt_margin: Option<Points>,
    /// Messages that a call is given from its inbox at a time.
    pub inject_limit: Option<u32>,
    /// How long what an unfinished call saved is kept for the next.
    pub saved_ttl: Duration,
    /// Whether background messages wait, whatever is free.
    pub hold_background: bool,
    /// Points of a batch with a real-time message.
    pub real_time: Points,
    /// Points of a batch with a back-to-back message.
    pub back_to_back_points: Points,
    /// Points of a batch with a message of a burst.
    pub burst_points: Points,
    /// Factor of the weight of a batch's sender.
    pub sender: f64,
    /// Points a second that a waiting batch gains under [`Strategy::Priority`].
    pub aging: Points,
    /// The group's share beside others.
    pub weight: Weight,
    /// Calls of one group at once.
    pub max_concurrent_per_group: u32,
    /// Starts of one group a second.
    pub rate_per_group: Option<Rate>,
    /// Messages of one group that may wait for their first start.
    pub capacity_per_group: Option<u32>,
    /// What a push does that finds as many.
    pub overflow: Overflow,
    /// How long after its acceptance the id of an ended message is a duplicate.
    pub dedup: Duration,
    /// Ids of ended messages that a group's filter holds.
    pub dedup_limit: u32,
    /// How long a message may wait for its first start.
    pub ttl: Option<Duration>,
    /// Messages in a group's context.
    pub context_limit: u32,
    /// How long a message may wait in the context; [`Duration::MAX`] for no limit.
    pub context_ttl: Duration,
    /// Attempts at a batch in all.
    pub max_attempts: u32,
    /// Longest pause after the first failure.
    pub backoff: Duration,
    /// How much longer it is after each further one.
    pub backoff_factor: f64,
    /// How long it is at most.
    pub backoff_cap: Duration,
    /// How pauses are spread below that.
    pub jitter: Jitter,
    /// Whether a call that has committed is tried again.
    pub retry_committed: bool,
    /// Whether a batch that has failed for good is tried in halves.
    pub split_failed: bool,
    /// How long a call may take.
    pub handler_timeout: Option<Duration>,
    /// How long a call that was asked to end may take for that.
    pub cancel_grace: Duration,
    /// Of the whole queue: what its random numbers come from.
    pub seed: u64,
    /// Of the whole queue: calls at once.
    pub max_concurrent: Option<u32>,
    /// Of the whole queue: starts a second.
    pub rate: Option<Rate>,
    /// Of the whole queue: messages that may wait for their first start.
    pub capacity: Option<u32>,
    /// Of the whole queue: messages at once that bypass everything.
    pub max_bypass: u32,
    /// Of the whole queue: what counts as served between groups.
    pub fair_by: FairBy,
    /// Of the whole queue: what the size of a group is.
    pub size_by: SizeBy,
    /// Of the whole queue: how long a sender counts as active.
    pub size_window: Duration,
    /// Of the whole queue: how long an idle group is remembered.
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
            keep: Keep::All,
            quiet_when_idle: true,
            quiet_when_busy: true,
            typing_expires: Duration::from_secs(6),
            on_busy: OnBusy::Enqueue,
            interrupted: Interrupted::Merge,
            interrupt_within: None,
            max_interrupts: 8,
            preempt_margin: None,
            inject_limit: None,
            saved_ttl: Duration::from_secs(600),
            hold_background: false,
            real_time: Points(500_000),
            back_to_back_points: Points(300_000),
            burst_points: Points(150_000),
            sender: 1.0,
            aging: Points(100_000),
            weight: Weight::ONE,
            max_concurrent_per_group: 2,
            rate_per_group: None,
            capacity_per_group: None,
            overflow: Overflow::Refuse,
            dedup: Duration::ZERO,
            dedup_limit: 10_000,
            ttl: None,
            context_limit: 50,
            context_ttl: Duration::from_secs(3_600),
            max_attempts: 3,
            backoff: Duration::from_secs(1),
            backoff_factor: 2.0,
            backoff_cap: Duration::from_secs(60),
            jitter: Jitter::Full,
            retry_committed: false,
            split_failed: false,
            handler_timeout: None,
            cancel_grace: Duration::from_secs(5),
            seed: 0,
            max_concurrent: None,
            rate: None,
            capacity: None,
            max_bypass: 64,
            fair_by: FairBy::Calls,
            size_by: SizeBy::Active,
            size_window: Duration::from_secs(600),
            idle_group: Duration::from_secs(600),
        }
    }
}

/// Settings that hold from a certain size of the group on.
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    /// Entered at this size, left below 80 % of it.
    pub from: u32,
    /// Who goes first in such a group.
    pub strategy: Strategy,
    /// Everything else.
    pub settings: Arc<Settings>,
}

/// Settings by the size of the group.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Below the first band.
    pub settings: Arc<Settings>,
    /// Below the first band.
    pub strategy: Strategy,
    /// Ascending.
    pub bands: Vec<Band>,
}

impl Profile {
    /// One strategy for groups of every size.
    pub fn always(settings: Settings, strategy: Strategy) -> Self {
        Self {
            settings: Arc::new(settings),
            strategy,
            bands: Vec::new(),
        }
    }
}

/// The documented bands, which differ in nothing but their strategy.
impl From<Settings> for Profile {
    fn from(settings: Settings) -> Self {
        let settings = Arc::new(settings);
        let bands = [
            (2, Strategy::RoundRobin),
            (6, Strategy::Priority),
            (16, Strategy::LoadBalanced),
            (50, Strategy::Adaptive),
        ];
        let bands = bands.map(|(from, strategy)| Band {
            from,
            strategy,
            settings: settings.clone(),
        });
        Self {
            settings,
            strategy: Strategy::RoundRobin,
            bands: bands.into(),
        }
    }
}

const MILLION: i64 = 1_000_000;
const MOST_POINTS: f64 = 1e12;

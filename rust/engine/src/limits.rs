//! How much a group may hold and how much it does, as producers and the owner both know it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use compact_str::CompactString;

use crate::Settings;
use crate::dedup::Ids;
use crate::ids::GroupId;
use crate::settings::{Keep, OnBusy, Overflow};
use crate::slab::Key as _;

/// What a push has to know of its group's settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) word: Word,
    pub(crate) dedup: Duration,
}

/// The part of it that fits the group's record: how much may wait, and in the highest bits what else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word(u32);

impl Limits {
    pub(crate) fn of(settings: &Settings, own: bool) -> Self {
        let most = settings.capacity_per_group.unwrap_or(Word::MOST);
        let drops = match settings.overflow {
            Overflow::Refuse => 0,
            Overflow::DropNewest => Word::DROPS_NEWEST,
            Overflow::DropOldest => Word::DROPS_OLDEST | Word::STALE,
        };
        let stale = settings.ttl.is_some() || settings.keep == Keep::Latest;
        let flag = |is, flag| if is { flag } else { 0 };
        let word = most.min(Word::MOST)
            | drops
            | flag(stale, Word::STALE)
            | flag(own, Word::OWN)
            | flag(settings.on_busy == OnBusy::Reject, Word::REJECTS);
        Self {
            word: Word(word),
            dedup: settings.dedup,
        }
    }
}

impl Word {
    const MOST: u32 = (1 << 26) - 1;
    const REJECTS: u32 = 1 << 26;
    const DROPS_NEWEST: u32 = 1 << 27;
    const DROPS_OLDEST: u32 = 1 << 28;
    const STALE: u32 = 1 << 29;
    const LINE: u32 = 1 << 30;
    const OWN: u32 = 1 << 31;

    /// It refuses what finds its lane busy.
    pub(crate) fn rejects(self) -> bool {
        self.0 & Self::REJECTS != 0
    }

    /// What counts as waiting may be over without anybody having looked.
    pub(crate) fn is_stale(self) -> bool {
        self.0 & Self::STALE != 0
    }

    /// Somebody waits in line for a place.
    pub(crate) fn has_line(self) -> bool {
        self.0 & Self::LINE != 0
    }

    /// The group has settings of its own.
    pub(crate) fn is_own(self) -> bool {
        self.0 & Self::OWN != 0
    }
}

/// What producers and the owner both know of a group.
pub(crate) struct Shared {
    pub(crate) name: CompactString,
    /// Messages ever accepted, modulo 2^32.
    accepted: AtomicU32,
    /// Those of them that wait no longer, likewise. Only the owner writes it.
    started: AtomicU32,
    /// The owner's number for the group, 0 before it has one. Only the owner looks at it.
    slot: AtomicU32,
    /// The [`Word`] of its limits.
    limits: AtomicU32,
    ids: Mutex<Option<Box<Ids>>>,
}

/// How a group takes one more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    In,
    /// It has twice as much as it may.
    Crowded,
    /// It is full and drops what comes.
    Out,
}

impl Shared {
    pub(crate) fn new(name: &str, limits: Limits) -> Self {
        Self {
            name: name.into(),
            limits: AtomicU32::new(limits.word.0),
            accepted: AtomicU32::new(0),
            started: AtomicU32::new(0),
            slot: AtomicU32::new(0),
            ids: Mutex::new(None),
        }
    }

    pub(crate) fn ids(&self) -> MutexGuard<'_, Option<Box<Ids>>> {
        lock(&self.ids)
    }

    pub(crate) fn limits(&self) -> Word {
        Word(self.limits.load(Ordering::Relaxed))
    }

    /// It goes by other settings from now on.
    pub(crate) fn set_limits(&self, settings: &Settings) {
        let kept = Word::LINE | Word::OWN;
        let Word(word) = Limits::of(settings, false).word;
        let set = |before| Some(before & kept | word);
        let _ = self
            .limits
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
    }

    /// It has settings of its own from now on.
    pub(crate) fn set_own(&self) {
        self.limits.fetch_or(Word::OWN, Ordering::Relaxed);
    }

    /// Something in it may be over without anybody having looked.
    pub(crate) fn set_stale(&self) {
        self.limits.fetch_or(Word::STALE, Ordering::Relaxed);
    }

    /// Somebody stands in line for a place in it, or nobody any more.
    pub(crate) fn set_line(&self, on: bool) {
        if on {
            self.limits.fetch_or(Word::LINE, Ordering::Relaxed);
        } else {
            self.limits.fetch_and(!Word::LINE, Ordering::Relaxed);
        }
    }

    /// Counts one more, unless that is one too many: then it says how many wait. The one is counted
    /// before that is known, so that racing pushes can only be refused early, never taken above the
    /// limit (A5).
    pub(crate) fn count_in(&self, limits: Word) -> Result<Counted, u32> {
        let most = limits.0 & Word::MOST;
        let before = self.accepted.fetch_add(1, Ordering::Relaxed);
        let waiting = before.wrapping_sub(self.started.load(Ordering::Relaxed));
        if most == Word::MOST || waiting < most {
            return Ok(Counted::In);
        }
        if limits.0 & Word::DROPS_NEWEST != 0 {
            return Ok(Counted::Out);
        }
        if limits.0 & Word::DROPS_OLDEST == 0 {
            self.count_out();
            return Err(waiting);
        }
        let crowded = u64::from(waiting) + 1 >= 2 * u64::from(most);
        Ok(if crowded {
            Counted::Crowded
        } else {
            Counted::In
        })
    }

    /// One that was counted has not come after all.
    pub(crate) fn count_out(&self) {
        self.accepted.fetch_sub(1, Ordering::Relaxed);
    }

    /// As many wait no longer.
    pub(crate) fn release(&self, messages: u32) {
        let started = self.started.load(Ordering::Relaxed).wrapping_add(messages);
        self.started.store(started, Ordering::Relaxed);
    }

    /// Accepted and not yet started.
    pub(crate) fn waiting(&self) -> u32 {
        let started = self.started.load(Ordering::Relaxed);
        self.accepted.load(Ordering::Relaxed).wrapping_sub(started)
    }

    pub(crate) fn group_id(&self) -> Option<GroupId> {
        std::num::NonZeroU32::new(self.slot.load(Ordering::Relaxed)).map(GroupId::from_slot)
    }

    pub(crate) fn set_group_id(&self, id: GroupId) {
        self.slot.store(id.slot().get(), Ordering::Relaxed);
    }
}

/// A panic elsewhere does not make these values wrong: each is changed in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

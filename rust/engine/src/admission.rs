//! The way in: any thread asks, and is answered at once (rules A1-A3, A5).
//!
//! A push looks up its group, reserves a place in the capacities by atomics, and links itself into
//! the group's inbox. Only a message with an id of its own takes a lock, its group's, for the filter.
//! The scheduler's owner is never waited for.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use compact_str::CompactString;

use crate::dedup::Ids;
use crate::events::Event;
use crate::ids::GroupId;
use crate::inbox::{Inbox, Ready};
use crate::message::Extra;
use crate::names::Names;
use crate::slab::Key as _;
use crate::{Seq, Settings, Size, Time};

/// What a message asks for beyond its group, sender and payload.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Its name in its group; [`Seq::automatic_id`] without one.
    pub id: Option<Box<str>>,
    /// The platform's time: shown, kept, never used.
    pub at: Option<Time>,
    /// What it takes up of a batch.
    pub size: Size,
    /// Only consecutive messages of one key share a batch.
    pub batch_key: Option<Box<str>>,
    /// A quiet period of its own.
    pub quiet: Option<Duration>,
    /// Makes what waits in its lane due at once, itself included.
    pub flush: bool,
    /// Shares its batch with nobody.
    pub standalone: bool,
}

/// The verdict on a push that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its place in the push order.
    pub seq: Seq,
    /// The owner sleeps and this caller is the one that must see to a poll.
    pub wake: bool,
}

/// The verdict on a push that was not: it left no trace.
#[derive(Debug)]
pub struct Refused<P> {
    /// Handed back.
    pub payload: P,
    /// Why.
    pub reason: Refusal,
    /// Messages waiting in the group; in all for [`Refusal::Full`].
    pub depth: u64,
}

/// Why a push was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue has been closed.
    Closed,
    /// A message with this id is there, or was a moment ago.
    Duplicate,
    /// The group holds as much as it may.
    GroupFull,
    /// All groups together hold as much as they may.
    Full,
}

/// The half of the queue that producers see.
pub struct Intake<P> {
    names: Names<P>,
    pub(crate) ready: Ready<Arrival<P>, Shared>,
    closed: AtomicBool,
    /// As many as were accepted, but for those in `void`.
    next_seq: AtomicU64,
    /// Numbers that no message bears, since its push came to nothing after all.
    void: AtomicU64,
    /// Messages that wait no longer. Only the owner writes it, so it needs no atomic addition.
    started: AtomicU64,
    refused: [AtomicU64; 4],
    observed: AtomicBool,
    refusals: Mutex<Refusals>,
    capacity: Option<u64>,
    capacity_per_group: u32,
    dedup: Duration,
}

/// A message on its way from its producer to the owner.
pub(crate) struct Arrival<P> {
    pub(crate) payload: P,
    pub(crate) at: Time,
    pub(crate) seq: Seq,
    pub(crate) sender: CompactString,
    pub(crate) extra: Option<Box<Extra>>,
    pub(crate) flush: bool,
    pub(crate) standalone: bool,
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
    ids: Mutex<Option<Box<Ids>>>,
}

/// Refusals that the owner has not heard of yet. Producers may be faster than it for long.
#[derive(Default)]
struct Refusals {
    events: Vec<Event>,
    missed: u64,
}

impl Refusals {
    fn keep(&mut self, event: Event) {
        if self.events.len() < MOST_REFUSALS {
            self.events.push(event);
        } else {
            self.missed += 1;
        }
    }

    fn told(mut self) -> Vec<Event> {
        if self.missed > 0 {
            self.events.push(Event::EventsMissed { count: self.missed });
        }
        self.events
    }
}

const MOST_REFUSALS: usize = 10_000;

/// Why a push did not get in.
enum NotAdmitted<P> {
    Refused(Arrival<P>, Refusal, u64),
    /// Its group is being forgotten.
    Forgotten(Arrival<P>),
}

pub(crate) type GroupInbox<P> = Inbox<Arrival<P>, Shared>;

impl<P> Intake<P> {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            names: Names::new(),
            ready: Ready::new(),
            closed: AtomicBool::new(false),
            next_seq: AtomicU64::new(0),
            void: AtomicU64::new(0),
            started: AtomicU64::new(0),
            refused: Default::default(),
            observed: AtomicBool::new(false),
            refusals: Mutex::default(),
            capacity: settings.capacity.map(u64::from),
            capacity_per_group: settings.capacity_per_group.unwrap_or(u32::MAX),
            dedup: settings.dedup,
        }
    }

    /// Takes a message, or says why not.
    pub fn push(
        &self,
        now: Time,
        group: &str,
        sender: &str,
        payload: P,
        options: Options,
    ) -> Result<Accepted, Refused<P>> {
        let Options {
            id,
            at,
            size,
            batch_key,
            quiet,
            flush,
            standalone,
        } = options;
        let plain = id.is_none()
            && at.is_none()
            && batch_key.is_none()
            && quiet.is_none()
            && size == Size::ONE;
        let mut arrival = Arrival {
            payload,
            at: now,
            seq: Seq(0),
            sender: CompactString::from(sender),
            extra: (!plain).then(|| {
                Box::new(Extra {
                    id,
                    at,
                    size,
                    batch_key,
                    quiet,
                })
            }),
            flush,
            standalone,
        };
        loop {
            let admitted = self
                .names
                .with(group, &self.closed, arrival, |inbox, arrival| {
                    self.admit(inbox, arrival)
                });
            match admitted {
                Err(arrival) => {
                    let known = self.names.find(group);
                    let depth = known.map_or(0, |inbox| u64::from(inbox.group().waiting()));
                    return Err(self.refuse(group, arrival, Refusal::Closed, depth));
                }
                Ok(Ok(accepted)) => return Ok(accepted),
                Ok(Err(NotAdmitted::Refused(arrival, reason, depth))) => {
                    return Err(self.refuse(group, arrival, reason, depth));
                }
                // The idle group was forgotten under our hands: meet it anew.
                Ok(Err(NotAdmitted::Forgotten(back))) => arrival = back,
            }
        }
    }

    /// Messages accepted and not yet started, in all groups.
    pub fn depth(&self) -> u64 {
        let gone = self.started.load(Ordering::Relaxed) + self.void.load(Ordering::Relaxed);
        self.next_seq.load(Ordering::Relaxed).saturating_sub(gone)
    }

    /// Whether pushes are refused for good.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ids before capacity (A1); nothing is kept of a push that fails on the way.
    fn admit(
        &self,
        inbox: &Arc<GroupInbox<P>>,
        mut arrival: Arrival<P>,
    ) -> Result<Accepted, NotAdmitted<P>> {
        let group = inbox.group();
        let id = arrival.extra.as_ref().and_then(|extra| extra.id.clone());
        // Held to the end: an id must not be seen accepted before its message is in the inbox.
        let mut ids = id.is_some().then(|| group.ids());
        if let (Some(ids), Some(id)) = (&mut ids, &id)
            && ids
                .as_ref()
                .is_some_and(|ids| ids.is_duplicate(id, arrival.at, self.dedup))
        {
            let depth = u64::from(group.waiting());
            return Err(NotAdmitted::Refused(arrival, Refusal::Duplicate, depth));
        }
        let seq = match self.reserve(group) {
            Ok(seq) => seq,
            Err((reason, depth)) => return Err(NotAdmitted::Refused(arrival, reason, depth)),
        };
        arrival.seq = seq;
        if let (Some(ids), Some(id)) = (&mut ids, &id) {
            ids.get_or_insert_default().accept(id, seq, arrival.at);
        }
        match self.ready.push(inbox, arrival) {
            Ok(wake) => Ok(Accepted { seq, wake }),
            Err(arrival) => {
                if let (Some(Some(ids)), Some(id)) = (ids.as_deref_mut(), &id) {
                    ids.forget(id);
                }
                group.accepted.fetch_sub(1, Ordering::Relaxed);
                self.void.fetch_add(1, Ordering::Relaxed);
                Err(NotAdmitted::Forgotten(arrival))
            }
        }
    }

    /// A place in the group and one in the whole queue, which is a number in the push order.
    ///
    /// The group's is taken first and given back when it was one too many, so that racing pushes can
    /// only be refused early, never taken above the limit (A5).
    fn reserve(&self, group: &Shared) -> Result<Seq, (Refusal, u64)> {
        let before = group.accepted.fetch_add(1, Ordering::Relaxed);
        let waiting = before.wrapping_sub(group.started.load(Ordering::Relaxed));
        if waiting >= self.capacity_per_group {
            group.accepted.fetch_sub(1, Ordering::Relaxed);
            return Err((Refusal::GroupFull, u64::from(waiting)));
        }
        let Some(capacity) = self.capacity else {
            return Ok(Seq(self.next_seq.fetch_add(1, Ordering::Relaxed)));
        };
        let place = self
            .next_seq
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seq| {
                (self.depth() < capacity).then_some(seq + 1)
            });
        place.map(Seq).map_err(|_| {
            group.accepted.fetch_sub(1, Ordering::Relaxed);
            (Refusal::Full, self.depth())
        })
    }

    fn refuse(&self, group: &str, arrival: Arrival<P>, reason: Refusal, depth: u64) -> Refused<P> {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
        if self.observed.load(Ordering::Relaxed) {
            let event = Event::MessageRefused {
                group: group.into(),
                sender: arrival.sender,
                reason,
                depth,
                at: arrival.at,
                id: arrival.extra.and_then(|extra| extra.id),
            };
            lock(&self.refusals).keep(event);
        }
        Refused {
            payload: arrival.payload,
            reason,
            depth,
        }
    }
}

/// The owner's side.
impl<P> Intake<P> {
    /// The group's inbox, made if need be, also when pushes are refused: a group can be paused then.
    pub(crate) fn open(&self, group: &str) -> Arc<GroupInbox<P>> {
        self.names.open(group)
    }

    pub(crate) fn find(&self, group: &str) -> Option<Arc<GroupInbox<P>>> {
        self.names.find(group)
    }

    /// Messages of a group have started, or ended before they did: their places are free.
    pub(crate) fn release(&self, group: &Shared, messages: u32) {
        let started = group.started.load(Ordering::Relaxed).wrapping_add(messages);
        group.started.store(started, Ordering::Relaxed);
        let started = self.started.load(Ordering::Relaxed) + u64::from(messages);
        self.started.store(started, Ordering::Relaxed);
    }

    /// Forgets a group, unless something has just come in.
    pub(crate) fn forget(&self, inbox: &Arc<GroupInbox<P>>) -> bool {
        let forgotten = inbox.retire();
        if forgotten {
            self.names.remove(inbox);
        }
        forgotten
    }

    /// Refuses every push from now on. What was accepted before is in the inboxes returned.
    pub(crate) fn close(&self) -> Vec<Arc<GroupInbox<P>>> {
        self.closed.store(true, Ordering::Release);
        self.names.all()
    }

    /// Every group's inbox, in no particular order.
    pub(crate) fn all(&self) -> Vec<Arc<GroupInbox<P>>> {
        self.names.all()
    }

    pub(crate) fn observe(&self, on: bool) {
        self.observed.store(on, Ordering::Relaxed);
    }

    pub(crate) fn take_refusals(&self) -> Vec<Event> {
        std::mem::take(&mut *lock(&self.refusals)).told()
    }

    pub(crate) fn refused(&self) -> [u64; 4] {
        std::array::from_fn(|reason| self.refused[reason].load(Ordering::Relaxed))
    }
}

impl Shared {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            accepted: AtomicU32::new(0),
            started: AtomicU32::new(0),
            slot: AtomicU32::new(0),
            ids: Mutex::new(None),
        }
    }

    pub(crate) fn ids(&self) -> MutexGuard<'_, Option<Box<Ids>>> {
        lock(&self.ids)
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
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

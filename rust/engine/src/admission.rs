//! The way in: any thread asks, and is answered at once (rules A1-A3, A5).
//!
//! A push looks up its group, reserves a place in the capacities by atomics, and links itself into
//! the group's inbox. Only a message with an id of its own takes a lock, its group's, for the filter.
//! The scheduler's owner is never waited for.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use compact_str::CompactString;
use foldhash::quality::RandomState;
use hashbrown::HashTable;

use crate::dedup::Ids;
use crate::events::Event;
use crate::group::GroupId;
use crate::inbox::{Inbox, Ready};
use crate::message::Extra;
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
    next_seq: AtomicU64,
    /// Accepted and not yet started, all groups.
    waiting: AtomicU64,
    refused: [AtomicU64; 4],
    observed: AtomicBool,
    refusals: Mutex<Vec<Event>>,
    capacity: u64,
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
    /// Accepted and not yet started.
    waiting: AtomicU32,
    /// The owner's number for the group, 0 before it has one. Only the owner looks at it.
    slot: AtomicU32,
    ids: Mutex<Option<Box<Ids>>>,
}

pub(crate) type GroupInbox<P> = Inbox<Arrival<P>, Shared>;

impl<P> Intake<P> {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            names: Names::new(),
            ready: Ready::new(),
            closed: AtomicBool::new(false),
            next_seq: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            refused: Default::default(),
            observed: AtomicBool::new(false),
            refusals: Mutex::new(Vec::new()),
            capacity: settings.capacity.map_or(u64::MAX, u64::from),
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
            let Some(inbox) = self.names.open(group, &self.closed) else {
                return Err(self.refuse(group, arrival, Refusal::Closed, 0));
            };
            match self.admit(&inbox, arrival) {
                Ok(accepted) => return Ok(accepted),
                Err((back, Some(reason))) => {
                    let depth = match reason {
                        Refusal::Full => self.depth(),
                        _ => u64::from(inbox.group().waiting.load(Ordering::Relaxed)),
                    };
                    return Err(self.refuse(group, back, reason, depth));
                }
                // The idle group was forgotten under our hands: meet it anew.
                Err((back, None)) => arrival = back,
            }
        }
    }

    /// Messages accepted and not yet started, in all groups.
    pub fn depth(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether pushes are refused for good.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ids before capacity (A1); nothing is kept of a push that fails on the way.
    #[allow(clippy::type_complexity)]
    fn admit(
        &self,
        inbox: &Arc<GroupInbox<P>>,
        mut arrival: Arrival<P>,
    ) -> Result<Accepted, (Arrival<P>, Option<Refusal>)> {
        let group = inbox.group();
        let id = arrival.extra.as_ref().and_then(|extra| extra.id.clone());
        // Held to the end: an id must not be seen accepted before its message is in the inbox.
        let mut ids = id.is_some().then(|| group.ids());
        if let (Some(ids), Some(id)) = (&mut ids, &id)
            && ids
                .as_ref()
                .is_some_and(|ids| ids.is_duplicate(id, arrival.at, self.dedup))
        {
            return Err((arrival, Some(Refusal::Duplicate)));
        }
        if let Err(reason) = self.reserve(group) {
            return Err((arrival, Some(reason)));
        }
        let seq = Seq(self.next_seq.fetch_add(1, Ordering::Relaxed));
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
                self.release(group, 1);
                Err((arrival, None))
            }
        }
    }

    /// Adds first and looks then, so that racing pushes can only be refused early, never taken above
    /// the limit (A5).
    fn reserve(&self, group: &Shared) -> Result<(), Refusal> {
        if group.waiting.fetch_add(1, Ordering::Relaxed) >= self.capacity_per_group {
            group.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::GroupFull);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.capacity {
            self.release(group, 1);
            return Err(Refusal::Full);
        }
        Ok(())
    }

    /// Gives back the places of messages that started or ended.
    pub(crate) fn release(&self, group: &Shared, messages: u32) {
        group.waiting.fetch_sub(messages, Ordering::Relaxed);
        self.waiting
            .fetch_sub(u64::from(messages), Ordering::Relaxed);
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
            lock(&self.refusals).push(event);
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
    /// The group's inbox, made if need be; none once the queue is closed and never knew the group.
    pub(crate) fn open(&self, group: &str) -> Option<Arc<GroupInbox<P>>> {
        self.names.open(group, &self.closed)
    }

    pub(crate) fn find(&self, group: &str) -> Option<Arc<GroupInbox<P>>> {
        self.names.find(group)
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
        std::mem::take(&mut lock(&self.refusals))
    }

    pub(crate) fn refused(&self) -> [u64; 4] {
        std::array::from_fn(|reason| self.refused[reason].load(Ordering::Relaxed))
    }
}

impl Shared {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            waiting: AtomicU32::new(0),
            slot: AtomicU32::new(0),
            ids: Mutex::new(None),
        }
    }

    pub(crate) fn ids(&self) -> MutexGuard<'_, Option<Box<Ids>>> {
        lock(&self.ids)
    }

    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn group_id(&self) -> Option<GroupId> {
        std::num::NonZeroU32::new(self.slot.load(Ordering::Relaxed)).map(GroupId::from_slot)
    }

    pub(crate) fn set_group_id(&self, id: GroupId) {
        self.slot.store(id.slot().get(), Ordering::Relaxed);
    }
}

/// Groups by name. Split so that threads that meet new groups rarely meet each other.
struct Names<P> {
    hasher: RandomState,
    shards: [RwLock<HashTable<Arc<GroupInbox<P>>>>; SHARDS],
}

impl<P> Names<P> {
    fn new() -> Self {
        Self {
            hasher: RandomState::default(),
            shards: std::array::from_fn(|_| RwLock::new(HashTable::new())),
        }
    }

    fn find(&self, name: &str) -> Option<Arc<GroupInbox<P>>> {
        let (hash, shard) = self.place(name);
        let table = shard.read().unwrap_or_else(PoisonError::into_inner);
        table
            .find(hash, |inbox| inbox.group().name == name)
            .cloned()
    }

    fn open(&self, name: &str, closed: &AtomicBool) -> Option<Arc<GroupInbox<P>>> {
        if closed.load(Ordering::Acquire) {
            return None;
        }
        if let Some(inbox) = self.find(name)
            && !inbox.is_closed()
        {
            return Some(inbox);
        }
        let (hash, shard) = self.place(name);
        let mut table = shard.write().unwrap_or_else(PoisonError::into_inner);
        // Asked again under the lock that `all` takes: no inbox comes into being unseen by it.
        if closed.load(Ordering::Acquire) {
            return None;
        }
        if let Some(inbox) = table.find_mut(hash, |inbox| inbox.group().name == name) {
            if inbox.is_closed() {
                *inbox = Inbox::new(Shared::new(name));
            }
            return Some(inbox.clone());
        }
        let inbox = Inbox::new(Shared::new(name));
        table.insert_unique(hash, inbox.clone(), |inbox| self.hash(&inbox.group().name));
        Some(inbox)
    }

    fn remove(&self, inbox: &Arc<GroupInbox<P>>) {
        let (hash, shard) = self.place(&inbox.group().name);
        let mut table = shard.write().unwrap_or_else(PoisonError::into_inner);
        if let Ok(entry) = table.find_entry(hash, |other| Arc::ptr_eq(other, inbox)) {
            entry.remove();
        }
    }

    fn all(&self) -> Vec<Arc<GroupInbox<P>>> {
        let tables = self
            .shards
            .iter()
            .map(|shard| shard.write().unwrap_or_else(PoisonError::into_inner));
        tables
            .flat_map(|table| table.iter().cloned().collect::<Vec<_>>())
            .collect()
    }

    fn place(&self, name: &str) -> (u64, &RwLock<HashTable<Arc<GroupInbox<P>>>>) {
        let hash = self.hash(name);
        // The table's own buckets come from the low bits and the seven highest.
        (hash, &self.shards[(hash >> 40) as usize % SHARDS])
    }

    fn hash(&self, name: &str) -> u64 {
        self.hasher.hash_one(name.as_bytes())
    }
}

const SHARDS: usize = 16;

/// A panic elsewhere does not make these values wrong: each is changed in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

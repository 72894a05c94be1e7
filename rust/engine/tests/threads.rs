//! Real threads push while another drives the engine: nothing is lost, nothing overtakes, nobody
//! sleeps for ever.
//!
//! The owner waits only after `next` has returned `None`, and only a push that was told `wake` rings.
//! A wake-up that gets lost is a bell that never comes: the wait gives up and the test fails.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use chinwag_engine::{
    End, Engine, Intake, Lanes, LeaseId, Options, Outbox, Outcome, Refusal, Settings, Size, Time,
};

const PRODUCERS: usize = 4;
const GROUPS: [&str; 7] = ["ants", "bees", "cats", "dogs", "eels", "foxes", "gnus"];
const SENDERS: [&str; PRODUCERS] = ["ann", "bob", "cyd", "dan"];
/// Longer than any of these tests takes.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Who pushed it, and which of that one's messages it is.
type Payload = (usize, u64);

#[test]
fn a_million_messages_lose_nothing() {
    push_from_threads(Settings::default(), 1_000_000);
}

#[test]
fn a_shared_lane_keeps_each_senders_order() {
    let settings = Settings {
        lanes: Lanes::Group,
        max_batch: Size::from_f64(5.0),
        max_concurrent: Some(3),
        ..Settings::default()
    };

    push_from_threads(settings, 200_000);
}

#[test]
fn windows_fill_while_threads_push() {
    let settings = Settings {
        quiet: Duration::from_micros(50),
        max_wait: Duration::from_micros(500),
        max_batch: Size::from_f64(16.0),
        quiet_when_busy: false,
        ..Settings::default()
    };

    push_from_threads(settings, 200_000);
}

#[test]
fn groups_forgotten_under_way_lose_nothing() {
    let settings = Settings {
        back_to_back: Duration::ZERO,
        burst: Duration::ZERO,
        idle_group: Duration::from_micros(1),
        size_window: Duration::from_micros(1),
        ..Settings::default()
    };

    let metrics = push_from_threads(settings, 200_000);

    assert!(
        metrics.waits > 0,
        "the owner never waited: no group was idle"
    );
}

#[test]
fn a_full_queue_takes_no_more_than_its_limit() {
    let settings = Settings {
        capacity: Some(64),
        capacity_per_group: Some(24),
        ..Settings::default()
    };

    push_from_threads(settings, 200_000);
}

#[test]
fn pushes_that_race_with_closing_are_taken_or_refused() {
    for round in 0..300 {
        close_among_pushes(round, Rest::Handled);
    }
}

#[test]
fn pushes_that_race_with_abandoning_are_accounted_for() {
    for round in 0..300 {
        close_among_pushes(round, Rest::Abandoned);
    }
}

/// What becomes of what waits at the closing.
#[derive(Clone, Copy, PartialEq)]
enum Rest {
    Handled,
    Abandoned,
}

fn push_from_threads(settings: Settings, messages: u64) -> Owner {
    let (clock, bell) = (Arc::new(AtomicU64::new(1)), channel());
    let mut owner = Owner::new(settings, clock.clone(), bell.1);
    let each = messages / PRODUCERS as u64;
    thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let (intake, clock, bell) = (owner.engine.intake(), clock.clone(), bell.0.clone());
            scope.spawn(move || {
                for number in 0..each {
                    while let Err(reason) = push(&intake, &clock, &bell, (producer, number)) {
                        assert_ne!(reason, Refusal::Closed);
                        thread::yield_now();
                    }
                }
            });
        }
        owner.drive_until(each * PRODUCERS as u64);
    });

    assert!(owner.seen.is_empty_after(each), "every message, in order");
    assert!(owner.wakes <= owner.waits, "once for each time it slept");
    assert_eq!(owner.engine.intake().depth(), 0);
    let ledger = owner.engine.audit(owner.now(), &mut owner.out).unwrap();
    assert_eq!(ledger.accepted, each * PRODUCERS as u64);
    assert_eq!(ledger.ended_as(End::Done), ledger.accepted);
    owner
}

fn close_among_pushes(round: usize, rest: Rest) {
    const MOST: u64 = 5_000;
    let (clock, bell) = (Arc::new(AtomicU64::new(1)), channel());
    let mut owner = Owner::new(Settings::default(), clock.clone(), bell.1);
    let (start, wait_for) = (Barrier::new(PRODUCERS + 1), (round % 50) as u64);
    let taken: Vec<u64> = thread::scope(|scope| {
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let (intake, clock, bell) = (owner.engine.intake(), clock.clone(), bell.0.clone());
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    // Bounded, so that a failure of the owner ends the test.
                    let refused = (0..MOST).find(|&number| {
                        push(&intake, &clock, &bell, (producer, number)).is_err_and(|reason| {
                            assert_eq!(reason, Refusal::Closed);
                            true
                        })
                    });
                    refused.unwrap_or(MOST)
                })
            })
            .collect();
        start.wait();
        // Not at the same point in every round: before the first push, among them, later.
        owner.drive_until(wait_for);
        owner.engine.close(owner.now(), &mut owner.out);
        if rest == Rest::Abandoned {
            owner.engine.abandon(owner.now(), &mut owner.out);
        }
        producers
            .into_iter()
            .map(|one| one.join().unwrap())
            .collect()
    });

    owner.finish();

    let abandoned = owner.abandoned;
    let ledger = owner.engine.audit(owner.now(), &mut owner.out).unwrap();
    assert_eq!(ledger.accepted, taken.iter().sum::<u64>(), "round {round}");
    assert_eq!((ledger.waiting, ledger.running), (0, 0), "round {round}");
    assert_eq!(ledger.ended_as(End::Abandoned), abandoned);
    assert_eq!(ledger.ended_as(End::Done) + abandoned, ledger.accepted);
    assert!(rest == Rest::Abandoned || abandoned == 0);
    assert_eq!(owner.engine.intake().depth(), 0, "round {round}");
}

/// Each producer writes to one group after the other, as the sender that bears its name.
fn push(
    intake: &Intake<Payload>,
    clock: &AtomicU64,
    bell: &Sender<()>,
    payload: Payload,
) -> Result<(), Refusal> {
    let now = Time::from_micros(clock.fetch_add(1, Ordering::Relaxed));
    let group = GROUPS[payload.1 as usize % GROUPS.len()];
    let pushed = intake.push(now, group, SENDERS[payload.0], payload, Options::default());
    let accepted = pushed.map_err(|refused| refused.reason)?;
    if accepted.wake {
        bell.send(()).unwrap();
    }
    Ok(())
}

/// The one thread that may touch the engine.
struct Owner {
    engine: Engine<Payload>,
    settings: Settings,
    out: Outbox<Payload>,
    clock: Arc<AtomicU64>,
    bell: Receiver<()>,
    /// Calls that run, oldest first.
    calls: VecDeque<LeaseId>,
    seen: Seen,
    ended: u64,
    abandoned: u64,
    waits: u64,
    wakes: u64,
}

/// The numbers that come next, by producer and group.
#[derive(Default)]
struct Seen(BTreeMap<(usize, String), u64>);

impl Seen {
    fn note(&mut self, group: &str, (producer, number): Payload) {
        let next = self.0.entry((producer, group.into()));
        let next = next.or_insert(GROUPS.iter().position(|name| *name == group).unwrap() as u64);
        assert_eq!(number, *next, "{group}: lost, twice or overtaken");
        *next += GROUPS.len() as u64;
    }

    fn is_empty_after(&self, each: u64) -> bool {
        let left = self.0.values().filter(|&&next| next < each);
        self.0.len() == PRODUCERS * GROUPS.len() && left.count() == 0
    }
}

impl Owner {
    fn new(settings: Settings, clock: Arc<AtomicU64>, bell: Receiver<()>) -> Self {
        Self {
            engine: Engine::new(settings.clone()),
            settings,
            out: Outbox::default(),
            clock,
            bell,
            calls: VecDeque::new(),
            seen: Seen::default(),
            ended: 0,
            abandoned: 0,
            waits: 0,
            wakes: 0,
        }
    }

    fn now(&self) -> Time {
        Time::from_micros(self.clock.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes calls, several at once, until so many messages have ended.
    fn drive_until(&mut self, messages: u64) {
        while self.ended < messages {
            if let Some(lease) = self.engine.next(self.now(), &mut self.out) {
                self.begin(lease);
                if self.calls.len() > 5 {
                    self.end_oldest();
                }
                continue;
            }
            self.waits += 1;
            if !self.calls.is_empty() {
                self.end_oldest();
            } else if self.engine.wake_at() == Time::NEVER {
                let rung = self.bell.recv_timeout(WATCHDOG);
                assert!(rung.is_ok(), "a wake-up was lost: {} ended", self.ended);
                self.wakes += 1;
            } else {
                let due = self.engine.wake_at().as_micros();
                self.clock.fetch_max(due, Ordering::Relaxed);
            }
        }
        self.wakes += self.bell.try_iter().count() as u64;
    }

    /// Makes what calls there still are.
    fn finish(&mut self) {
        loop {
            while let Some(lease) = self.engine.next(self.now(), &mut self.out) {
                self.begin(lease);
            }
            if self.calls.is_empty() {
                break;
            }
            self.end_oldest();
        }
        self.count_ends();
    }

    fn begin(&mut self, lease: LeaseId) {
        let batch = self.engine.batch(lease).unwrap();
        for message in batch.messages() {
            let (producer, _) = *message.payload;
            assert_eq!(message.sender, SENDERS[producer]);
            self.seen.note(batch.group(), *message.payload);
        }
        self.calls.push_back(lease);
        let limit = self.settings.max_concurrent.unwrap_or(u32::MAX);
        assert!(self.calls.len() as u64 <= u64::from(limit));
        if let Some(capacity) = self.settings.capacity {
            let depth = self.engine.intake().depth();
            assert!(depth <= u64::from(capacity), "{depth} wait");
        }
    }

    fn end_oldest(&mut self) {
        let lease = self.calls.pop_front().unwrap();
        let ended = self
            .engine
            .settle(self.now(), lease, Outcome::Done, &mut self.out);
        assert!(ended.is_ok());
        self.count_ends();
    }

    fn count_ends(&mut self) {
        for message in self.out.ended.drain(..) {
            self.ended += 1;
            self.abandoned += u64::from(message.end == End::Abandoned);
        }
    }
}

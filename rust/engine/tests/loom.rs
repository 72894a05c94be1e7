//! Every race of `inbox.rs`, one model each: loom tries the interleavings and the values that a weak
//! memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p chinwag-engine --test loom`
#![cfg(loom)]

use std::sync::Arc;

use chinwag_engine::inbox::{Drain, Inbox, Ready};
use loom::alloc::Track;
use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::Notify;
use loom::thread::{self, JoinHandle};

#[test]
fn producers_of_one_inbox_keep_their_order() {
    model(|| {
        let queue = Queue::new(Ready::new());
        let producers = [produce(&queue, 0, &[A, A]), produce(&queue, 1, &[A, A])];
        let mut seen = Seen::default();

        queue.poll(&mut seen);
        queue.poll(&mut seen);

        join(producers);
        queue.poll(&mut seen);
        assert_eq!(seen.next[A], [2, 2]);
        queue.is_as_new();
    });
}

#[test]
fn two_inboxes_share_one_list() {
    model(|| {
        let queue = Queue::new(Ready::new());
        let producers = [produce(&queue, 0, &[A, B]), produce(&queue, 1, &[B, A])];
        let mut seen = Seen::default();

        queue.poll(&mut seen);
        queue.poll(&mut seen);

        join(producers);
        queue.poll(&mut seen);
        assert_eq!(seen.next, [[1, 1], [1, 1]]);
        queue.is_as_new();
    });
}

#[test]
fn a_drain_out_of_turn_loses_nothing() {
    model(|| {
        let queue = Queue::new(Ready::new());
        let producers = [produce(&queue, 0, &[A, A, A])];
        let mut seen = Seen::default();

        seen.absorb(A, queue.inboxes[A].drain());
        seen.absorb(A, queue.inboxes[A].drain());

        join(producers);
        seen.absorb(A, queue.inboxes[A].drain());
        assert_eq!(seen.next[A][0], 3);
        queue.poll(&mut seen);
        queue.is_as_new();
    });
}

/// While it stands on the list, or its first producer has linked an item and not yet enlisted it, the
/// inbox is emptied and filled again.
#[test]
fn an_inbox_emptied_before_its_turn_is_listed_once() {
    model(|| {
        let queue = Queue::new(Ready::new());
        let producers = [produce(&queue, 0, &[A, B]), produce(&queue, 1, &[A])];
        let mut seen = Seen::default();

        seen.absorb(A, queue.inboxes[A].drain());
        queue.poll(&mut seen);
        seen.absorb(A, queue.inboxes[A].drain());

        join(producers);
        queue.poll(&mut seen);
        assert_eq!(seen.next, [[1, 1], [1, 0]]);
        queue.is_as_new();
    });
}

#[test]
fn a_push_against_close_is_drained_or_refused() {
    model(|| {
        let queue = Queue::new(Ready::new());
        let mut seen = Seen::default();
        queue.ready.awake();
        let producers = [produce(&queue, 0, &[A, A]), produce(&queue, 1, &[A])];

        queue.poll(&mut seen);
        queue.note();
        seen.absorb(A, queue.inboxes[A].close());

        let refused = join(producers).refused;
        assert_eq!(seen.total() + refused, 3);
        assert!(queue.inboxes[A].is_closed());
        queue.poll(&mut seen);
        assert_eq!(seen.total() + refused, 3, "nothing comes after the close");
        assert!(queue.push(A, Item::new(0, 2)).is_err());
    });
}

#[test]
fn a_push_against_retire_keeps_the_inbox_or_is_refused() {
    model(|| {
        let queue = Queue::new(Ready::new());
        let mut seen = Seen::default();
        queue.ready.awake();
        let producers = [produce(&queue, 0, &[A]), produce(&queue, 1, &[A])];

        queue.poll(&mut seen);
        seen.absorb(A, queue.inboxes[A].drain());
        queue.note();
        let retired = queue.inboxes[A].retire();

        let refused = join(producers).refused;
        assert_eq!(queue.inboxes[A].is_closed(), retired);
        assert!(retired || refused == 0);
        queue.poll(&mut seen);
        assert_eq!(seen.total() + refused, 2);
    });
}

/// What is pushed is seen before the owner sleeps, or exactly one of the pushes wakes it.
#[test]
fn one_push_wakes_a_sleeping_owner() {
    model(|| one_push_wakes(Ready::new()));
}

#[test]
#[should_panic(expected = "nobody wakes the owner")]
fn the_models_catch_a_lost_wake_up() {
    model(|| one_push_wakes(Ready::with_planted_bug()));
}

fn one_push_wakes(ready: Ready<Item, Group>) {
    let queue = Queue::new(ready);
    let mut seen = Seen::default();
    queue.ready.awake();
    let producers = [produce(&queue, 0, &[A, B]), produce(&queue, 1, &[A])];

    queue.note();
    while !queue.ready.idle() {
        queue.poll(&mut seen);
    }

    let woken = join(producers).woken;
    assert_eq!(
        woken,
        u32::from(seen.total() < 3),
        "nobody wakes the owner, or two do"
    );
    queue.poll(&mut seen);
    assert_eq!(seen.next, [[1, 1], [1, 0]]);
    queue.is_as_new();
}

/// An owner that cannot keep up sleeps all the same, and what it has not seen wakes it.
#[test]
fn an_owner_that_takes_asleep_is_woken_for_the_rest() {
    model(|| {
        let queue = Queue::new(Ready::new());
        let mut seen = Seen::default();
        queue.ready.awake();
        let producers = [produce(&queue, 0, &[A, B]), produce(&queue, 1, &[A])];

        queue.poll(&mut seen);
        queue.note();
        for inbox in queue.ready.take_asleep() {
            seen.absorb(inbox.group().number, inbox.drain());
        }

        let woken = join(producers).woken;
        assert_eq!(woken, u32::from(seen.total() < 3));
        queue.poll(&mut seen);
        assert_eq!(seen.next, [[1, 1], [1, 0]]);
        queue.is_as_new();
    });
}

/// A control verb drains while the driver sleeps: that must not use up the wake-up.
#[test]
fn an_owner_that_looks_in_goes_on_sleeping() {
    model(|| {
        let queue = Queue::new(Ready::new());
        let mut seen = Seen::default();
        queue.note();
        assert!(queue.ready.idle());
        let producers = [produce(&queue, 0, &[A, A]), produce(&queue, 1, &[B])];

        queue.poll(&mut seen);
        queue.poll(&mut seen);

        assert_eq!(
            join(producers).woken,
            1,
            "nobody wakes the owner, or two do"
        );
        queue.poll(&mut seen);
        assert_eq!(seen.total(), 3);
        queue.is_as_new();
    });
}

/// As the driver does it; a wake-up that is lost is a deadlock here.
#[test]
fn an_owner_that_waits_gets_everything() {
    model(|| {
        let queue = Queue::new(Ready::new());
        let producers = [produce(&queue, 0, &[A]), produce(&queue, 1, &[A])];
        let mut seen = Seen::default();

        loop {
            queue.poll(&mut seen);
            if seen.total() == 2 {
                break;
            }
            if queue.ready.idle() {
                queue.wake.wait();
            }
        }

        join(producers);
        queue.is_as_new();
    });
}

/// Not how it is meant to be used; no item may be lost or freed twice all the same.
#[test]
fn two_owners_at_once_do_no_harm() {
    model(|| {
        let queue = Queue::new(Ready::new());
        let producers = [produce(&queue, 0, &[A, A])];
        let other = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let drained = queue.inboxes[A].drain().count();
                drained + queue.poll_all()
            })
        };

        let mut drained = queue.poll_all();
        drained += queue.inboxes[A].drain().count();

        join(producers);
        drained += other.join().unwrap() + queue.inboxes[A].drain().count();
        assert_eq!(drained, 2);
        assert_eq!(queue.poll_all(), 0);
        queue.is_as_new();
    });
}

/// Loom reports what is not freed.
#[test]
fn what_nobody_drained_is_dropped() {
    model(|| {
        let queue = Queue::new(Ready::new());
        let producers = [produce(&queue, 0, &[A, B]), produce(&queue, 1, &[A])];

        drop(queue.ready.take());
        drop(queue.inboxes[A].drain());

        join(producers);
    });
}

/// The group numbers of the two inboxes.
const A: usize = 0;
const B: usize = 1;

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

struct Queue {
    ready: Ready<Item, Group>,
    inboxes: [Arc<Inbox<Item, Group>>; 2],
    wake: Notify,
    /// Written by the owner without a lock, read by who is refused and by who wakes.
    note: UnsafeCell<()>,
}

impl Queue {
    #[expect(
        clippy::arc_with_non_send_sync,
        reason = "loom checks its cells as it runs"
    )]
    fn new(ready: Ready<Item, Group>) -> Arc<Self> {
        let inboxes = [Inbox::new(Group::new(A)), Inbox::new(Group::new(B))];
        Arc::new(Self {
            ready,
            inboxes,
            wake: Notify::new(),
            note: UnsafeCell::new(()),
        })
    }

    fn note(&self) {
        self.note.with_mut(|_| ());
    }

    fn poll(&self, seen: &mut Seen) {
        let mut listed = [false; 2];
        for inbox in self.ready.take() {
            let group = inbox.group().number;
            assert!(!listed[group], "an inbox is listed twice");
            listed[group] = true;
            seen.absorb(group, inbox.drain());
        }
    }

    /// The number of items, whatever their order.
    fn poll_all(&self) -> usize {
        self.ready.take().map(|inbox| inbox.drain().count()).sum()
    }

    fn push(&self, to: usize, item: Item) -> Result<bool, Item> {
        self.ready.push(&self.inboxes[to], item)
    }

    /// Nothing is left behind that would keep an inbox from becoming ready again.
    fn is_as_new(&self) {
        self.ready.idle();
        for (group, inbox) in self.inboxes.iter().enumerate() {
            assert_eq!(inbox.drain().count(), 0);
            assert_eq!(self.ready.take().count(), 0);
            assert!(self.ready.idle());
            let pushed = self.push(group, Item::new(0, 0));
            assert!(pushed.is_ok_and(|wake| wake));
            let mut taken = self.ready.take();
            assert!(taken.next().is_some_and(|first| Arc::ptr_eq(&first, inbox)));
            assert!(taken.next().is_none());
            assert_eq!(inbox.drain().count(), 1);
        }
    }
}

struct Group {
    number: usize,
    _freed: Track<()>,
}

impl Group {
    fn new(number: usize) -> Self {
        Self {
            number,
            _freed: Track::new(()),
        }
    }
}

struct Item {
    producer: usize,
    number: u32,
    /// Reading it panics unless the thread that made it came before.
    made: UnsafeCell<()>,
    _freed: Track<()>,
}

impl Item {
    fn new(producer: usize, number: u32) -> Self {
        Self {
            producer,
            number,
            made: UnsafeCell::new(()),
            _freed: Track::new(()),
        }
    }
}

/// A thread that pushes one item to each inbox named.
fn produce(queue: &Arc<Queue>, producer: usize, to: &'static [usize]) -> JoinHandle<Pushed> {
    let queue = Arc::clone(queue);
    thread::spawn(move || {
        let mut pushed = Pushed::default();
        let mut next = [0; 2];
        for &to in to {
            match queue.push(to, Item::new(producer, next[to])) {
                Ok(true) => {
                    queue.note.with(|_| ());
                    queue.wake.notify();
                    pushed.woken += 1;
                }
                Ok(false) => assert_eq!(pushed.refused, 0, "closed is for good"),
                Err(item) => {
                    queue.note.with(|_| ());
                    assert_eq!((item.producer, item.number), (producer, next[to]));
                    pushed.refused += 1;
                }
            }
            next[to] += 1;
        }
        pushed
    })
}

#[derive(Default)]
struct Pushed {
    woken: u32,
    refused: u32,
}

fn join<const N: usize>(producers: [JoinHandle<Pushed>; N]) -> Pushed {
    producers
        .into_iter()
        .fold(Pushed::default(), |sum, producer| {
            let pushed = producer.join().expect("a panic ends the model");
            Pushed {
                woken: sum.woken + pushed.woken,
                refused: sum.refused + pushed.refused,
            }
        })
}

/// The number of the next item of each inbox and producer, so that a gap, a swap or an item that
/// comes twice is noticed at once.
#[derive(Default)]
struct Seen {
    next: [[u32; 2]; 2],
}

impl Seen {
    fn absorb(&mut self, group: usize, drain: Drain<Item>) {
        for item in drain {
            item.made.with(|_| ());
            let next = &mut self.next[group][item.producer];
            assert_eq!(item.number, *next, "out of order");
            *next += 1;
        }
    }

    fn total(&self) -> u32 {
        self.next.iter().flatten().sum()
    }
}

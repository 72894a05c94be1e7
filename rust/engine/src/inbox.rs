//! Inboxes that any thread fills without a lock, and the list of those that have mail.
//!
//! Each group has one [`Inbox`]: a stack of nodes that producers link by compare-and-swap. The owner
//! (whoever holds the engine's lock) swaps the whole stack out and reverses it, so messages leave in
//! push order and no node is ever unlinked alone. Inboxes with mail stand on a second stack, [`Ready`],
//! linked through themselves and emptied in the same way. Both stacks only grow by one or are swapped
//! out whole, so a compare-and-swap that succeeds on an address used twice (ABA) still links what is
//! on top.
//!
//! One word, `Inbox::head`, says where an inbox stands:
//!
//! | `head`     | mail | on the ready list |
//! |------------|------|-------------------|
//! | null       | no   | no                |
//! | a node     | yes  | yes *             |
//! | `EMPTIED`  | no   | yes *             |
//! | `CLOSED`   | no   | maybe             |
//!
//! \* or about to be: the producer that moved `head` away from null puts it there next; or just taken
//! off: the owner holds it and its next `drain` says so.
//!
//! - push: null, `EMPTIED` or a node -> a node. Only who moves it away from null enlists the inbox,
//!   so it stands on the list at most once. `CLOSED`: the item goes back.
//! - drain after [`Ready::take`] handed the inbox out: -> null. The next push enlists it again.
//! - drain out of turn (a control call): a node -> `EMPTIED`. The inbox stays where it is, and a
//!   push that follows must not enlist it a second time.
//! - close: -> `CLOSED`, for good. retire: null or `EMPTIED` -> `CLOSED`.
//!
//! `Inbox::next_ready` belongs to the producer between its move away from null and its enlisting,
//! and to whoever took the list from then on until the move back to null. It is `TAKEN` from the
//! moment the inbox is handed out until that drain.
//!
//! One word, `Ready::head`, says whether the owner must be woken: null (awake, nothing ready), `IDLE`
//! (asleep, nothing ready) or the inbox that became ready last. Going to sleep is null -> `IDLE` by
//! compare-and-swap and enlisting changes the same word, so one of the two sees the other: a push
//! either makes the owner poll again or finds `IDLE` and wakes it. Who pushes to an inbox that another
//! producer is about to enlist leaves the waking to that producer.
//!
//! What is marked "owner only" is so for order and for waking; memory stays sound whoever calls it.

use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex};

// `Arc` is std's under loom too, so that the rest of the crate need not care; the models track what
// it holds.
#[cfg(loom)]
use loom::sync::atomic::AtomicPtr;
#[cfg(not(loom))]
use std::sync::atomic::AtomicPtr;

/// What producers pushed for one group and the owner has not drained.
///
/// `T` is what a producer pushes, `G` the data of the group that producers and owner share.
pub struct Inbox<T, G> {
    /// The newest node, or one of the marks of the table above.
    head: AtomicPtr<Node<T>>,
    /// The inbox that became ready before this one, `TAKEN`, or null.
    next_ready: AtomicPtr<Self>,
    group: G,
    /// Items come in and go out through `&self` and are never shared, as in a mutex; `AtomicPtr` alone
    /// would let an item cross threads that must not.
    items: PhantomData<Mutex<T>>,
}

impl<T, G> Inbox<T, G> {
    /// The owner has been handed this inbox and has not drained it.
    const TAKEN: *mut Self = ptr::without_provenance_mut(1);
    /// Top of the ready list: nothing is ready and the owner sleeps.
    const IDLE: *mut Self = ptr::without_provenance_mut(2);

    /// An empty inbox.
    pub fn new(group: G) -> Arc<Self> {
        Arc::new(Self {
            head: AtomicPtr::new(ptr::null_mut()),
            next_ready: AtomicPtr::new(ptr::null_mut()),
            group,
            items: PhantomData,
        })
    }

    /// The data of the group.
    pub fn group(&self) -> &G {
        &self.group
    }

    /// Owner only: empties the inbox, oldest item first.
    ///
    /// An inbox that [`Ready::take`] handed out must be drained once; only then can it become ready
    /// again. Yields nothing after [`close`](Self::close).
    pub fn drain(&self) -> Drain<T> {
        // A compare-and-swap, so that of two callers one at most moves `head` to null. Acquire: that
        // one sees the node for which the inbox was on the list, also when another thread took it.
        let taken = self
            .next_ready
            .compare_exchange(Self::TAKEN, ptr::null_mut(), Acquire, Relaxed)
            .is_ok();
        let emptied = if taken {
            ptr::null_mut()
        } else {
            Node::EMPTIED
        };
        // Acquire: the nodes' contents. Release: the move to null passes `next_ready` on, so the
        // write above comes before those of the next producer that enlists.
        // Relaxed on failure: a null or CLOSED that is out of date gives no node away. A push that
        // the owner knows of is seen; any other has put the inbox on the list, or will.
        let newest = self.head.fetch_update(AcqRel, Relaxed, |head| {
            (!head.is_null() && head != Node::CLOSED).then_some(emptied)
        });
        Drain::reversed(newest.unwrap_or(ptr::null_mut()))
    }

    /// Owner only: empties the inbox for the last time; every later push gets its item back.
    pub fn close(&self) -> Drain<T> {
        // Acquire: the nodes' contents. Release: who is refused sees what the owner did before.
        Drain::reversed(self.head.swap(Node::CLOSED, AcqRel))
    }

    /// Owner only: closes the inbox if it is empty right now, and says whether it is closed.
    pub fn retire(&self) -> bool {
        // Release: as in `close`. Nothing to acquire: there is no node. Relaxed on failure: only the
        // owner, whose own writes count here, makes it empty or closed.
        self.head
            .fetch_update(Release, Relaxed, |head| {
                (head.is_null() || head == Node::EMPTIED).then_some(Node::CLOSED)
            })
            .map_or_else(|head| head == Node::CLOSED, |_| true)
    }

    /// Whether pushes are refused.
    pub fn is_closed(&self) -> bool {
        // Acquire: as for a push that is refused.
        self.head.load(Acquire) == Node::CLOSED
    }

    /// Puts the item on top. `Ok(true)`: the inbox was off the ready list, the caller must enlist it.
    fn link(&self, item: T) -> Result<bool, T> {
        let node = Box::into_raw(Box::new(Node {
            item,
            older: ptr::null_mut(),
        }));
        // Acquire, here and on failure: who is refused sees what the owner did before it closed.
        let mut head = self.head.load(Acquire);
        while head != Node::CLOSED {
            // SAFETY: `node` is this call's own until the exchange below succeeds.
            unsafe { (*node).older = head };
            // Release: the node's contents, for the owner. Acquire: when `head` was null,
            // `next_ready` passes from the owner to this producer.
            match self.head.compare_exchange_weak(head, node, AcqRel, Acquire) {
                Ok(_) => return Ok(head.is_null()),
                Err(now) => head = now,
            }
        }
        // SAFETY: `node` came from `Box::into_raw` above and was never linked.
        Err(unsafe { Box::from_raw(node) }.item)
    }
}

impl<T, G> Drop for Inbox<T, G> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// The inboxes that have mail, and whether the owner sleeps.
pub struct Ready<T, G> {
    /// Null, `IDLE`, or the inbox that became ready last, as the raw pointer of an `Arc`.
    head: AtomicPtr<Inbox<T, G>>,
    inboxes: PhantomData<Arc<Inbox<T, G>>>,
    #[cfg(loom)]
    loses_wake_ups: bool,
}

impl<T, G> Ready<T, G> {
    /// An empty list whose owner sleeps: the first push wakes it.
    pub fn new() -> Self {
        Self {
            head: AtomicPtr::new(Inbox::IDLE),
            inboxes: PhantomData,
            #[cfg(loom)]
            loses_wake_ups: false,
        }
    }

    /// A list that looks and then sleeps, instead of doing both in one step: the models must fail.
    #[cfg(loom)]
    pub fn with_planted_bug() -> Self {
        let mut ready = Self::new();
        ready.loses_wake_ups = true;
        ready
    }

    /// Any thread: puts an item into the inbox.
    ///
    /// `Ok(true)`: the owner slept and this push must wake it; of the pushes since it went to sleep
    /// exactly one gets that answer. `Err`: the inbox is closed, here is the item.
    pub fn push(&self, inbox: &Arc<Inbox<T, G>>, item: T) -> Result<bool, T> {
        let off_list = inbox.link(item)?;
        Ok(off_list && self.enlist(inbox))
    }

    /// Owner only: the inboxes that became ready, in that order.
    ///
    /// Taking something marks the owner awake; whoever put it there was told to wake it. Finding
    /// nothing changes nothing: an owner that only looks in while it sleeps goes on sleeping, or the
    /// next push would wake nobody.
    pub fn take(&self) -> ReadyInboxes<T, G> {
        // Relaxed: nothing is read through it, and a push that happened before is seen all the same.
        let head = self.head.load(Relaxed);
        if head.is_null() || head == Inbox::IDLE {
            return ReadyInboxes::reversed(ptr::null_mut());
        }
        // Acquire: the producers' writes to `next_ready`. Nothing to release: `next_ready` goes back
        // to the producers through `Inbox::head`.
        ReadyInboxes::reversed(self.head.swap(ptr::null_mut(), Acquire))
    }

    /// Owner only: goes to sleep, or on sleeping, unless something is ready; `false` means take again.
    pub fn idle(&self) -> bool {
        #[cfg(loom)]
        if self.loses_wake_ups {
            return self.idle_in_two_steps();
        }
        let head = self.head.load(Relaxed);
        // Release: who wakes the owner sees what it did before it slept. Relaxed on failure: what is
        // ready is read through `take`.
        (head.is_null() || head == Inbox::IDLE)
            && self
                .head
                .compare_exchange(head, Inbox::IDLE, Release, Relaxed)
                .is_ok()
    }

    /// Owner only: goes to sleep and takes what is ready, in one step; what is pushed from here on
    /// wakes. So an owner can come to an end though others push as fast as it takes.
    pub fn take_asleep(&self) -> ReadyInboxes<T, G> {
        // Acquire and Release as in `take` and `idle`.
        let head = self.head.swap(Inbox::IDLE, AcqRel);
        ReadyInboxes::reversed(if head == Inbox::IDLE {
            ptr::null_mut()
        } else {
            head
        })
    }

    /// Owner only: has work to do and will take again; until it sleeps no push wakes it.
    pub fn awake(&self) {
        if self.head.load(Relaxed) == Inbox::IDLE {
            // Relaxed: nothing is read or written through it. On failure a push was told to wake.
            let _ = self
                .head
                .compare_exchange(Inbox::IDLE, ptr::null_mut(), Relaxed, Relaxed);
        }
    }

    #[cfg(loom)]
    fn idle_in_two_steps(&self) -> bool {
        let head = self.head.load(Acquire);
        let nothing = head.is_null() || head == Inbox::IDLE;
        if nothing {
            self.head.store(Inbox::IDLE, Release);
        }
        nothing
    }

    /// Puts the inbox on top; says whether the owner slept. Only for who moved `inbox.head` from null.
    fn enlist(&self, inbox: &Arc<Inbox<T, G>>) -> bool {
        let listed = Arc::into_raw(Arc::clone(inbox)).cast_mut();
        // Relaxed, here and on failure: nothing is read through the pointer.
        let mut head = self.head.load(Relaxed);
        loop {
            let older = if head == Inbox::IDLE {
                ptr::null_mut()
            } else {
                head
            };
            // Relaxed: the exchange below publishes it.
            inbox.next_ready.store(older, Relaxed);
            // Release: `next_ready`, for the owner. Acquire: who wakes the owner sees what it did
            // before it slept.
            match self
                .head
                .compare_exchange_weak(head, listed, AcqRel, Relaxed)
            {
                Ok(_) => return head == Inbox::IDLE,
                Err(now) => head = now,
            }
        }
    }
}

impl<T, G> Default for Ready<T, G> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, G> Drop for Ready<T, G> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Items of one inbox, oldest first. Dropping it drops the rest.
#[must_use = "dropping it drops the items"]
pub struct Drain<T> {
    oldest: *mut Node<T>,
}

// SAFETY: a `Drain` alone owns its nodes (`reversed` upholds it), so sending it sends the items.
unsafe impl<T: Send> Send for Drain<T> {}

impl<T> Drain<T> {
    /// Turns what was swapped out of `Inbox::head` around. `newest` may be a mark.
    fn reversed(mut newest: *mut Node<T>) -> Self {
        let mut oldest = ptr::null_mut();
        while !newest.is_null() && newest != Node::EMPTIED && newest != Node::CLOSED {
            // SAFETY: whoever swaps a stack out of `head` is the only one to hold its nodes, and
            // reads them after the Release of the pushes that linked them.
            let older = unsafe { ptr::replace(&raw mut (*newest).older, oldest) };
            oldest = newest;
            newest = older;
        }
        Self { oldest }
    }
}

impl<T> Iterator for Drain<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.oldest.is_null() {
            return None;
        }
        // SAFETY: `link` made the node with `Box::into_raw`, `reversed` took it out of its inbox, and
        // the line below is the last use of the pointer.
        let node = unsafe { Box::from_raw(self.oldest) };
        self.oldest = node.older;
        Some(node.item)
    }
}

impl<T> Drop for Drain<T> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// Inboxes that became ready, in that order. Each must be drained, see [`Inbox::drain`].
///
/// Those that are left when it is dropped keep their mail, but do not become ready again before
/// they are drained.
#[must_use = "inboxes that were taken must be drained"]
pub struct ReadyInboxes<T, G> {
    first: *mut Inbox<T, G>,
}

impl<T, G> ReadyInboxes<T, G> {
    /// Turns what was swapped out of `Ready::head` around. `last` may be a mark.
    fn reversed(mut last: *mut Inbox<T, G>) -> Self {
        let mut first = ptr::null_mut();
        while !last.is_null() && last != Inbox::IDLE {
            // SAFETY: the list holds an `Arc` of each inbox on it; whoever swapped the list out has
            // it now, until `next` turns it back.
            let next_ready = unsafe { &(*last).next_ready };
            // Relaxed, twice: `take` acquired the producer's write, and from here until the drain
            // after TAKEN nobody else writes.
            let earlier = next_ready.load(Relaxed);
            next_ready.store(first, Relaxed);
            first = last;
            last = earlier;
        }
        Self { first }
    }
}

impl<T, G> Iterator for ReadyInboxes<T, G> {
    type Item = Arc<Inbox<T, G>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.first.is_null() {
            return None;
        }
        // SAFETY: `enlist` made the pointer with `Arc::into_raw`, once for each time the inbox is on
        // the list; `reversed` took it off, and the line below moves on before the `Arc` is given away.
        let inbox = unsafe { Arc::from_raw(self.first.cast_const()) };
        // Read before the inbox is drained: a push that comes after that writes `next_ready` anew.
        // Relaxed: as in `reversed`. Release: for the drain, see there.
        self.first = inbox.next_ready.load(Relaxed);
        inbox.next_ready.store(Inbox::TAKEN, Release);
        Some(inbox)
    }
}

impl<T, G> Drop for ReadyInboxes<T, G> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// One item, and the one pushed before it.
struct Node<T> {
    item: T,
    older: *mut Self,
}

impl<T> Node<T> {
    /// The inbox was drained while it was on the ready list.
    const EMPTIED: *mut Self = ptr::without_provenance_mut(1);
    /// The inbox takes no more items.
    const CLOSED: *mut Self = ptr::without_provenance_mut(2);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::thread;

    use super::*;

    type Numbers = Arc<Inbox<u32, ()>>;

    /// What the ready inboxes held, one list for each.
    fn poll(ready: &Ready<u32, ()>) -> Vec<Vec<u32>> {
        ready.take().map(|inbox| inbox.drain().collect()).collect()
    }

    /// Counts its drops.
    struct Counted(Rc<Cell<u32>>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    fn push_counted(ready: &Ready<Counted, ()>, inbox: &Arc<Inbox<Counted, ()>>) -> Rc<Cell<u32>> {
        let drops = Rc::new(Cell::new(0));
        for _ in 0..3 {
            assert!(ready.push(inbox, Counted(Rc::clone(&drops))).is_ok());
        }
        drops
    }

    #[test]
    fn an_inbox_costs_two_words() {
        assert_eq!(size_of::<Inbox<String, ()>>(), 2 * size_of::<usize>());
    }

    #[test]
    fn items_leave_in_push_order() {
        let (ready, inbox) = (Ready::new(), Inbox::new(()));
        for item in 0..5 {
            ready.push(&inbox, item).unwrap();
        }

        assert_eq!(poll(&ready), [[0, 1, 2, 3, 4]]);
    }

    #[test]
    fn inboxes_come_in_the_order_they_became_ready() {
        let (ready, a, b) = (Ready::new(), Inbox::new(()), Inbox::new(()));
        ready.push(&b, 0).unwrap();
        ready.push(&a, 1).unwrap();
        ready.push(&b, 2).unwrap();

        assert_eq!(poll(&ready), [vec![0, 2], vec![1]]);
        assert!(poll(&ready).is_empty());
    }

    #[test]
    fn the_first_push_to_a_sleeper_wakes() {
        let (ready, a, b) = (Ready::new(), Inbox::new(()), Inbox::new(()));
        assert_eq!(ready.push(&a, 0), Ok(true));
        assert_eq!(ready.push(&a, 1), Ok(false));
        assert_eq!(ready.push(&b, 2), Ok(false));
        assert!(!ready.idle(), "something is ready");

        poll(&ready);

        assert_eq!(ready.push(&b, 3), Ok(false), "the owner is awake");
        poll(&ready);
        assert!(ready.idle());
        assert!(ready.idle(), "it sleeps already");
        assert_eq!(ready.push(&b, 4), Ok(true));
    }

    #[test]
    fn an_inbox_drained_becomes_ready_again() {
        let (ready, inbox) = (Ready::new(), Inbox::new(()));
        for item in 0..3 {
            ready.push(&inbox, item).unwrap();

            assert_eq!(poll(&ready), [[item]]);
        }
    }

    #[test]
    fn an_inbox_drained_out_of_turn_is_listed_once() {
        let (ready, a, b) = (Ready::new(), Inbox::new(()), Inbox::new(()));
        ready.push(&a, 0).unwrap();
        ready.push(&b, 1).unwrap();

        assert_eq!(a.drain().collect::<Vec<_>>(), [0]);
        assert_eq!(a.drain().count(), 0);
        ready.push(&a, 2).unwrap();

        assert_eq!(poll(&ready), [[2], [1]]);
        ready.push(&a, 3).unwrap();
        assert_eq!(poll(&ready), [[3]]);
    }

    #[test]
    fn an_emptied_inbox_is_handed_out_empty() {
        let (ready, inbox) = (Ready::new(), Inbox::new(()));
        ready.push(&inbox, 0).unwrap();
        drop(inbox.drain());

        assert_eq!(poll(&ready), [[]]);
        ready.push(&inbox, 1).unwrap();
        assert_eq!(poll(&ready), [[1]]);
    }

    #[test]
    fn an_inbox_taken_and_not_drained_keeps_its_mail() {
        let (ready, inbox) = (Ready::new(), Inbox::new(()));
        ready.push(&inbox, 0).unwrap();
        drop(ready.take());
        ready.push(&inbox, 1).unwrap();

        assert!(ready.idle(), "it is not listed again");
        assert_eq!(inbox.drain().collect::<Vec<_>>(), [0, 1]);
        ready.push(&inbox, 2).unwrap();
        assert_eq!(poll(&ready), [[2]]);
    }

    #[test]
    fn a_closed_inbox_gives_items_back() {
        let (ready, inbox) = (Ready::new(), Inbox::new(()));
        ready.push(&inbox, 0).unwrap();

        assert_eq!(inbox.close().collect::<Vec<_>>(), [0]);

        assert!(inbox.is_closed());
        assert_eq!(ready.push(&inbox, 1), Err(1));
        assert_eq!(inbox.close().count(), 0);
        assert_eq!(poll(&ready), [[]], "it was on the list");
        assert_eq!(ready.push(&inbox, 2), Err(2), "taking it does not open it");
    }

    #[test]
    fn only_an_empty_inbox_retires() {
        let (ready, inbox) = (Ready::new(), Inbox::new(()));
        ready.push(&inbox, 0).unwrap();
        assert!(!inbox.retire());
        assert!(!inbox.is_closed());

        assert_eq!(inbox.drain().count(), 1);

        assert!(inbox.retire(), "empty, though on the list");
        assert!(inbox.retire());
        assert_eq!(ready.push(&inbox, 1), Err(1));
        let fresh: Numbers = Inbox::new(());
        assert!(fresh.retire());
    }

    #[test]
    fn dropping_a_drain_drops_the_rest() {
        let (ready, inbox) = (Ready::new(), Inbox::new(()));
        let drops = push_counted(&ready, &inbox);

        let mut drain = inbox.drain();
        drop(drain.next());
        assert_eq!(drops.get(), 1);
        drop(drain);

        assert_eq!(drops.get(), 3);
    }

    #[test]
    fn dropping_list_and_inbox_drops_the_items() {
        let (ready, inbox) = (Ready::new(), Inbox::new(()));
        let drops = push_counted(&ready, &inbox);

        drop(inbox);
        assert_eq!(drops.get(), 0, "the list holds the inbox");
        drop(ready);

        assert_eq!(drops.get(), 3);
    }

    #[test]
    fn dropping_what_was_taken_releases_the_inboxes() {
        let (ready, a, b) = (Ready::new(), Inbox::new(()), Inbox::new(()));
        let drops = (push_counted(&ready, &a), push_counted(&ready, &b));

        let mut taken = ready.take();
        assert!(taken.next().is_some_and(|first| Arc::ptr_eq(&first, &a)));
        drop(taken);

        assert_eq!((Arc::strong_count(&a), Arc::strong_count(&b)), (1, 1));
        drop((a, b));
        assert_eq!((drops.0.get(), drops.1.get()), (3, 3));
    }

    #[test]
    fn threads_lose_nothing_and_keep_their_order() {
        const PRODUCERS: usize = 4;
        const INBOXES: usize = 7;
        const EACH: usize = 250_000;
        let ready = Ready::new();
        let inboxes: [_; INBOXES] = std::array::from_fn(Inbox::new);
        let owner = thread::current();
        let mut next = [[0; INBOXES]; PRODUCERS];
        let mut left = PRODUCERS * EACH;
        let mut absorb = |inbox: &Inbox<(usize, usize), usize>| {
            for (producer, number) in inbox.drain() {
                let next = &mut next[producer][*inbox.group()];
                assert_eq!(number, *next);
                *next += 1;
                left -= 1;
            }
            left
        };

        thread::scope(|scope| {
            for producer in 0..PRODUCERS {
                let (ready, inboxes, owner) = (&ready, &inboxes, &owner);
                scope.spawn(move || {
                    for item in 0..EACH {
                        let (to, number) = (item % INBOXES, item / INBOXES);
                        if ready.push(&inboxes[to], (producer, number)).unwrap() {
                            owner.unpark();
                        }
                    }
                });
            }
            loop {
                for inbox in ready.take() {
                    absorb(&inbox);
                }
                // A control call to one of them, whether it has mail or not.
                if absorb(&inboxes[0]) == 0 {
                    break;
                }
                if ready.idle() {
                    thread::park();
                }
            }
        });

        assert!(ready.take().all(|inbox| inbox.drain().count() == 0));
    }
}

//! The ids of one group: who is there, and who was there a moment ago (rule A2).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::ids::MessageId;
use crate::{Seq, Time};

/// Explicit ids of a group's messages. Exists only in groups that use them.
#[derive(Default)]
pub(crate) struct Ids {
    known: HashMap<Box<str>, Known>,
    /// Ended ids that still refuse, in the order of their acceptance.
    ended: BTreeMap<Seq, Box<str>>,
}

struct Known {
    seq: Seq,
    accepted: Time,
    /// Waits, runs or retries: always a duplicate.
    live: bool,
    /// Where its message is, once the owner has met it.
    place: Option<MessageId>,
}

impl Ids {
    pub(crate) fn is_duplicate(&self, id: &str, now: Time, dedup: Duration) -> bool {
        self.known
            .get(id)
            .is_some_and(|known| known.live || now <= known.accepted.after(dedup))
    }

    pub(crate) fn accept(&mut self, id: &str, seq: Seq, now: Time) {
        let known = Known {
            seq,
            accepted: now,
            live: true,
            place: None,
        };
        if let Some(before) = self.known.insert(id.into(), known) {
            self.ended.remove(&before.seq);
        }
    }

    /// The owner has met the message with this id.
    pub(crate) fn place(&mut self, id: &str, seq: Seq, place: MessageId) {
        if let Some(known) = self.known.get_mut(id).filter(|known| known.seq == seq) {
            known.place = Some(place);
        }
    }

    /// Where the message with this id is.
    pub(crate) fn find(&self, id: &str) -> Option<MessageId> {
        self.known.get(id).filter(|known| known.live)?.place
    }

    /// Takes back an acceptance that came to nothing.
    pub(crate) fn forget(&mut self, id: &str) {
        self.known.remove(id);
    }

    /// The message with this id has ended. Returns how many ids a full filter had to forget.
    pub(crate) fn end(
        &mut self,
        id: &str,
        seq: Seq,
        free: bool,
        now: Time,
        dedup: Duration,
        limit: u32,
    ) -> u64 {
        self.purge(now, dedup);
        let Some(known) = self.known.get_mut(id).filter(|known| known.seq == seq) else {
            return 0;
        };
        if free || dedup.is_zero() || now > known.accepted.after(dedup) {
            self.known.remove(id);
            return 0;
        }
        known.live = false;
        self.ended.insert(known.seq, id.into());
        if self.ended.len() <= limit as usize {
            return 0;
        }
        if let Some((_, oldest)) = self.ended.pop_first() {
            self.known.remove(&oldest);
        }
        1
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Forgets what no longer refuses; true when nothing is left.
    pub(crate) fn purge(&mut self, now: Time, dedup: Duration) -> bool {
        while let Some(oldest) = self.ended.first_entry() {
            let expired = self
                .known
                .get(oldest.get())
                .is_none_or(|known| now > known.accepted.after(dedup));
            if !expired {
                break;
            }
            self.known.remove(&oldest.remove());
        }
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_micros(10);

    fn at(micros: u64) -> Time {
        Time::from_micros(micros)
    }

    #[test]
    fn an_id_exactly_as_old_as_its_limit_still_refuses() {
        let mut ids = Ids::default();
        ids.accept("a", Seq(0), at(5));
        ids.end("a", Seq(0), false, at(7), WINDOW, 10);

        assert!(ids.is_duplicate("a", at(15), WINDOW));
        assert!(!ids.is_duplicate("a", at(16), WINDOW));
    }

    #[test]
    fn a_failed_message_may_come_again_at_once() {
        let mut ids = Ids::default();
        ids.accept("a", Seq(0), at(5));
        ids.end("a", Seq(0), true, at(6), WINDOW, 10);

        assert!(!ids.is_duplicate("a", at(6), WINDOW));
    }

    #[test]
    fn a_full_filter_forgets_the_oldest_and_counts_it() {
        let mut ids = Ids::default();
        for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
            ids.accept(id, Seq(n as u64), at(n as u64));
        }
        let forgotten: u64 = [("c", Seq(2)), ("a", Seq(0)), ("b", Seq(1))]
            .map(|(id, seq)| ids.end(id, seq, false, at(4), WINDOW, 2))
            .iter()
            .sum();

        assert_eq!(forgotten, 1);
        assert!(!ids.is_duplicate("a", at(4), WINDOW));
        assert!(ids.is_duplicate("b", at(4), WINDOW) && ids.is_duplicate("c", at(4), WINDOW));
    }

    #[test]
    fn an_expired_filter_is_empty() {
        let mut ids = Ids::default();
        ids.accept("a", Seq(0), at(5));
        assert!(!ids.purge(at(100), WINDOW), "what is live does not expire");
        ids.end("a", Seq(0), false, at(6), WINDOW, 10);

        assert!(!ids.purge(at(15), WINDOW));
        assert!(ids.purge(at(16), WINDOW));
    }
}

//! A running call takes what waits in its lane (rule B1).

use crate::batch::BatchMessage;
use crate::engine::{Engine, Outbox};
use crate::ids::{LaneId, MessageId};
use crate::lease::{LeaseId, LeaseLost};
use crate::message::Flag;
use crate::order::HeldUp;
use crate::settings::OnBusy;
use crate::{Seq, Time};

impl<P> Engine<P> {
    /// What a call could take now, oldest first.
    pub fn inbox(
        &mut self,
        now: Time,
        id: LeaseId,
        out: &mut Outbox<P>,
    ) -> Result<Vec<Seq>, LeaseLost> {
        self.inbox_with(now, id, usize::MAX, |message| message.seq, out)
    }

    /// The first of them, at most `most`, as the caller wants to see them.
    pub fn inbox_with<T>(
        &mut self,
        now: Time,
        id: LeaseId,
        most: usize,
        each: impl FnMut(BatchMessage<'_, P>) -> T,
        out: &mut Outbox<P>,
    ) -> Result<Vec<T>, LeaseLost> {
        self.catch_up_before(now, out);
        let offered = self.offered(id, most)?.into_iter();
        let offered = offered.map(|id| BatchMessage::of(&self.messages, &self.senders, id));
        Ok(offered.map(each).collect())
    }

    /// Takes from the front of that, at most `most` and as many as a call is given at a time: they are
    /// part of its batch from now on, behind what it had. Returns how many.
    pub fn take(
        &mut self,
        now: Time,
        id: LeaseId,
        most: Option<u32>,
        out: &mut Outbox<P>,
    ) -> Result<usize, LeaseLost> {
        self.catch_up_before(now, out);
        let group = self.lease(id).ok_or(LeaseLost)?.group;
        let limit = self.groups[group].settings(&self.profile).inject_limit;
        let most = [most, limit].into_iter().flatten().min();
        let offered = self.offered(id, most.map_or(usize::MAX, |most| most as usize))?;
        let Some(lane) = self.leases[id.slot()].lane.filter(|_| !offered.is_empty()) else {
            return Ok(0);
        };
        let strategy = self.leases[id.slot()].strategy;
        let (mut tail, mut size) = self.tally(id.slot());
        let mut places = 0;
        for &message in &offered {
            self.take_out_of_window(lane, message);
            self.messages[message].unset(Flag::Opens);
            let (_, place) = self.set_running(message, strategy);
            places += place;
            self.messages[tail].next = Some(message);
            tail = message;
            size = size.plus(self.messages.size(message));
            let kind = self.messages[message].kind();
            let lease = &mut self.leases[id.slot()];
            lease.messages += 1;
            lease.kind = lease.kind.max(kind);
        }
        self.leases[id.slot()].asking.recount(tail, size);
        let activity = self.lanes[lane].activity;
        self.activities[activity].waiting -= places;
        self.release(group, places);
        self.metrics.injected += offered.len() as u64;
        self.review_lane(lane, HeldUp::No);
        self.touch(lane);
        Ok(offered.len())
    }

    /// What may be taken: the front of the lane, as far as it wants to be, in an unbroken run of the
    /// call's key.
    fn offered(&self, id: LeaseId, most: usize) -> Result<Vec<MessageId>, LeaseLost> {
        let lease = self.lease(id).ok_or(LeaseLost)?;
        let Some(lane) = lease.lane.filter(|&lane| self.lanes[lane].call.is_some()) else {
            return Ok(Vec::new());
        };
        if lease.is_ending() || lease.fallback || self.starts_are_held(lane) {
            return Ok(Vec::new());
        }
        let key = self.messages.newcomer(lease.first).batch_key;
        let group = lease.group;
        let waiting = self.messages.chain(self.lanes[lane].head());
        let offered = waiting.take_while(|&id| {
            let message = self.messages.newcomer(id);
            self.policy_of(group, id) == OnBusy::Inject
                && !message.standalone
                && message.batch_key == key
        });
        Ok(offered.take(most).collect())
    }

    /// Whether a pause keeps what waits from being handed over.
    fn starts_are_held(&self, lane: LaneId) -> bool {
        self.paused.is_some() || self.pauses.contains_key(&self.lanes[lane].group)
    }
}

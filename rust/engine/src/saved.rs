//! What a call saves (rules H4, H6): for the next call of the very same batch, and for the lane's next
//! call whatever that is about.

use std::sync::Arc;

use crate::Time;
use crate::deadlines::What;
use crate::engine::{Engine, Outbox};
use crate::ids::{GroupId, LaneId, SenderId};
use crate::lease::{Lease, LeaseId, LeaseLost};

/// What the calls of a batch have saved.
pub(crate) struct Saved<P> {
    /// What counts.
    kept: Option<Arc<P>>,
    /// What will count from the call's commit or success on.
    draft: Option<Arc<P>>,
    /// What this call has put out, with its saved state.
    emitted: Option<Arc<P>>,
}

impl<P> Default for Saved<P> {
    fn default() -> Self {
        Self {
            kept: None,
            draft: None,
            emitted: None,
        }
    }
}

impl<P> Saved<P> {
    /// As the call sees it.
    pub(crate) fn state(&self) -> Option<&P> {
        self.draft.as_deref().or(self.kept.as_deref())
    }

    pub(crate) fn commit(&mut self, out: &mut Outbox<P>) {
        if let Some(draft) = self.draft.take() {
            out.spent.extend(self.kept.replace(draft));
        }
    }

    /// For the next call of the same batch.
    pub(crate) fn again(&self) -> Self {
        Self {
            kept: self.kept.clone(),
            draft: None,
            emitted: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.kept.is_none() && self.emitted.is_none()
    }

    /// Nobody will ask for it any more.
    pub(crate) fn forget(self, out: &mut Outbox<P>) {
        let all = [self.kept, self.draft, self.emitted];
        out.spent.extend(all.into_iter().flatten());
    }
}

/// A lane's last call that did not complete.
pub(crate) struct Previous<P> {
    status: &'static str,
    saved: Saved<P>,
    /// The last instant at which it is remembered.
    until: Time,
}

/// A lane, also while nothing of it is there: its sender, and whether it is that of background
/// messages.
pub(crate) type LaneKey = (SenderId, bool);

/// What [`Engine::previous`] tells.
#[derive(Debug)]
pub struct Unfinished<'a, P> {
    /// How it ended, in a word.
    pub status: &'static str,
    /// What it saved.
    pub saved: Option<&'a P>,
    /// What it put out.
    pub emitted: Option<&'a P>,
}

impl<P> Engine<P> {
    /// Keeps what a call wants to be found by the next one (rule H4). Hands back what it replaces.
    pub fn save(&mut self, id: LeaseId, state: P, out: &mut Outbox<P>) -> Result<(), LeaseLost> {
        let lease = self.running_call(id)?;
        let place = if lease.transaction && !lease.committed {
            &mut lease.saved.draft
        } else {
            &mut lease.saved.kept
        };
        out.spent.extend(place.replace(Arc::new(state)));
        Ok(())
    }

    /// Keeps what stands for all that a call puts out, for those who ask for its lane's last
    /// unfinished call.
    pub fn keep_emitted(
        &mut self,
        id: LeaseId,
        all: P,
        out: &mut Outbox<P>,
    ) -> Result<(), LeaseLost> {
        let lease = self.running_call(id)?;
        out.spent.extend(lease.saved.emitted.replace(Arc::new(all)));
        Ok(())
    }

    /// The last call of its lane that did not complete, while it is remembered (rule H4).
    pub fn previous(&self, id: LeaseId) -> Option<Unfinished<'_, P>> {
        let key = self.lane_key(self.lease(id)?.lane?);
        let previous = self.previous.get(&key)?;
        let previous = Some(previous).filter(|it| it.until >= self.now)?;
        Some(Unfinished {
            status: previous.status,
            saved: previous.saved.kept.as_deref(),
            emitted: previous.saved.emitted.as_deref(),
        })
    }

    fn running_call(&mut self, id: LeaseId) -> Result<&mut Lease<P>, LeaseLost> {
        self.lease(id).ok_or(LeaseLost)?;
        Ok(&mut self.leases[id.slot()])
    }

    fn lane_key(&self, lane: LaneId) -> LaneKey {
        (self.lanes[lane].sender, self.lanes[lane].background)
    }

    /// A call has ended without completing: the lane's next finds it. A transaction that has not been
    /// committed leaves no trace (rule H6).
    pub(crate) fn remember(
        &mut self,
        lane: LaneId,
        lease: &mut Lease<P>,
        status: &'static str,
        out: &mut Outbox<P>,
    ) {
        if lease.transaction && !lease.committed {
            let draft = [lease.saved.draft.take(), lease.saved.emitted.take()];
            out.spent.extend(draft.into_iter().flatten());
            return;
        }
        let settings = self.groups[lease.group].settings(&self.profile);
        let until = self.now.after(settings.saved_ttl);
        let saved = Saved {
            kept: lease.saved.kept.clone(),
            draft: None,
            emitted: lease.saved.emitted.take(),
        };
        let key = self.lane_key(lane);
        let previous = Previous {
            status,
            saved,
            until,
        };
        let group = lease.group;
        let kept = !previous.saved.is_empty();
        self.count_saved(group, &previous, true);
        if let Some(before) = self.previous.insert(key, previous) {
            self.count_saved(group, &before, false);
            before.saved.forget(out);
        }
        if until != Time::NEVER && kept {
            self.remind(lease.group, until.just_after(), What::Saved, None);
        }
    }

    /// A call of the lane has completed.
    pub(crate) fn forget_previous(&mut self, lane: LaneId, out: &mut Outbox<P>) {
        if self.previous.is_empty() {
            return;
        }
        let key = self.lane_key(lane);
        if let Some(previous) = self.previous.remove(&key) {
            self.count_saved(self.lanes[lane].group, &previous, false);
            previous.saved.forget(out);
        }
    }

    fn count_saved(&mut self, group: GroupId, of: &Previous<P>, there: bool) {
        if of.saved.is_empty() {
            return;
        }
        let saved = &mut self.later(group).saved;
        if there {
            *saved += 1;
        } else {
            *saved -= 1;
        }
    }

    /// A sender is remembered no longer.
    pub(crate) fn forget_saved_of(&mut self, sender: SenderId) {
        for background in [true, false] {
            self.previous.remove(&(sender, background));
        }
    }

    /// What was kept long enough in a group.
    pub(crate) fn expire_saved(&mut self, group: GroupId, at: Time, out: &mut Outbox<P>) {
        let Self {
            previous, senders, ..
        } = self;
        let over = previous
            .extract_if(|&(sender, _), kept| senders[sender].group == group && kept.until < at);
        let over: Vec<_> = over.collect();
        for (_, previous) in over {
            self.count_saved(group, &previous, false);
            previous.saved.forget(out);
        }
    }

    /// Whether saved state is kept for a lane of a sender.
    pub(crate) fn has_saved(&self, sender: SenderId) -> bool {
        let kept = |background| self.previous.get(&(sender, background));
        !self.previous.is_empty()
            && [true, false]
                .into_iter()
                .filter_map(kept)
                .any(|it| !it.saved.is_empty())
    }
}

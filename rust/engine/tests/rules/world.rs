//! An engine whose messages are words, in seconds of test time.

use std::time::Duration;

use chinwag_engine::{
    Accepted, End, Engine, LeaseId, LeaseLost, Ledger, Options, Outbox, Outcome, Profile, Refusal,
    Time,
};

pub(crate) type Payload = &'static str;

pub(crate) struct World {
    pub(crate) engine: Engine<Payload>,
    pub(crate) out: Outbox<Payload>,
}

/// A started call, as a test looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) lease: LeaseId,
    pub(crate) words: Vec<Payload>,
    pub(crate) kind: &'static str,
    pub(crate) closed_by: &'static str,
}

pub(crate) fn at(seconds: f64) -> Time {
    Time::from_micros((1e9 + seconds * 1e6).round() as u64)
}

pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

impl World {
    pub(crate) fn new(settings: impl Into<Profile>) -> Self {
        Self {
            engine: Engine::new(settings),
            out: Outbox::default(),
        }
    }

    pub(crate) fn push(&mut self, now: f64, sender: &str, word: Payload) -> Accepted {
        self.push_with(now, "room", sender, word, Options::default())
            .expect("accepted")
    }

    pub(crate) fn push_to(&mut self, now: f64, group: &str, word: Payload) -> Accepted {
        self.push_with(now, group, "ann", word, Options::default())
            .expect("accepted")
    }

    pub(crate) fn push_with(
        &mut self,
        now: f64,
        group: &str,
        sender: &str,
        word: Payload,
        options: Options,
    ) -> Result<Accepted, (Refusal, u64)> {
        let pushed = self
            .engine
            .intake()
            .push(at(now), group, sender, word, options);
        pushed.map_err(|refused| (refused.reason, refused.depth))
    }

    /// What starts by `now`.
    pub(crate) fn poll(&mut self, now: f64) -> Vec<Call> {
        self.engine.poll(at(now), &mut self.out);
        let leases: Vec<_> = self.out.started.drain(..).collect();
        self.engine
            .audit(at(now), &mut Outbox::default())
            .expect("sound");
        leases.into_iter().map(|lease| self.call(lease)).collect()
    }

    /// The words of what starts by `now`.
    pub(crate) fn starts(&mut self, now: f64) -> Vec<Vec<Payload>> {
        self.poll(now).into_iter().map(|call| call.words).collect()
    }

    pub(crate) fn done(&mut self, now: f64, call: &Call) -> Result<(), LeaseLost> {
        self.engine
            .settle(at(now), call.lease, Outcome::Done, &mut self.out)
    }

    pub(crate) fn failed(&mut self, now: f64, call: &Call) -> Result<(), LeaseLost> {
        self.engine.settle(
            at(now),
            call.lease,
            Outcome::Failed {
                reason: "error",
                retry: true,
                error: None,
            },
            &mut self.out,
        )
    }

    pub(crate) fn ends(&mut self) -> Vec<(Payload, End)> {
        self.out
            .ended
            .drain(..)
            .map(|ended| (ended.payload, ended.end))
            .collect()
    }

    pub(crate) fn ledger(&mut self, now: f64) -> Ledger {
        self.engine.check(at(now), &mut self.out).expect("balanced")
    }

    /// Seconds of test time until the next timer.
    pub(crate) fn wake_at(&self) -> Option<f64> {
        let at = self.engine.wake_at();
        (at != Time::NEVER).then(|| (at.as_micros() as f64 - 1e9) / 1e6)
    }

    fn call(&self, lease: LeaseId) -> Call {
        let batch = self.engine.batch(lease).expect("it has just started");
        Call {
            lease,
            words: batch.messages().map(|message| *message.payload).collect(),
            kind: batch.kind().name(),
            closed_by: batch.closed_by().name(),
        }
    }
}

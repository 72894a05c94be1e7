//! Whatever is called in whatever order, all that the engine keeps agrees after each step.
//!
//! The simulation knows what has to come out, of most of this; here nothing is left out, and only the
//! engine looks at itself. `FUZZ=60000 cargo test -p chinwag-engine --release --test rules audit` draws
//! that many worlds instead of a few.

use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::Duration;

use chinwag_engine::{
    Attempt, Band, Batch, Failure, FairBy, Interrupted, Jitter, Keep, Lanes, LeaseId, OnBusy,
    Options, Outcome, Overflow, Points, Profile, Rate, Refusal, Settings, Size, SizeBy, Strategy,
    Ticket, Time,
};

use crate::world::{World, at, seconds};

#[test]
fn everything_agrees_after_each_step() {
    let worlds = std::env::var("FUZZ").map_or(8_000, |text| text.parse().expect("a number"));
    for seed in 1..=worlds {
        let run = catch_unwind(|| Run::new(seed).through(120));
        assert!(run.is_ok(), "world {seed}: see above");
    }
}

const GROUPS: [&str; 4] = ["room", "room", "room", "hall"];
const SENDERS: [&str; 4] = ["ann", "bob", "cat", "dan"];

struct Run {
    dice: Dice,
    world: World,
    lanes: Lanes,
    now: f64,
    calls: Vec<LeaseId>,
    tickets: Vec<(Ticket, &'static str)>,
    /// Given to the messages so far.
    names: u64,
    /// Something was put off for ever.
    endless: bool,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let lanes = dice.pick(&[Lanes::Sender, Lanes::Group, Lanes::Message]);
        let mut world = World::new(dice.profile(lanes));
        world.engine.observe(dice.one_in(2));
        Self {
            dice,
            world,
            lanes,
            now: 0.0,
            calls: Vec::new(),
            tickets: Vec::new(),
            names: 0,
            endless: false,
        }
    }

    fn through(mut self, steps: u32) {
        for _ in 0..steps {
            if self.dice.one_in(3) {
                self.now += self.dice.below(5) as f64 / 2.0;
            }
            let what = self.step();
            self.audit(what);
        }
        self.run_dry();
    }

    fn audit(&mut self, after: &str) {
        let (now, World { engine, out }) = (at(self.now), &mut self.world);
        let audited = engine.audit(now, out);
        audited.unwrap_or_else(|imbalance| panic!("after {after}: {imbalance}"));
    }

    /// Does something, and says what.
    fn step(&mut self) -> &'static str {
        let dice = &mut self.dice;
        let (group, sender) = (dice.pick(&GROUPS), dice.pick(&SENDERS));
        let one = dice.one_in(2).then_some(group);
        let (now, World { engine, out }) = (at(self.now), &mut self.world);
        match dice.below(50) {
            0..15 => self.push(group, sender),
            15..20 => self.settle(),
            20 => {
                let theirs = (!dice.one_in(3)).then_some(sender);
                engine.stop(now, group, theirs, out);
                "stop"
            }
            21 => {
                engine.clear(now, one, out);
                "clear"
            }
            22 => {
                let theirs = dice.one_in(2).then_some(sender);
                engine.flush(now, group, theirs, out);
                "flush"
            }
            23 => {
                let name = dice.below(self.names + 1).to_string();
                engine.withdraw(now, group, &name, out);
                "withdraw"
            }
            24 => {
                let name = dice.below(self.names + 1).to_string();
                let edited = engine.edit(now, group, &name, "edited", dice.one_in(2), out);
                assert!(edited.is_ok() || edited == Err("edited"));
                "edit"
            }
            25 => {
                let span = dice.one_in(2).then(|| seconds(1.0));
                engine.pause(now, one, span, out);
                "pause"
            }
            26 => {
                engine.resume(now, one, out);
                "resume"
            }
            27 => {
                engine.typing(now, group, sender, dice.one_in(2), out);
                "typing"
            }
            28 => {
                let profile = dice.profile(self.lanes);
                engine
                    .configure(now, group, profile, out)
                    .expect("its lanes are as before");
                "configure"
            }
            29 => {
                engine.set_members(now, group, dice.below(6) as u32, out);
                "set_members"
            }
            30 => {
                let weight = Points::from_f64(dice.pick(&[-1.0, 0.0, 2.0]));
                engine.set_sender(now, group, sender, weight, out);
                "set_sender"
            }
            31 => {
                engine.explain(now, group, out);
                engine.status(now, group, out);
                engine.groups(now, out);
                "looks"
            }
            32 => {
                self.tickets.push((engine.queue_up(now, group, out), group));
                "queue_up"
            }
            33 => self.use_ticket(sender),
            34 if dice.one_in(2) => self.abandon_call(),
            35 if dice.one_in(12) => {
                engine.abandon(now, out);
                "abandon"
            }
            36 if dice.one_in(12) => {
                engine.close(now, out);
                "close"
            }
            37 => {
                engine.disable(now, group, out);
                "disable"
            }
            38 => {
                engine.enable(now, group, out);
                "enable"
            }
            39..44 => self.say_in_a_call(),
            _ => self.poll(),
        }
    }

    /// A call uses its context.
    fn say_in_a_call(&mut self) -> &'static str {
        let calls = self.calls.len() as u64;
        if calls == 0 {
            return "nothing runs";
        }
        let call = self.calls[self.dice.below(calls) as usize];
        let dice = &mut self.dice;
        let (now, World { engine, out }) = (at(self.now), &mut self.world);
        // Any of them may be lost, or about to end.
        match dice.below(7) {
            0 => {
                engine.commit(now, call, out).ok();
                "commit"
            }
            1 => {
                engine.shield(now, call, true, out).ok();
                "shield"
            }
            2 => {
                engine.shield(now, call, false, out).ok();
                "end of a shield"
            }
            3 => {
                engine.save(call, "state", out).ok();
                "save"
            }
            4 => {
                engine.superseded(now, call, out).ok();
                "superseded"
            }
            _ => {
                let offered = engine.inbox(now, call, out).map(|offered| offered.len());
                let taken = engine.take(now, call, dice.one_in(2).then_some(2), out);
                assert_eq!(taken.is_ok(), offered.is_ok());
                assert!(taken.ok() <= offered.ok(), "more than was offered");
                "take"
            }
        }
    }

    fn poll(&mut self) -> &'static str {
        let (now, World { engine, out }) = (at(self.now), &mut self.world);
        engine.poll(now, out);
        self.calls.append(&mut out.started);
        "poll"
    }

    fn push(&mut self, group: &str, sender: &str) -> &'static str {
        let options = self.options();
        let pushed = self
            .world
            .push_with(self.now, group, sender, "word", options.clone());
        let pushed = match pushed {
            Err((Refusal::Busy, _)) => {
                let (now, World { engine, out }) = (at(self.now), &mut self.world);
                let asked = engine.push(now, Attempt::Last, group, sender, "word", options, out);
                asked.map_err(|refused| (refused.reason, refused.depth))
            }
            pushed => pushed,
        };
        if pushed.is_ok_and(|accepted| accepted.crowded) {
            let (now, World { engine, out }) = (at(self.now), &mut self.world);
            engine.make_room(now, out);
        }
        "push"
    }

    fn options(&mut self) -> Options {
        self.names += 1;
        let (dice, name) = (&mut self.dice, self.names);
        let (context, bypass) = (dice.one_in(6), dice.one_in(20));
        let background = !context && !bypass && dice.one_in(6);
        let own = dice.pick(&POLICIES);
        let calls = self.calls.len() as u64;
        let inside = dice.one_in(6) && calls > 0;
        let inside = inside.then(|| self.calls[dice.below(calls) as usize]);
        Options {
            id: dice.one_in(4).then(|| name.to_string().into()),
            at: dice.one_in(6).then(|| Time::from_micros(dice.below(9))),
            size: Size::from_f64(dice.pick(&[1.0, 1.0, 0.5, 2.5])).expect("above 0"),
            batch_key: dice.one_in(5).then(|| "k".into()),
            quiet: dice.one_in(8).then(|| seconds(dice.below(4) as f64)),
            rank: Points::from_f64(dice.pick(&[0.0, 0.0, 1.0])),
            ttl: dice.one_in(6).then(|| seconds(dice.below(4) as f64)),
            delay: (!context && !bypass && dice.one_in(5)).then(|| seconds(dice.below(4) as f64)),
            flush: dice.one_in(10),
            standalone: dice.one_in(10),
            real_time: dice.one_in(10),
            context,
            bypass,
            background,
            on_busy: (!context && !bypass && dice.one_in(5)).then_some(own),
            inside,
        }
    }

    /// A call ends, well or not.
    fn settle(&mut self) -> &'static str {
        let Some(call) = self.some_call() else {
            return "nothing runs";
        };
        let (dice, World { engine, out }) = (&mut self.dice, &mut self.world);
        let batch = engine.batch(call);
        let messages = batch.iter().flat_map(Batch::messages);
        let failed = messages.filter(|_| dice.one_in(3));
        let error = self.names.is_multiple_of(2).then_some("error");
        let failures = failed.map(|it| Failure { seq: it.seq, error }).collect();
        let outcome = match dice.below(10) {
            8 | 9 => Outcome::Cancelled { error: None },
            0 | 1 => Outcome::Done,
            2 if dice.one_in(4) => {
                self.endless = true;
                Outcome::Snoozed(Duration::MAX)
            }
            2 => Outcome::Snoozed(seconds(dice.below(3) as f64)),
            _ => Outcome::Failed {
                reason: "error",
                retry: !dice.one_in(5),
                error: None,
            },
        };
        if dice.one_in(4) {
            engine.commit(at(self.now), call, out).ok(); // it may be about to end
        }
        engine
            .settle_with(at(self.now), call, outcome, failures, out)
            .ok(); // it may be lost
        "settle"
    }

    fn abandon_call(&mut self) -> &'static str {
        if let Some(call) = self.some_call() {
            let (now, World { engine, out }) = (at(self.now), &mut self.world);
            engine.abandon_call(now, call, out).ok();
        }
        "abandon_call"
    }

    fn some_call(&mut self) -> Option<LeaseId> {
        let calls = self.calls.len() as u64;
        let place = (calls > 0).then(|| self.dice.below(calls))?;
        Some(self.calls.swap_remove(place as usize))
    }

    fn use_ticket(&mut self, sender: &str) -> &'static str {
        let options = self.options();
        let admitted = self.world.engine.take_admitted();
        let Some((ticket, group)) = self.tickets.pop() else {
            return "nobody waits";
        };
        if admitted.contains(&ticket) && !self.dice.one_in(4) {
            let engine = &mut self.world.engine;
            let pushed = engine.push_with(at(self.now), ticket, group, sender, "word", options);
            drop(pushed);
        } else {
            self.world.engine.leave_line(ticket);
        }
        "use_ticket"
    }

    /// All calls are done from now on, and nothing is held back: nothing stays, but what was put off for
    /// ever and what waits for a call to listen.
    fn run_dry(&mut self) {
        for (ticket, _) in std::mem::take(&mut self.tickets) {
            self.world.engine.leave_line(ticket);
        }
        for group in [None, Some("room"), Some("hall")] {
            let (now, World { engine, out }) = (at(self.now), &mut self.world);
            engine.resume(now, group, out);
            if let Some(group) = group {
                engine.enable(now, group, out);
            }
        }
        for _ in 0..1_000 {
            self.poll();
            let (now, World { engine, out }) = (at(self.now), &mut self.world);
            let calls = std::mem::take(&mut self.calls);
            for &call in &calls {
                engine.settle(now, call, Outcome::Done, out).ok(); // some are lost
            }
            self.audit("a call");
            match self.world.wake_at() {
                None if calls.is_empty() => break,
                Some(then) if calls.is_empty() => self.now = self.now.max(then),
                _ => {} // others have got their turn
            }
        }
        let (now, World { engine, out }) = (at(self.now), &mut self.world);
        assert!(self.endless || engine.idle(now, out), "something stays");
        engine.abandon(now, out);
        let left = engine.check(now, out).expect("balanced");
        assert_eq!((left.waiting, left.running, left.retrying), (0, 0, 0));
    }
}

/// A small generator of even numbers (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Settings of a group, other ones from a size on.
    fn profile(&mut self, lanes: Lanes) -> Profile {
        let settings = self.settings(lanes);
        let mut bands = Vec::new();
        for from in [1, 2, 3] {
            if self.one_in(3) {
                bands.push(Band {
                    from,
                    strategy: self.pick(&Strategy::ALL),
                    settings: Arc::new(self.settings(lanes)),
                });
            }
        }
        Profile {
            settings: Arc::new(settings),
            strategy: self.pick(&Strategy::ALL),
            bands,
        }
    }

    fn settings(&mut self, lanes: Lanes) -> Settings {
        let min_batch = self.pick(&[1, 1, 2]);
        let keep = self.pick(&[Keep::All, Keep::All, Keep::All, Keep::Latest]);
        let rate = Rate::new(1.0, 1.0);
        Settings {
            lanes,
            back_to_back: seconds(self.pick(&[0.0, 2.0])),
            quiet: seconds(self.pick(&[0.0, 0.0, 1.0, 3.0])),
            max_wait: seconds(self.pick(&[2.0, 10.0])),
            max_batch: self.pick(&[None, Size::from_f64(2.0), Size::from_f64(3.0)]),
            min_batch,
            max_gap: self.pick(&[None, None, Some(seconds(1.0))]),
            keep: if lanes == Lanes::Message {
                Keep::All
            } else {
                keep
            },
            quiet_when_idle: self.one_in(2),
            quiet_when_busy: self.one_in(2),
            typing_expires: seconds(3.0),
            max_concurrent_per_group: self.pick(&[1, 2, 3]),
            rate_per_group: self.pick(&[None, None, rate]),
            capacity_per_group: self.pick(&[None, Some(1), Some(2), Some(5)]),
            overflow: self.pick(&[
                Overflow::Refuse,
                Overflow::DropNewest,
                Overflow::DropOldest,
                Overflow::DropOldest,
            ]),
            dedup: seconds(self.pick(&[0.0, 3.0])),
            dedup_limit: 3,
            ttl: self.pick(&[None, None, Some(seconds(4.0))]),
            context_limit: self.pick(&[0, 1, 3, 50]),
            context_ttl: seconds(self.pick(&[3.0, 600.0])),
            max_attempts: self.pick(&[1, 2, 3]),
            backoff: seconds(self.pick(&[0.0, 1.0, 2.0])),
            jitter: self.pick(&[Jitter::None, Jitter::Full]),
            retry_committed: self.one_in(4),
            split_failed: self.one_in(2),
            handler_timeout: self.pick(&[None, Some(seconds(2.0))]),
            cancel_grace: seconds(1.0),
            max_concurrent: self.pick(&[None, Some(2)]),
            rate: self.pick(&[None, None, None, rate]),
            capacity: self.pick(&[None, None, Some(8)]),
            max_bypass: 2,
            fair_by: self.pick(&[FairBy::Calls, FairBy::Time]),
            size_by: self.pick(&[SizeBy::Active, SizeBy::Active, SizeBy::Members]),
            size_window: seconds(self.pick(&[2.0, 60.0])),
            idle_group: seconds(5.0),
            on_busy: self.pick(&POLICIES),
            interrupted: self.pick(&[
                Interrupted::Merge,
                Interrupted::Resume,
                Interrupted::Abandon,
            ]),
            interrupt_within: self.pick(&[None, None, Some(seconds(1.0))]),
            max_interrupts: self.pick(&[8, 8, 1, 0]),
            preempt_margin: self.pick(&[None, Some(Points::from_f64(0.5))]),
            inject_limit: self.pick(&[None, Some(1)]),
            saved_ttl: seconds(self.pick(&[600.0, 2.0])),
            ..Settings::default()
        }
    }
}

const POLICIES: [OnBusy; 5] = [
    OnBusy::Enqueue,
    OnBusy::Inject,
    OnBusy::Interrupt,
    OnBusy::Rollback,
    OnBusy::Reject,
];

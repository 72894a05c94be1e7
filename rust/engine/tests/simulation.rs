//! Small worlds in virtual time: every step of the engine is compared with the rules (`model`) and
//! with what the promises say about what was seen.
//!
//! `CHINWAG_SIM_OPS` sets how many steps are made, `CHINWAG_SIM_SEED` runs the world of one seed
//! alone. What fails is cut down to a short script, printed as the code of a test.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use chinwag_engine::{
    End, Engine, Event, Intake, Kind, Lanes, LeaseId, MessageName, Options, Outbox, Outcome,
    Points, Profile, Settings, Size, Strategy, Time,
};
use model::script::{Ending, Op, Push, Step, World, as_code, at, plainer, push, us};
use model::{Call, Flaw, Gone, Micros, Model, NEVER, micros};

#[test]
fn engine_follows_the_rules() {
    let seed = variable("CHINWAG_SIM_SEED");
    let most = if seed.is_some() {
        1
    } else {
        variable("CHINWAG_SIM_OPS").unwrap_or(1_000_000)
    };
    let mut seed = seed.unwrap_or(1);
    let mut done = 0;
    while done < most {
        match simulate(seed, None) {
            Ok(steps) => done += steps,
            Err(failure) => panic!("{failure}"),
        }
        seed += 1;
    }
}

#[test]
fn same_calls_give_the_same_answers() {
    for seed in 0..200 {
        let (world, steps, _) = draw(seed, None);

        assert_eq!(trace(&world, &steps), trace(&world, &steps), "seed {seed}");
    }
}

/// A check that cannot fail checks nothing: each mistake in the model must be noticed, and the script
/// that is left must be short enough to be understood.
#[test]
fn planted_mistakes_are_found_and_cut_down() {
    for (flaw, most) in [
        (Flaw::LateMessageExtends, 4),
        (Flaw::IgnoresMaxWait, 3),
        (Flaw::Overlaps, 4),
        (Flaw::IdleEarns, 12),
        (Flaw::CountsWhatRuns, 4),
        (Flaw::LimitsExclude, 5),
    ] {
        let failure = (0..5_000).find_map(|seed| simulate(seed, Some(flaw)).err());
        let failure = failure.unwrap_or_else(|| panic!("{flaw:?} was not noticed"));
        let steps = failure
            .lines()
            .filter(|line| line.trim_start().starts_with("at("))
            .count();
        assert!(steps <= most, "{flaw:?} took {steps} steps:\n{failure}");
    }
}

/// Draws the world of a seed and lives in it. How many steps it took, or a report.
fn simulate(seed: u64, flaw: Option<Flaw>) -> Result<u64, String> {
    let (world, steps, result) = draw(seed, flaw);
    let Err(first) = result else {
        return Ok(steps.len() as u64);
    };

    let (world, steps) = cut_down(world, steps, flaw);
    let left = run(&world, &steps, flaw).err().unwrap_or(first);
    Err(format!(
        "seed {seed}: {left}\n\nagain: CHINWAG_SIM_SEED={seed} cargo test -p chinwag-engine \
         --test simulation engine_follows_the_rules\n\n{}",
        as_code(&world, &steps)
    ))
}

/// Makes the steps, then brings the world to rest.
fn run(world: &World, steps: &[Step], flaw: Option<Flaw>) -> Result<(), String> {
    guarded(|| {
        let mut simulation = Simulation::new(world, flaw);
        for step in steps {
            simulation
                .step(step)
                .map_err(|what| format!("{step}: {what}"))?;
        }
        simulation.rest()
    })
}

/// What a run says to the outside.
fn trace(world: &World, steps: &[Step]) -> String {
    let mut simulation = Simulation::new(world, None);
    for step in steps {
        simulation.step(step).unwrap();
    }
    simulation.rest().unwrap();
    format!(
        "{:?} {:?}",
        simulation.seen.log,
        simulation.engine.metrics()
    )
}

/// A panic of the engine is a failure like others.
fn guarded(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("?")))
    })
}

/// The engine, the model and what was seen, side by side.
struct Simulation {
    world: World,
    engine: Engine<u64>,
    intake: Arc<Intake<u64>>,
    model: Model,
    out: Outbox<u64>,
    /// The latest time of a step, and that of the last one.
    now: Micros,
    at: Micros,
    next_label: u64,
    /// Running calls, oldest first, with the model's number for each.
    running: Vec<(LeaseId, u64)>,
    ended: Vec<LeaseId>,
    /// The owner sleeps: the next push must wake it. Not known after other calls than polls.
    sleeps: Option<bool>,
    seen: Seen,
}

impl Simulation {
    fn new(world: &World, flaw: Option<Flaw>) -> Self {
        let mut engine = Engine::new(Profile::always(
            world.settings.clone(),
            Strategy::RoundRobin,
        ));
        engine.observe(true);
        Self {
            intake: engine.intake(),
            engine,
            model: Model::new(world.settings.clone(), flaw),
            world: world.clone(),
            out: Outbox::default(),
            now: 0,
            at: 0,
            next_label: 0,
            running: Vec::new(),
            ended: Vec::new(),
            sleeps: Some(true),
            seen: Seen::default(),
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        (self.at, self.now) = (step.at, self.now.max(step.at));
        let backwards = step.at < self.now;
        let now = Time::from_micros(self.at);
        let (mut starts, mut polled) = (Vec::new(), false);
        match &step.op {
            Op::Push(push) => self.push(push)?,
            Op::Poll => {
                self.engine.poll(now, &mut self.out);
                starts = self.model.poll(self.at);
                self.compare_starts(&starts)?;
                polled = true;
            }
            Op::Next => {
                let lease = self.engine.next(now, &mut self.out);
                self.out.started.extend(lease);
                starts.extend(self.model.next(self.at));
                self.compare_starts(&starts)?;
                polled = lease.is_none();
                self.sleeps = Some(polled);
            }
            Op::Settle { call, well } => self.settle(*call, *well)?,
            Op::AbandonCall { call } => self.abandon_call(*call)?,
            Op::SettleAgain { call } => self.settle_again(*call)?,
            Op::Pause { group, span } => {
                let group = group.as_deref();
                let changed = self.engine.pause(now, group, span.map(us), &mut self.out);
                same("pause", changed, self.model.pause(self.at, group, *span))?;
                self.seen.pause(
                    group,
                    Some(span.map_or(NEVER, |span| self.model.now() + span)),
                );
            }
            Op::Resume { group } => {
                let group = group.as_deref();
                let changed = self.engine.resume(now, group, &mut self.out);
                same("resume", changed, self.model.resume(self.at, group))?;
                self.seen.pause(group, None);
            }
            Op::Clear { group } => {
                let count = self.engine.clear(now, group.as_deref(), &mut self.out);
                same("clear", count, self.model.clear(self.at, group.as_deref()))?;
            }
            Op::Flush { group, sender } => {
                let count = self
                    .engine
                    .flush(now, group, sender.as_deref(), &mut self.out);
                same(
                    "flush",
                    count,
                    self.model.flush(self.at, group, sender.as_deref()),
                )?;
            }
            Op::Close => {
                self.engine.close(now, &mut self.out);
                self.model.close(self.at);
            }
            Op::Abandon => {
                self.engine.abandon(now, &mut self.out);
                self.model.abandon(self.at);
            }
            Op::Look { group } => self.look(group)?,
        }
        if !matches!(step.op, Op::Push(_) | Op::Poll | Op::Next) {
            self.sleeps = None;
        }
        if polled {
            self.sleeps = Some(true);
            self.compare_at_rest()?;
        }
        self.compare_ends()?;
        if self.world.watched || polled || backwards {
            self.check()?;
        }
        Ok(())
    }

    fn push(&mut self, push: &Push) -> Result<(), String> {
        let label = self.next_label;
        self.next_label += 1;
        let wish = push.wish.clone();
        let options = Options {
            id: wish.id.as_deref().map(Into::into),
            size: wish.size,
            batch_key: wish.key.as_deref().map(Into::into),
            quiet: wish.quiet.map(us),
            flush: wish.flush,
            standalone: wish.standalone,
            ..Options::default()
        };
        let now = Time::from_micros(self.at);
        let verdict = self
            .intake
            .push(now, &push.group, &push.sender, label, options);
        let expected = self
            .model
            .push(self.at, label, &push.group, &push.sender, wish);
        match (verdict, expected) {
            (Ok(accepted), Ok(seq)) => {
                same("sequence number", accepted.seq.as_u64(), seq)?;
                if let Some(sleeps) = self.sleeps {
                    same("wake", accepted.wake, sleeps)?;
                }
                self.sleeps = self.sleeps.map(|_| false);
                self.seen.accept(label, seq, push, self.now);
                Ok(())
            }
            (Err(refused), Err(reasons)) => {
                same("payload handed back", refused.payload, label)?;
                self.seen.refused += 1;
                let answer = (refused.reason, refused.depth);
                if reasons.contains(&answer) {
                    Ok(())
                } else {
                    Err(format!(
                        "refused with {answer:?}, the rules say {reasons:?}"
                    ))
                }
            }
            (verdict, expected) => {
                let verdict = verdict.map_err(|refused| (refused.reason, refused.depth));
                Err(format!("push gave {verdict:?}, the rules say {expected:?}"))
            }
        }
    }

    fn settle(&mut self, call: usize, well: bool) -> Result<(), String> {
        let Some((lease, number)) = self.take_running(call) else {
            return Ok(());
        };
        let outcome = if well {
            Outcome::Done
        } else {
            Outcome::Failed {
                reason: "error",
                retry: true,
                error: None,
            }
        };
        let (end, reason) = if well {
            (End::Done, "")
        } else {
            (End::Dead, "error")
        };
        let now = Time::from_micros(self.at);
        let result = self.engine.settle(now, lease, outcome, &mut self.out);
        same(
            "settle",
            result.is_ok(),
            self.model.settle(self.at, number, end, reason),
        )?;
        self.seen.end(lease)
    }

    fn abandon_call(&mut self, call: usize) -> Result<(), String> {
        let Some((lease, number)) = self.take_running(call) else {
            return Ok(());
        };
        let now = Time::from_micros(self.at);
        let result = self.engine.abandon_call(now, lease, &mut self.out);
        let expected = self.model.settle(self.at, number, End::Abandoned, "closed");
        same("abandon_call", result.is_ok(), expected)?;
        self.seen.end(lease)
    }

    fn settle_again(&mut self, call: usize) -> Result<(), String> {
        let Some(at) = self.ended.len().checked_sub(call + 1) else {
            return Ok(());
        };
        let lease = self.ended[at];
        let now = Time::from_micros(self.at);
        same(
            "an ended lease is lost",
            self.engine.batch(lease).is_none(),
            true,
        )?;
        let settled = self.engine.settle(now, lease, Outcome::Done, &mut self.out);
        same("an ended call settles", settled.is_ok(), false)?;
        same(
            "the model agrees",
            self.model.settle(self.at, 0, End::Done, ""),
            false,
        )?;
        let abandoned = self.engine.abandon_call(now, lease, &mut self.out);
        same("an ended call is abandoned", abandoned.is_ok(), false)
    }

    fn take_running(&mut self, call: usize) -> Option<(LeaseId, u64)> {
        if self.running.is_empty() {
            return None;
        }
        let it = self.running.remove(call % self.running.len());
        self.ended.push(it.0);
        Some(it)
    }

    /// The same batches, in the same order, with the same messages.
    fn compare_starts(&mut self, expected: &[Call]) -> Result<(), String> {
        let started = std::mem::take(&mut self.out.started);
        let engine = &self.engine;
        let show = |lease: &LeaseId| {
            let batch = engine.batch(*lease).ok_or("a started lease has no batch")?;
            let labels: Vec<u64> = batch.messages().map(|message| *message.payload).collect();
            Ok::<_, String>((batch.group().to_string(), labels, batch.kind()))
        };
        let got: Vec<_> = started.iter().map(show).collect::<Result<_, _>>()?;
        let labels = |call: &Call| call.messages.iter().map(|message| message.label).collect();
        let want: Vec<(String, Vec<u64>, Kind)> = expected
            .iter()
            .map(|call| (call.group.clone(), labels(call), call.kind))
            .collect();
        same("starts", &got, &want)?;

        for (lease, call) in started.into_iter().zip(expected) {
            let batch = self
                .engine
                .batch(lease)
                .ok_or("a started lease has no batch")?;
            if !call.closed_by.contains(&batch.closed_by()) {
                let (got, want) = (batch.closed_by(), &call.closed_by);
                return Err(format!("closed by {got:?}, the rules allow {want:?}"));
            }
            same("attempt", batch.attempt(), 1)?;
            same(
                "started_at",
                batch.started_at().as_micros(),
                call.started_at,
            )?;
            same("len", batch.len(), call.messages.len())?;
            for (got, want) in batch.messages().zip(&call.messages) {
                same("kind of a message", got.kind, want.kind)?;
                same("arrived_at", got.arrived_at.as_micros(), want.arrived_at)?;
                same("sequence number", got.seq.as_u64(), want.seq)?;
                same("sender", got.sender.as_str(), want.sender.as_str())?;
            }
            let labels = call.messages.iter().map(|message| message.label).collect();
            self.running.push((lease, call.number));
            self.seen.start(&self.world.settings, lease, labels)?;
        }
        Ok(())
    }

    /// After a poll that left nothing to do.
    fn compare_at_rest(&mut self) -> Result<(), String> {
        same(
            "wake_at",
            self.engine.wake_at().as_micros(),
            self.model.wake_at(),
        )?;
        if self.model.closed {
            same("stuck", self.engine.stuck(), self.model.stuck())?;
        }
        self.seen
            .nothing_overdue(&self.world.settings, self.model.now())
    }

    /// The same messages ended, in the same way; groups are forgotten only when nobody can tell.
    fn compare_ends(&mut self) -> Result<(), String> {
        let mut got = Vec::new();
        for ended in self.out.ended.drain(..) {
            self.seen.end_message(ended.payload, ended.end)?;
            let reason = if ended.end == End::Done {
                ""
            } else {
                ended.reason
            };
            got.push(Gone {
                label: ended.payload,
                end: ended.end.name(),
                reason,
            });
        }
        let mut want = std::mem::take(&mut self.model.gone);
        got.sort();
        want.sort();
        same("ends", got, want)?;
        self.hear()
    }

    fn hear(&mut self) -> Result<(), String> {
        for event in std::mem::take(&mut self.out.events) {
            if let Event::GroupForgotten { group, .. } = &event {
                self.model.forget(self.at, group)?;
            }
            self.seen.hear(&event);
        }
        Ok(())
    }

    fn look(&mut self, group: &str) -> Result<(), String> {
        let now = Time::from_micros(self.at);
        self.model.drain(self.at);
        same(
            "idle",
            self.engine.idle(now, &mut self.out),
            self.model.idle(),
        )?;
        let status = self.engine.status(now, group, &mut self.out);
        let groups = self.engine.groups(now, &mut self.out);
        self.hear()?;
        let known = self.model.groups();
        let groups: Vec<_> = groups
            .iter()
            .map(compact_str::CompactString::as_str)
            .collect();
        same("groups", &groups[..known.len().min(groups.len())], &known)?;
        if known.contains(&group) {
            let sorted = |names: Vec<MessageName>| {
                let mut names: Vec<_> = names.into_iter().map(name_of).collect();
                names.sort();
                names
            };
            let status = status.map(|status| model::View {
                paused: status.paused,
                waiting: status.waiting,
                running: status.running,
                running_messages: status.running_messages,
                back_to_back: status.back_to_back,
                current: sorted(status.current),
                oldest_at: status.oldest_at.map(Time::as_micros),
            });
            same("status", status, self.model.status(group))?;
        }
        for id in (0..4)
            .map(|n| format!("i{n}"))
            .chain((0..self.next_label).map(|n| format!("#{n}")))
        {
            let got = self.engine.contains(now, group, &id, &mut self.out);
            same(
                &format!("contains {id}"),
                got,
                self.model.contains(group, &id),
            )?;
        }
        Ok(())
    }

    /// P1, by the engine's own count, by its own eyes, and by ours.
    fn check(&mut self) -> Result<(), String> {
        let now = Time::from_micros(self.at);
        let ledger = self
            .engine
            .check(now, &mut self.out)
            .map_err(|it| it.to_string())?;
        self.model.drain(self.at);
        self.sleeps = None;
        self.seen.steps += 1;
        if self.seen.steps.is_multiple_of(4) {
            self.engine
                .audit(now, &mut self.out)
                .map_err(|it| it.to_string())?;
        }
        self.hear()?;
        let running: usize = self.seen.running.values().map(Vec::len).sum();
        let sums = [
            ledger.accepted,
            ledger.waiting,
            ledger.running,
            ledger.retrying,
        ];
        let waiting = self.seen.waiting.len() as u64;
        same(
            "sums",
            sums,
            [self.seen.accepted, waiting, running as u64, 0],
        )?;
        same("ends so far", ledger.ended, self.seen.ended)?;
        same("depth", self.intake.depth(), waiting)
    }

    /// Nothing is left when nothing holds it.
    fn rest(&mut self) -> Result<(), String> {
        if self.world.ending == Ending::Close {
            self.step(&at(self.now, Op::Close))?;
        } else {
            for group in [None, Some("a"), Some("b"), Some("c"), Some("d")] {
                let group = group.map(Into::into);
                self.step(&at(self.now, Op::Resume { group }))?;
            }
        }
        for _ in 0..10_000 {
            self.step(&at(self.now, Op::Poll))?;
            if self.running.is_empty() {
                let next = self.engine.wake_at().as_micros();
                if next == NEVER {
                    break;
                }
                self.now = next;
            } else {
                self.step(&at(
                    self.now + 1,
                    Op::Settle {
                        call: 0,
                        well: true,
                    },
                ))?;
            }
        }
        if self.world.ending == Ending::Close {
            self.step(&at(self.now, Op::Abandon))?;
        }
        same("waiting at rest", self.seen.waiting.len(), 0)?;
        same("running at rest", self.running.len(), 0)?;
        let now = Time::from_micros(self.now);
        self.at = self.now;
        same("idle at rest", self.engine.idle(now, &mut self.out), true)?;
        self.engine
            .audit(now, &mut self.out)
            .map_err(|it| it.to_string())?;
        self.hear()?;
        self.seen.events_add_up()
    }
}

/// What the promises are checked against: nothing but what was seen from outside.
#[derive(Default)]
struct Seen {
    log: Vec<Vec<u64>>,
    steps: u64,
    accepted: u64,
    refused: u64,
    ended: [u64; 8],
    messages: BTreeMap<u64, Known>,
    waiting: BTreeSet<u64>,
    running: BTreeMap<u64, Vec<u64>>,
    /// Of every lane the last message that was handed over.
    handed_over: BTreeMap<(String, String), u64>,
    /// Pauses and their ends, "" for the whole queue.
    paused: BTreeMap<String, Micros>,
    heard: BTreeMap<&'static str, u64>,
}

struct Known {
    seq: u64,
    group: String,
    lane: String,
    accepted_at: Micros,
    ended: bool,
}

impl Seen {
    fn accept(&mut self, label: u64, seq: u64, push: &Push, now: Micros) {
        self.accepted += 1;
        self.waiting.insert(label);
        self.messages.insert(
            label,
            Known {
                seq,
                group: push.group.clone(),
                lane: push.sender.clone(),
                accepted_at: now,
                ended: false,
            },
        );
    }

    /// P2 and P3.
    fn start(
        &mut self,
        settings: &Settings,
        lease: LeaseId,
        labels: Vec<u64>,
    ) -> Result<(), String> {
        self.log.push(labels.clone());
        for label in &labels {
            same("a message starts once", self.waiting.remove(label), true)?;
            let message = &self.messages[label];
            let lane = message.lane_under(settings);
            if let Some(lane) = &lane {
                let last = self.handed_over.insert(lane.clone(), message.seq);
                if last.is_some_and(|last| last > message.seq) {
                    return Err(format!(
                        "{lane:?} was handed {} after {last:?}",
                        message.seq
                    ));
                }
            }
            let overlaps =
                |other: &u64| lane.is_some() && self.messages[other].lane_under(settings) == lane;
            if self.running.values().flatten().any(overlaps) {
                return Err(format!("two calls of {lane:?} overlap"));
            }
        }
        let group = self.messages[&labels[0]].group.clone();
        self.running.insert(lease.as_u64(), labels);
        if self.calls_of(&group) > u64::from(settings.max_concurrent_per_group)
            || self.running.len() as u64 > settings.max_concurrent.map_or(u64::MAX, u64::from)
        {
            return Err("more calls than a cap allows".into());
        }
        Ok(())
    }

    fn calls_of(&self, group: &str) -> u64 {
        let calls = self
            .running
            .values()
            .filter(|labels| self.messages[&labels[0]].group == group);
        calls.count() as u64
    }

    fn end(&mut self, lease: LeaseId) -> Result<(), String> {
        let known = self.running.remove(&lease.as_u64()).is_some();
        same("a call that ends was running", known, true)
    }

    fn end_message(&mut self, label: u64, end: End) -> Result<(), String> {
        let message = self
            .messages
            .get_mut(&label)
            .ok_or("a message ended that never was")?;
        same(
            "a message ends once",
            std::mem::replace(&mut message.ended, true),
            false,
        )?;
        self.waiting.remove(&label);
        let at = End::ALL.iter().position(|it| *it == end).unwrap();
        self.ended[at] += 1;
        Ok(())
    }

    fn pause(&mut self, group: Option<&str>, until: Option<Micros>) {
        let group = group.unwrap_or("").to_string();
        match until {
            Some(until) => self.paused.insert(group, until),
            None => self.paused.remove(&group),
        };
    }

    /// No window is open past its longest wait while a slot it may use is free.
    fn nothing_overdue(&self, settings: &Settings, now: Micros) -> Result<(), String> {
        let paused = |group: &str| self.paused.get(group).is_some_and(|until| *until > now);
        let full = settings
            .max_concurrent
            .is_some_and(|most| self.running.len() >= most as usize);
        if paused("") || full {
            return Ok(());
        }
        for label in &self.waiting {
            let message = &self.messages[label];
            let due = message
                .accepted_at
                .saturating_add(micros(settings.max_wait));
            let lane = message.lane_under(settings);
            let busy =
                self.running.values().flatten().any(|other| {
                    lane.is_some() && self.messages[other].lane_under(settings) == lane
                });
            let room = self.calls_of(&message.group) < u64::from(settings.max_concurrent_per_group);
            if due <= now && room && !busy && !paused(&message.group) {
                return Err(format!("message {label} waits past its longest wait"));
            }
        }
        Ok(())
    }

    fn hear(&mut self, event: &Event) {
        let name = match event {
            Event::MessageAccepted { .. } => "accepted",
            Event::MessageRefused { .. } => "refused",
            Event::WindowClosed { .. } => "window",
            Event::BatchLeased { .. } => "leased",
            Event::BatchSettled { .. } => "settled",
            Event::MessageEnded { .. } => "ended",
            _ => "other",
        };
        *self.heard.entry(name).or_default() += 1;
    }

    /// G2: an event for each of what happened.
    fn events_add_up(&self) -> Result<(), String> {
        let heard = |name| self.heard.get(name).copied().unwrap_or(0);
        same("acceptances heard", heard("accepted"), self.accepted)?;
        same("refusals heard", heard("refused"), self.refused)?;
        same("leases heard", heard("leased"), self.log.len() as u64)?;
        same("settled heard", heard("settled"), self.log.len() as u64)?;
        same("ends heard", heard("ended"), self.accepted)
    }
}

impl Known {
    /// The lane whose order counts; none where every message is its own.
    fn lane_under(&self, settings: &Settings) -> Option<(String, String)> {
        match settings.lanes {
            Lanes::Sender => Some((self.group.clone(), self.lane.clone())),
            Lanes::Group => Some((self.group.clone(), String::new())),
            Lanes::Message => None,
        }
    }
}

fn name_of(name: MessageName) -> String {
    match name {
        MessageName::Given(id) => id.into(),
        MessageName::Automatic(seq) => seq.automatic_id(),
    }
}

fn same<T: PartialEq + Debug>(what: &str, got: T, want: T) -> Result<(), String> {
    if got == want {
        Ok(())
    } else {
        Err(format!("{what}: got {got:?}, the rules say {want:?}"))
    }
}

/// Draws a world and its steps while living in it, and stops where something is wrong.
fn draw(seed: u64, flaw: Option<Flaw>) -> (World, Vec<Step>, Result<(), String>) {
    let dice = &mut Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let world = dice.world();
    let count = 20 + dice.below(300);
    let (groups, senders) = (1 + dice.below(4), 1 + dice.below(4));
    let closes = dice.one_in(4);

    let mut steps = Vec::new();
    let result = guarded(|| {
        let mut simulation = Simulation::new(&world, flaw);
        for nth in 0..count {
            let now = dice.later(simulation.now, simulation.engine.wake_at().as_micros());
            let op = if closes && nth > count / 2 && dice.one_in(60) {
                Op::Close
            } else {
                dice.op(&world.settings, groups, senders)
            };
            let mut step = at(now, op);
            if let Op::Push(push) = &mut step.op
                && now < simulation.now
            {
                // Behind another push at most; and not with an id, the older of two would be open.
                step.at = now.max(simulation.model.now());
                push.wish.id = None;
            }
            steps.push(step.clone());
            simulation
                .step(&step)
                .map_err(|what| format!("{step}: {what}"))?;
        }
        simulation.rest()
    });
    (world, steps, result)
}

/// A small generator of even numbers (splitmix64), so that a seed means the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn maybe<T>(&mut self, n: u64, draw: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.one_in(n).then(|| draw(self))
    }

    fn world(&mut self) -> World {
        let quiet = self.pick(&[0, 0, 1, 2, 3, 5, 9, NEVER]);
        let min_batch = self.pick(&[1, 1, 1, 2, 3]);
        let endless = if quiet != NEVER && min_batch == 1 {
            NEVER
        } else {
            30
        };
        let sizes = [1.0, 1.5, 2.0, 3.0, 4.25, 0.999_999];
        let settings = Settings {
            lanes: self.pick(&[
                Lanes::Sender,
                Lanes::Sender,
                Lanes::Sender,
                Lanes::Group,
                Lanes::Message,
            ]),
            back_to_back: us(self.pick(&[0, 1, 3, 5])),
            burst: us(self.pick(&[2, 5, 8, 12])),
            quiet: us(quiet),
            max_wait: us(self.pick(&[0, 2, 6, 10, 20, endless])),
            max_batch: self
                .maybe(2, |dice| Size::from_f64(dice.pick(&sizes)).unwrap())
                .filter(|size| f64::from(min_batch) <= size.as_f64().max(1.0)),
            min_batch,
            max_gap: self.maybe(4, |dice| us(dice.pick(&[0, 1, 2, 4, 8]))),
            quiet_when_idle: !self.one_in(3),
            quiet_when_busy: !self.one_in(3),
            max_concurrent_per_group: self.pick(&[1, 1, 2, 3]),
            max_concurrent: self.maybe(2, |dice| dice.pick(&[1, 2, 3])),
            capacity_per_group: self.maybe(3, |dice| dice.pick(&[1, 2, 4])),
            capacity: self.maybe(3, |dice| dice.pick(&[1, 3, 6])),
            dedup: us(self.pick(&[0, 0, 4, 20, 100, NEVER])),
            dedup_limit: self.pick(&[1, 2, 3, 10_000]),
            idle_group: us(NEVER),
            size_window: us(0),
            max_attempts: 1,
            back_to_back_points: Points::default(),
            burst_points: Points::default(),
            ..Settings::default()
        };
        let idle_group = self.pick(&[600_000_000, NEVER, 40]);
        let watched = !self.one_in(3);
        let settings = Settings {
            // The model hears of a group that was forgotten by the event.
            idle_group: us(if watched { idle_group } else { NEVER }),
            ..settings
        };
        World {
            settings,
            watched,
            ending: self.pick(&[Ending::Drain, Ending::Drain, Ending::Close]),
        }
    }

    /// Now, soon, around the next timer, or much later.
    fn later(&mut self, now: Micros, wake_at: Micros) -> Micros {
        let timer = if wake_at == NEVER { now } else { wake_at };
        match self.below(16) {
            0..8 => now,
            8..11 => now + 1 + self.below(3),
            11 => now.max(timer.saturating_sub(1)),
            12 | 13 => now.max(timer),
            14 => now.max(timer) + 1,
            15 if self.one_in(2) => now.saturating_sub(1 + self.below(4)),
            _ => now + self.below(100),
        }
    }

    fn op(&mut self, settings: &Settings, groups: u64, senders: u64) -> Op {
        let group = self.group(groups);
        match self.below(100) {
            0..42 => self.push(settings, &group, senders).into(),
            42..60 => Op::Poll,
            60..66 => Op::Next,
            66..84 => Op::Settle {
                call: self.below(4) as usize,
                well: !self.one_in(4),
            },
            84 => Op::AbandonCall {
                call: self.below(4) as usize,
            },
            85 => Op::SettleAgain {
                call: self.below(6) as usize,
            },
            86..89 => Op::Pause {
                group: self.maybe(2, |_| group),
                span: self.maybe(2, |dice| dice.below(12)),
            },
            89..92 => Op::Resume {
                group: self.maybe(2, |_| group),
            },
            92 => Op::Clear {
                group: (!self.one_in(4)).then_some(group),
            },
            93..96 => {
                let sender = self.maybe(2, |dice| dice.sender(senders));
                Op::Flush { group, sender }
            }
            96 if self.one_in(8) => Op::Abandon,
            _ => Op::Look { group },
        }
    }

    fn push(&mut self, settings: &Settings, group: &str, senders: u64) -> Push {
        let sender = self.sender(senders);
        let mut push = push(group, &sender);
        if self.one_in(3) {
            push = push.id(["i0", "i1", "i2", "i3"][self.below(4) as usize]);
        }
        if self.one_in(3) {
            push = push.size(self.pick(&[0.25, 0.5, 0.333_333, 1.5, 2.5, 0.000_001]));
        }
        if self.one_in(6) {
            push = push.key(["k", "l"][self.below(2) as usize]);
        }
        if self.one_in(6) {
            let endless = if settings.max_wait.is_zero() || settings.max_wait == us(NEVER) {
                7
            } else {
                NEVER
            };
            push = push.quiet(self.pick(&[0, 1, 2, 4, 8, endless]));
        }
        if self.one_in(16) {
            push = push.flush();
        }
        if self.one_in(20) {
            push = push.standalone();
        }
        push
    }

    fn group(&mut self, groups: u64) -> String {
        ["a", "b", "c", "d"][self.below(groups) as usize].into()
    }

    fn sender(&mut self, senders: u64) -> String {
        ["ann", "bob", "cy", "di"][self.below(senders) as usize].into()
    }
}

/// Drops steps, wishes and settings as long as something is still wrong.
fn cut_down(mut world: World, mut steps: Vec<Step>, flaw: Option<Flaw>) -> (World, Vec<Step>) {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    loop {
        let before = (world.clone(), steps.clone());
        let mut size = steps.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < steps.len() {
                let mut fewer = steps.clone();
                fewer.drain(from..(from + size).min(steps.len()));
                if run(&world, &fewer, flaw).is_err() {
                    steps = fewer;
                } else {
                    from += size;
                }
            }
            size /= 2;
        }
        for plain in plainer(&world) {
            if run(&plain, &steps, flaw).is_err() {
                world = plain;
            }
        }
        for place in 0..steps.len() {
            for plain in plainer_step(&steps, place) {
                if run(&world, &plain, flaw).is_err() {
                    steps = plain;
                }
            }
        }
        if before == (world.clone(), steps.clone()) {
            panic::set_hook(hook);
            return (world, steps);
        }
    }
}

/// The same steps with a plainer one, or all from there on a little earlier.
fn plainer_step(steps: &[Step], place: usize) -> Vec<Vec<Step>> {
    let mut variants = Vec::new();
    if let Op::Push(push) = &steps[place].op {
        let mut with = |change: &dyn Fn(&mut model::Wish)| {
            let mut plain = push.clone();
            change(&mut plain.wish);
            let mut fewer = steps.to_vec();
            fewer[place].op = plain.into();
            if fewer != steps {
                variants.push(fewer);
            }
        };
        with(&|wish| *wish = model::Wish::default());
        with(&|wish| wish.id = None);
        with(&|wish| wish.size = Size::ONE);
        with(&|wish| wish.key = None);
        with(&|wish| wish.quiet = None);
        with(&|wish| wish.flush = false);
        with(&|wish| wish.standalone = false);
    }
    let before = place.checked_sub(1).map_or(0, |before| steps[before].at);
    let gap = steps[place].at.saturating_sub(before);
    for less in [gap, gap / 2, 1] {
        if less > 0 && less <= gap {
            let mut sooner = steps.to_vec();
            sooner[place..]
                .iter_mut()
                .for_each(|step| step.at = step.at.saturating_sub(less));
            variants.push(sooner);
        }
    }
    variants
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: must be a whole number")),
    )
}

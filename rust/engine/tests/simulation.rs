//! Small worlds in virtual time: every step of the engine is compared with the rules (`model`) and
//! with what the promises say about what was seen.
//!
//! `CHINWAG_SIM_OPS` sets how many steps are made, `CHINWAG_SIM_SEED` runs the world of one seed
//! alone. What fails is cut down to a short script, printed as the code of a test.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod model;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use chinwag_engine::{
    Accepted, Attempt, End, Engine, Event, Intake, Kind, LeaseId, MessageName, Options, Outbox,
    Outcome, Points, Refused, Size, Ticket, Time,
};
use model::dice::{Dice, known_to_hold};
use model::rush::rush;
use model::script::{Ending, Op, Push, Step, World, as_code, at, plainer, us};
use model::seen::{Running, Seen};
use model::{Call, Flaw, Gone, Micros, Model, NEVER};

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

/// Whoever waits is served, however many come with more points; and some do go first.
#[test]
fn nobody_is_overtaken_for_ever() {
    let mut overtook = 0;
    for seed in 0..2_000 {
        match rush(seed) {
            Ok(times) => overtook += times,
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(overtook > 2_000, "{overtook}");
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
        (Flaw::TtlExcludes, 4),
        (Flaw::DropsNewest, 6),
        (Flaw::IgnoresAging, 6),
        (Flaw::IgnoresWeight, 12),
        (Flaw::IgnoresTime, 12),
        (Flaw::LatestExtends, 5),
        (Flaw::TypingProlongs, 5),
        (Flaw::BypassTakesContext, 4),
        (Flaw::IgnoresHysteresis, 12),
        (Flaw::ForgetsLine, 6),
        (Flaw::IgnoresRates, 5),
        (Flaw::StaysCut, 6),
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
    /// Those who wait for room, with the model's number for each and whether they have a place.
    tickets: Vec<(Ticket, u64, String, bool)>,
    queued_up: bool,
    /// The owner sleeps: the next push must wake it. Not known after other calls than polls.
    sleeps: Option<bool>,
    seen: Seen,
}

impl Simulation {
    fn new(world: &World, flaw: Option<Flaw>) -> Self {
        let world = &known_to_hold(world.clone());
        let mut engine = Engine::new(world.profiles[0].clone());
        engine.observe(true);
        Self {
            intake: engine.intake(),
            engine,
            model: Model::new(world.profiles[0].clone(), flaw),
            world: world.clone(),
            out: Outbox::default(),
            now: 0,
            at: 0,
            next_label: 0,
            running: Vec::new(),
            ended: Vec::new(),
            tickets: Vec::new(),
            queued_up: false,
            sleeps: Some(true),
            seen: Seen::new(world),
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        (self.at, self.now) = (step.at, self.now.max(step.at));
        let backwards = step.at < self.now;
        self.seen.went_back |= backwards || step.op == Op::Close;
        let now = Time::from_micros(self.at);
        let (mut starts, mut polled) = (Vec::new(), false);
        match &step.op {
            Op::Push(push) => self.push(push, None)?,
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
            // With the group and the queue full, the engine would let it through to be refused.
            Op::QueueUp { .. } if self.world.drops_newest_of_all() => {}
            Op::QueueUp { group } => {
                let ticket = self.engine.queue_up(now, group, &mut self.out);
                let number = self.model.queue_up(self.at, group);
                self.tickets.push((ticket, number, group.clone(), false));
                self.queued_up = true;
            }
            Op::PushWith { ticket, push } => {
                let mut placed = (0..self.tickets.len()).filter(|at| self.tickets[*at].3);
                let count = placed.clone().count();
                if let Some(at) = placed.nth(ticket % count.max(1)) {
                    let (ticket, number, group, _) = self.tickets.remove(at);
                    let mut push = Push {
                        group,
                        ..push.clone()
                    };
                    // Nobody waits for room who needs none.
                    (push.wish.context, push.wish.bypass) = (false, false);
                    self.push(&push, Some((ticket, number)))?;
                }
            }
            Op::Leave { ticket } => {
                if !self.tickets.is_empty() {
                    let (ticket, number, ..) = self.tickets.remove(ticket % self.tickets.len());
                    self.engine.leave_line(ticket);
                    self.model.leave(number);
                }
            }
            Op::MakeRoom => self.make_room()?,
            Op::Close => {
                self.engine.close(now, &mut self.out);
                self.model.close(self.at);
            }
            Op::Abandon => {
                self.engine.abandon(now, &mut self.out);
                self.model.abandon(self.at);
            }
            Op::Look { group } => self.look(group)?,
            control => self.control(control)?,
        }
        if !matches!(
            step.op,
            Op::Push(_) | Op::PushWith { .. } | Op::Leave { .. } | Op::Poll | Op::Next
        ) {
            self.sleeps = None;
        }
        self.compare_admitted()?;
        if polled {
            self.sleeps = Some(true);
        }
        self.compare_ends()?;
        if polled {
            self.compare_at_rest()?;
            self.seen.nothing_overdue(self.model.now())?;
            self.seen.nothing_too_much(self.model.now())?;
        }
        if self.world.watched || polled || backwards {
            self.check()?;
        }
        Ok(())
    }

    /// C, W8, O3, O8: what is asked for from outside.
    fn control(&mut self, op: &Op) -> Result<(), String> {
        let now = Time::from_micros(self.at);
        match op {
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
            Op::Withdraw { group, id } => {
                let done = self.engine.withdraw(now, group, id, &mut self.out);
                same("withdraw", done, self.model.withdraw(self.at, group, id))?;
            }
            Op::Edit { group, id } => self.edit(group, id)?,
            Op::Typing { group, sender, on } => {
                self.engine.typing(now, group, sender, *on, &mut self.out);
                self.model.typing(self.at, group, sender, *on);
            }
            Op::SetMembers { group, members } => {
                self.engine.set_members(now, group, *members, &mut self.out);
                self.model.set_members(self.at, group, *members);
            }
            Op::SetSender {
                group,
                sender,
                weight,
            } => {
                self.engine
                    .set_sender(now, group, sender, *weight, &mut self.out);
                self.model.set_sender(self.at, group, sender, *weight);
            }
            Op::Configure { group, profile } => {
                let at = profile % self.world.profiles.len();
                let profile = self.world.profiles[at].clone();
                let done = self
                    .engine
                    .configure(now, group, profile.clone(), &mut self.out);
                let expected = self.model.configure(self.at, group, profile);
                same("configure", done.is_ok(), expected)?;
                if expected {
                    self.seen.configured.insert(group.clone(), at);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, push: &Push, ticket: Option<(Ticket, u64)>) -> Result<(), String> {
        let label = self.next_label;
        self.next_label += 1;
        match self.try_push(push, ticket, label, Attempt::First)? {
            Err(refused) if refused.stale => {
                // A drain may make room; the second answer counts.
                self.make_room()?;
                let answer = self.try_push(push, None, label, Attempt::Last)?;
                if answer.is_ok_and(|accepted| accepted.crowded) {
                    self.make_room()?;
                }
            }
            Ok(accepted) if accepted.crowded => self.make_room()?,
            _ => {}
        }
        Ok(())
    }

    /// Pushes both ways; the answers must be the same.
    fn try_push(
        &mut self,
        push: &Push,
        ticket: Option<(Ticket, u64)>,
        label: u64,
        attempt: Attempt,
    ) -> Result<Result<Accepted, Refused<u64>>, String> {
        let wish = push.wish.clone();
        let options = Options {
            id: wish.id.as_deref().map(Into::into),
            at: wish.at.map(Time::from_micros),
            size: wish.size,
            batch_key: wish.key.as_deref().map(Into::into),
            quiet: wish.quiet.map(us),
            flush: wish.flush,
            standalone: wish.standalone,
            real_time: wish.real_time,
            rank: wish.rank,
            context: wish.context,
            bypass: wish.bypass,
            ttl: wish.ttl.map(us),
            delay: wish.delay.map(us),
            ..Options::default()
        };
        let now = Time::from_micros(self.at);
        let (group, sender) = (push.group.as_str(), push.sender.as_str());
        let verdict = match ticket {
            Some((ticket, _)) => self
                .engine
                .push_with(now, ticket, group, sender, label, options),
            None => self
                .intake
                .push_as(attempt, now, group, sender, label, options),
        };
        if let Ok(accepted) = &verdict
            && !self.queued_up
        {
            same(
                "sequence number",
                accepted.seq.as_u64(),
                self.model.next_seq,
            )?;
        } else if let Ok(accepted) = &verdict {
            // A place that is kept has a number as well.
            self.model.next_seq = self.model.next_seq.max(accepted.seq.as_u64());
        }
        let number = ticket.map(|(_, number)| number);
        let expected = self
            .model
            .push(self.at, label, (group, sender), wish, number);
        match (&verdict, expected) {
            (Ok(accepted), Ok(expected)) => {
                same("sequence number", accepted.seq.as_u64(), expected.seq)?;
                same("evicted at once", accepted.evicted, expected.evicted)?;
                // A drain too many does no harm.
                let crowded = accepted.crowded || expected.crowded;
                same("crowded", accepted.crowded, crowded)?;
                if let Some(sleeps) = self.sleeps {
                    same("wake", accepted.wake, sleeps)?;
                }
                self.sleeps = self.sleeps.map(|_| false);
                self.seen.accept(
                    label,
                    expected.seq,
                    push,
                    (self.at, self.now),
                    expected.evicted,
                )?;
            }
            (Err(refused), Err(no)) => {
                same("payload handed back", refused.payload, label)?;
                // A push that is told to try once more has not been refused.
                self.seen.refused += u64::from(!refused.stale);
                let answer = (refused.reason, refused.depth);
                if !no.reasons.contains(&answer) {
                    let reasons = no.reasons;
                    return Err(format!(
                        "refused with {answer:?}, the rules say {reasons:?}"
                    ));
                }
                // It may be told to try once more in vain, but not only once where a drain helps.
                let again = refused.stale && attempt == Attempt::First;
                same(
                    "stale",
                    again,
                    again || no.stale && attempt == Attempt::First,
                )?;
            }
            (verdict, expected) => {
                let verdict = verdict.as_ref();
                let verdict = verdict.map_err(|refused| (refused.reason, refused.depth));
                return Err(format!("push gave {verdict:?}, the rules say {expected:?}"));
            }
        }
        Ok(verdict)
    }

    fn make_room(&mut self) -> Result<(), String> {
        self.engine
            .make_room(Time::from_micros(self.at), &mut self.out);
        self.model.make_room(self.at);
        self.sleeps = None;
        self.compare_ends()
    }

    /// A6: the same are given a place, in the same order.
    fn compare_admitted(&mut self) -> Result<(), String> {
        let got = self.engine.take_admitted();
        let known = |ticket: &Ticket| self.tickets.iter().find(|it| it.0 == *ticket);
        let got: Vec<_> = got.iter().map(|it| known(it).map(|it| it.1)).collect();
        let held: BTreeSet<_> = self.tickets.iter().map(|it| it.1).collect();
        let want = self.model.take_admitted().into_iter();
        let want: Vec<_> = want.filter(|it| held.contains(it)).map(Some).collect();
        same("given a place", &got, &want)?;
        for ticket in &mut self.tickets {
            ticket.3 |= want.contains(&Some(ticket.1));
        }
        Ok(())
    }

    fn edit(&mut self, group: &str, id: &str) -> Result<(), String> {
        let label = self.next_label;
        self.next_label += 1;
        let now = Time::from_micros(self.at);
        let done = self
            .engine
            .edit(now, group, id, label, false, &mut self.out);
        let expected = self.model.edit(self.at, group, id, label);
        let replaced = std::mem::take(&mut self.out.replaced);
        same("edited", done, expected.map(|_| ()).ok_or(label))?;
        same("replaced", replaced, expected.into_iter().collect())?;
        if let Some(old) = expected {
            self.seen.rename(old, label);
        }
        Ok(())
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
            same("bypass", batch.is_bypass(), call.bypass)?;
            if !call.bypass && !call.closed_by.contains(&batch.closed_by()) {
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
            if !call.bypass {
                let total = i128::from(batch.score().total().as_millionths());
                same("score", total, call.score)?;
            }
            let evicted: Vec<_> = batch.evicted().iter().cloned().map(name_of).collect();
            same("evicted", &evicted, &call.evicted)?;
            let context: Vec<_> = batch.context().map(|message| *message.payload).collect();
            let expected: Vec<_> = call.context.iter().map(|message| message.label).collect();
            same("context", &context, &expected)?;
            for (got, want) in batch.messages().zip(&call.messages) {
                same("kind of a message", got.kind, want.kind())?;
                same("arrived_at", got.arrived_at.as_micros(), want.arrived_at)?;
                same("sequence number", got.seq.as_u64(), want.seq)?;
                same("sender", got.sender.as_str(), want.sender.as_str())?;
                same("real_time", got.real_time, want.wish.real_time)?;
                same("rank", got.rank, want.wish.rank)?;
                let known = (got.arrived_at.as_micros(), call.started_at);
                self.seen.in_time(want.label, known)?;
            }
            let labels = call.messages.iter().map(|message| message.label).collect();
            self.running.push((lease, call.number));
            self.seen.start(lease, labels, context, call.bypass)?;
        }
        Ok(())
    }

    /// After a poll that left nothing to do.
    fn compare_at_rest(&mut self) -> Result<(), String> {
        // It may want to look earlier than it must, but not at once.
        let (wake, must) = (self.engine.wake_at().as_micros(), self.model.wake_at());
        if wake > must || wake <= self.model.now() {
            return Err(format!("wakes at {wake}, must by {must}"));
        }
        if self.model.closed {
            same("stuck", self.engine.stuck(), self.model.stuck())?;
        }
        Ok(())
    }

    /// The same messages ended, in the same way; groups are forgotten only when nobody can tell.
    fn compare_ends(&mut self) -> Result<(), String> {
        let mut got = Vec::new();
        for ended in self.out.ended.drain(..) {
            self.seen
                .end_message(ended.payload, ended.end, self.model.now())?;
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
        self.compare_ends()?;
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
        self.compare_ends()?;
        let running = self.seen.running.values().map(Running::len).sum::<usize>();
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
        // Places that are kept for somebody are taken.
        let places = self.model.places(None);
        same("depth", self.intake.depth(), self.seen.depth(None) + places)
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
        for _ in 0..2_000 {
            self.step(&at(self.now, Op::Poll))?;
            if self.running.is_empty() {
                let next = self.engine.wake_at().as_micros();
                if next == NEVER {
                    break;
                }
                self.now = self.now.max(next);
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
        same("waiting at rest", self.seen.waits_but_context(), 0)?;
        self.step(&at(self.now, Op::Clear { group: None }))?;
        while !self.tickets.is_empty() {
            self.step(&at(self.now, Op::Leave { ticket: 0 }))?;
        }
        same("waiting after all", self.seen.waiting.len(), 0)?;
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

fn name_of(name: MessageName) -> String {
    match name {
        MessageName::Given(id) => id.into(),
        MessageName::Automatic(seq) => seq.automatic_id(),
    }
}

pub(crate) fn same<T: PartialEq + Debug>(what: &str, got: T, want: T) -> Result<(), String> {
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
    let (groups, senders) = (1 + dice.below(4), 1 + dice.below(6));
    let closes = dice.one_in(4);

    let mut steps = Vec::new();
    let result = guarded(|| {
        let mut simulation = Simulation::new(&world, flaw);
        for nth in 0..count {
            let now = dice.later(simulation.now, simulation.engine.wake_at().as_micros());
            let op = if closes && nth > count / 2 && dice.one_in(60) {
                Op::Close
            } else {
                dice.op(&world, groups, senders, simulation.next_label)
            };
            let mut step = at(now, op);
            if let Op::Push(push) | Op::PushWith { push, .. } = &mut step.op
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

/// Drops steps, wishes and settings as long as something is still wrong.
fn cut_down(mut world: World, mut steps: Vec<Step>, flaw: Option<Flaw>) -> (World, Vec<Step>) {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    for _ in 0..ROUNDS {
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
        let mut kept = 0;
        while let Some(plain) = plainer(&world).into_iter().nth(kept) {
            if run(&plain, &steps, flaw).is_err() {
                world = plain;
            } else {
                kept += 1;
            }
        }
        for place in 0..steps.len() {
            let mut kept = 0;
            while let Some(plain) = plainer_step(&steps, place).into_iter().nth(kept) {
                if run(&world, &plain, flaw).is_err() {
                    steps = plain;
                } else {
                    kept += 1;
                }
            }
        }
        if before == (world.clone(), steps.clone()) {
            break;
        }
    }
    panic::set_hook(hook);
    (world, steps)
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
        with(&|wish| wish.at = None);
        with(&|wish| wish.real_time = false);
        with(&|wish| wish.rank = Points::default());
        with(&|wish| wish.context = false);
        with(&|wish| wish.bypass = false);
        with(&|wish| wish.ttl = None);
        with(&|wish| wish.delay = None);
    }
    let before = place.checked_sub(1).map_or(0, |before| steps[before].at);
    let gap = steps[place].at.saturating_sub(before);
    let halves = std::iter::successors(Some(gap), |less| Some(less / 2));
    for less in halves.take_while(|less| *less > 0) {
        let mut sooner = steps.to_vec();
        sooner[place..]
            .iter_mut()
            .for_each(|step| step.at = step.at.saturating_sub(less));
        variants.push(sooner);
    }
    variants
}

/// So often a script is cut down at most.
const ROUNDS: usize = 20;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: must be a whole number")),
    )
}

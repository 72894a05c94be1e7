//! A newer message meets a running call (section B), and what the call may do about it (section H).

use chinwag_engine::{
    End, Interrupted, Lanes, OnBusy, Options, Outbox, Outcome, Points, Refusal, Settings, Size,
};

use super::world::{Call, World, at, seconds};

fn busy(on_busy: OnBusy, interrupted: Interrupted) -> Settings {
    Settings {
        on_busy,
        interrupted,
        ..Settings::default()
    }
}

fn interrupting(interrupted: Interrupted) -> Settings {
    busy(OnBusy::Interrupt, interrupted)
}

fn one_slot(settings: Settings) -> Settings {
    Settings {
        max_concurrent_per_group: 1,
        ..settings
    }
}

fn ranked(rank: f64) -> Options {
    Options {
        rank: Points::from_f64(rank),
        ..Options::default()
    }
}

fn background() -> Options {
    Options {
        background: true,
        ..Options::default()
    }
}

impl World {
    /// The calls that were asked to end since this was last asked, and why.
    fn asked(&mut self) -> Vec<(Vec<&'static str>, &'static str)> {
        let ending: Vec<_> = self.out.ending.drain(..).collect();
        let words = |lease| {
            let batch = self.engine.batch(lease).expect("it has yet to end");
            batch.messages().map(|message| *message.payload).collect()
        };
        ending
            .into_iter()
            .map(|(lease, why)| (words(lease), why))
            .collect()
    }

    /// A call that was asked to end does.
    fn ended(&mut self, now: f64, call: &Call) {
        let outcome = Outcome::Cancelled { error: None };
        self.engine
            .settle(at(now), call.lease, outcome, &mut self.out)
            .expect("it has its grace");
    }

    fn put(&mut self, now: f64, sender: &str, word: &'static str, options: Options) {
        self.push_with(now, "room", sender, word, options)
            .expect("accepted");
    }
}

#[test]
fn what_was_interrupted_comes_back_with_what_did() {
    let mut world = World::new(interrupting(Interrupted::Merge));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "b");
    assert!(world.starts(1.0).is_empty());
    assert_eq!(world.asked(), [(vec!["a"], "interrupted")]);

    world.ended(1.5, &call);
    let again = world.poll(1.5).remove(0);

    assert_eq!(again.words, ["a", "b"]);
    world.done(2.0, &again).unwrap();
    assert_eq!(world.ends(), [("a", End::Done), ("b", End::Done)]);
    assert_eq!(world.engine.metrics().interruptions, 1);
}

#[test]
fn a_call_whose_end_is_decided_does_not_become_done() {
    let mut world = World::new(interrupting(Interrupted::Merge));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "b");

    world.done(1.1, &call).unwrap();

    assert_eq!(world.asked().len(), 0, "it has ended already");
    assert_eq!(world.starts(1.1), [["a", "b"]]);
    assert_eq!(world.ends(), []);
}

#[test]
fn a_call_that_ends_at_the_instant_of_the_push_ended_before_it() {
    let mut world = World::new(interrupting(Interrupted::Merge));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "b");

    world.done(1.0, &call).unwrap();

    assert_eq!(world.ends(), [("a", End::Done)]);
    assert_eq!(world.starts(1.0), [["b"]]);
}

#[test]
fn a_burst_interrupts_once_when_its_pause_is_over() {
    let settings = Settings {
        quiet: seconds(0.2),
        quiet_when_idle: false,
        ..interrupting(Interrupted::Abandon)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "work");
    let call = world.poll(0.0).remove(0);
    for (now, word) in [(0.3, "a"), (0.4, "b"), (0.5, "c")] {
        world.push(now, "ann", word);
        world.poll(now);
    }
    assert_eq!(world.asked(), []);
    assert_eq!(world.wake_at(), Some(0.7));

    world.poll(0.7);
    assert_eq!(world.asked(), [(vec!["work"], "interrupted")]);
    world.ended(0.7, &call);

    assert_eq!(world.starts(0.7), [["a", "b", "c"]]);
    assert_eq!(world.ends(), [("work", End::Abandoned)]);
}

#[test]
fn what_may_interrupt_waits_for_no_pause_where_a_busy_lane_does_not() {
    let settings = Settings {
        quiet: seconds(5.0),
        quiet_when_idle: false,
        quiet_when_busy: false,
        ..interrupting(Interrupted::Abandon)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "work");
    world.poll(0.0);

    world.push(1.0, "ann", "a");
    world.poll(1.0);

    assert_eq!(world.asked(), [(vec!["work"], "interrupted")]);
}

#[test]
fn resumed_work_goes_right_after_what_interrupted_it() {
    let settings = Settings {
        max_batch: Some(Size::ONE),
        ..interrupting(Interrupted::Resume)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "long");
    let long = world.poll(0.0).remove(0);
    for word in ["quick", "next"] {
        world.push(0.5, "ann", word);
    }
    world.poll(0.5);
    world.ended(0.5, &long);

    let quick = world.poll(0.5).remove(0);
    assert_eq!(quick.words, ["quick"]);
    world.done(0.7, &quick).unwrap();
    let again = world.poll(0.7).remove(0);
    assert_eq!(again.words, ["long"]);
    let batch = world.engine.batch(again.lease).unwrap();
    assert_eq!((batch.attempt(), batch.resumed()), (1, true));
    world.done(1.0, &again).unwrap();

    assert_eq!(world.starts(1.0), [["next"]]);
}

#[test]
fn a_batch_before_the_interrupter_that_fails_keeps_its_place() {
    let settings = Settings {
        max_gap: Some(seconds(4.0)),
        jitter: chinwag_engine::Jitter::None,
        ..interrupting(Interrupted::Resume)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "long");
    let long = world.poll(0.0).remove(0);
    let waits = Options {
        on_busy: Some(OnBusy::Enqueue),
        ..Options::default()
    };
    world.put(1.0, "ann", "before", waits);
    world.push(9.0, "ann", "quick");
    world.poll(9.0);
    world.ended(9.0, &long);
    let before = world.poll(9.0).remove(0);
    assert_eq!(before.words, ["before"]);

    world.failed(9.5, &before).unwrap();

    assert!(world.starts(9.6).is_empty());
    for word in ["before", "quick", "long"] {
        let call = world.poll(11.0).remove(0);
        assert_eq!(call.words, [word]);
        world.done(11.0, &call).unwrap();
    }
}

#[test]
fn a_turn_taken_counts_for_the_background_too() {
    let mut world = World::new(Settings::default());
    world.push(0.0, "ann", "a");
    world.put(0.0, "ann", "hers", background());
    world.put(0.0, "eve", "others", background());

    assert_eq!(world.starts(0.0), [["a"], ["others"]]);
}

#[test]
fn work_is_resumed_at_once_when_what_interrupted_it_is_taken_back() {
    let mut world = World::new(interrupting(Interrupted::Resume));
    world.push(0.0, "ann", "long");
    let long = world.poll(0.0).remove(0);
    let id = Options {
        id: Some("x".into()),
        ..Options::default()
    };
    world.put(0.5, "ann", "quick", id);
    world.poll(0.5);
    assert!(world.engine.withdraw(at(0.6), "room", "x", &mut world.out));
    world.ended(0.7, &long);

    assert_eq!(world.starts(0.7), [["long"]]);
}

#[test]
fn what_was_cleared_or_withdrawn_interrupts_nothing() {
    let settings = Settings {
        quiet: seconds(1.0),
        quiet_when_idle: false,
        ..interrupting(Interrupted::Merge)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.push(0.5, "ann", "b");
    world.engine.clear(at(0.6), Some("room"), &mut world.out);

    world.poll(5.0);

    assert_eq!(world.asked(), []);
    world.done(6.0, &call).unwrap();
    assert_eq!(world.ends(), [("b", End::Cleared), ("a", End::Done)]);
}

#[test]
fn a_committed_call_is_not_interrupted() {
    let mut world = World::new(interrupting(Interrupted::Merge));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world
        .engine
        .commit(at(0.5), call.lease, &mut world.out)
        .unwrap();
    world.push(1.0, "ann", "b");
    world.poll(1.0);

    assert_eq!(world.asked(), []);
    world.done(2.0, &call).unwrap();
    assert_eq!(world.starts(2.0), [["b"]]);
}

#[test]
fn nothing_is_committed_once_the_end_is_decided() {
    let mut world = World::new(interrupting(Interrupted::Merge));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "b");

    let committed = world.engine.commit(at(1.5), call.lease, &mut world.out);

    assert!(committed.is_err(), "the push was drained before");
}

#[test]
fn a_shield_holds_back_and_a_commit_in_it_cancels() {
    for commits in [false, true] {
        let mut world = World::new(interrupting(Interrupted::Merge));
        world.push(0.0, "ann", "a");
        let call = world.poll(0.0).remove(0);
        world
            .engine
            .shield(at(0.5), call.lease, true, &mut world.out)
            .unwrap();
        world.push(1.0, "ann", "b");
        world.poll(1.0);
        assert_eq!(world.asked(), []);
        if commits {
            world
                .engine
                .commit(at(1.5), call.lease, &mut world.out)
                .unwrap();
        }

        world
            .engine
            .shield(at(2.0), call.lease, false, &mut world.out)
            .unwrap();

        assert_eq!(world.asked().len(), usize::from(!commits));
    }
}

#[test]
fn a_pause_holds_interruptions_back() {
    for group in [Some("room"), None] {
        let mut world = World::new(interrupting(Interrupted::Merge));
        world.push(0.0, "ann", "a");
        world.poll(0.0);
        world.engine.pause(at(0.5), group, None, &mut world.out);
        world.push(1.0, "ann", "b");
        world.poll(1.0);
        assert_eq!(world.asked(), []);

        world.engine.resume(at(2.0), group, &mut world.out);

        assert_eq!(world.asked(), [(vec!["a"], "interrupted")]);
    }
}

#[test]
fn no_call_is_ended_for_another_that_lacks_a_token() {
    let settings = Settings {
        rate_per_group: chinwag_engine::Rate::new(0.5, 1.0),
        ..interrupting(Interrupted::Merge)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "a");
    world.poll(0.0);
    world.push(0.5, "ann", "b");
    world.poll(0.5);
    assert_eq!(world.asked(), []);
    assert_eq!(world.wake_at(), Some(2.0));

    world.poll(2.0);

    assert_eq!(world.asked(), [(vec!["a"], "interrupted")]);
}

#[test]
fn only_a_first_attempt_is_interrupted() {
    let settings = Settings {
        jitter: chinwag_engine::Jitter::None,
        ..interrupting(Interrupted::Merge)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.failed(0.5, &call).unwrap();
    let retry = world.poll(1.5).remove(0);
    world.push(2.0, "ann", "b");
    world.poll(2.0);

    assert_eq!(world.asked(), []);
    world.done(3.0, &retry).unwrap();
    assert_eq!(world.starts(3.0), [["b"]]);
}

#[test]
fn what_comes_late_does_not_interrupt() {
    let settings = Settings {
        interrupt_within: Some(seconds(5.0)),
        ..interrupting(Interrupted::Merge)
    };
    for (now, asked) in [(5.0, 1), (5.000_001, 0)] {
        let mut world = World::new(settings.clone());
        world.push(0.0, "ann", "a");
        world.poll(0.0);
        world.push(now, "ann", "b");
        world.poll(now);
        assert_eq!(world.asked().len(), asked, "at {now}");
    }
}

#[test]
fn a_call_is_not_interrupted_by_what_it_pushes_itself() {
    let mut world = World::new(interrupting(Interrupted::Merge));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    let inside = Options {
        inside: Some(call.lease),
        ..Options::default()
    };
    world.put(1.0, "ann", "b", inside);
    world.poll(1.0);

    assert_eq!(world.asked(), []);
}

#[test]
fn what_would_not_fit_one_batch_does_not_interrupt() {
    let settings = Settings {
        max_batch: Size::from_f64(2.0),
        ..interrupting(Interrupted::Merge)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "a");
    world.push(0.0, "ann", "b");
    let call = world.poll(0.0).remove(0);
    assert_eq!(call.words, ["a", "b"]);
    world.push(1.0, "ann", "c");
    world.poll(1.0);

    assert_eq!(world.asked(), []);
}

#[test]
fn what_no_longer_fits_stays_due_in_the_next_batch() {
    let settings = Settings {
        max_batch: Size::from_f64(3.0),
        quiet_when_idle: false,
        ..interrupting(Interrupted::Merge)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "b");
    world.poll(1.0);
    for word in ["c", "d"] {
        world.push(1.5, "ann", word);
    }
    world.poll(1.5);
    world.ended(2.0, &call);

    let merged = world.poll(2.0).remove(0);
    assert_eq!(merged.words, ["a", "b", "c"]);
    world.done(3.0, &merged).unwrap();
    assert_eq!(world.starts(3.0), [["d"]]);
}

#[test]
fn follow_ups_end() {
    let mut world = World::new(interrupting(Interrupted::Merge));
    world.push(0.0, "ann", "a");
    let mut call = world.poll(0.0).remove(0);
    let mut interruptions = 0;
    for number in 1..1_000 {
        let now = f64::from(number);
        world.push(now, "ann", "more");
        world.poll(now);
        if !world.asked().is_empty() {
            interruptions += 1;
            world.ended(now, &call);
            call = world.poll(now).remove(0);
        }
    }

    assert_eq!(interruptions, 8);
    assert_eq!(call.words.len(), 9);
}

#[test]
fn rolled_back_messages_count_as_never_started() {
    for (policy, late) in [(OnBusy::Interrupt, true), (OnBusy::Rollback, false)] {
        let settings = one_slot(busy(policy, Interrupted::Merge));
        let mut world = World::new(settings);
        let id = Options {
            id: Some("x".into()),
            ..Options::default()
        };
        world.put(0.0, "ann", "a", id);
        let call = world.poll(0.0).remove(0);
        world.push(1.0, "ann", "b");
        world.poll(1.0);
        world
            .engine
            .pause(at(1.5), Some("room"), None, &mut world.out);
        world.ended(2.0, &call);
        assert!(world.starts(2.0).is_empty());

        let withdrawn = world.engine.withdraw(at(3.0), "room", "x", &mut world.out);

        assert_eq!(withdrawn, !late, "{policy:?}");
        world.engine.resume(at(4.0), Some("room"), &mut world.out);
        let words = if late { vec!["a", "b"] } else { vec!["b"] };
        assert_eq!(world.starts(4.0), [words]);
    }
}

#[test]
fn an_interruption_costs_the_sender_one_turn() {
    let settings = one_slot(interrupting(Interrupted::Merge));
    let mut world = World::new(settings);
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.push(0.5, "bob", "x");
    world.push(1.0, "ann", "b");
    world.poll(1.0);
    world.ended(1.0, &call);

    let merged = world.poll(1.0).remove(0);
    assert_eq!(merged.words, ["a", "b"], "the slot stays with the lane");
    world.push(2.0, "ann", "c");
    world.done(2.0, &merged).unwrap();
    // Flags decide between equals; charged twice, it would be the other one's turn.
    assert_eq!(world.starts(2.0), [["c"]]);
}

#[test]
fn a_busy_lane_refuses_what_does_not_want_to_wait() {
    let mut world = World::new(busy(OnBusy::Reject, Interrupted::Merge));
    assert_eq!(try_put(&mut world, 0.0, "ann", "a", None), Ok(()));
    let call = world.poll(0.0).remove(0);

    assert_eq!(
        try_put(&mut world, 1.0, "ann", "b", None),
        Err(Refusal::Busy)
    );
    assert_eq!(try_put(&mut world, 1.0, "bob", "c", None), Ok(()));
    world.done(2.0, &call).unwrap();
    assert_eq!(try_put(&mut world, 2.0, "ann", "d", None), Ok(()));
}

#[test]
fn one_message_a_call_makes_a_waiting_one_busy() {
    for (most, verdict) in [(None, Ok(())), (Some(Size::ONE), Err(Refusal::Busy))] {
        let settings = Settings {
            max_batch: most,
            ..busy(OnBusy::Reject, Interrupted::Merge)
        };
        let mut world = World::new(settings);
        assert_eq!(try_put(&mut world, 0.0, "ann", "a", None), Ok(()));
        assert_eq!(try_put(&mut world, 0.0, "ann", "b", None), verdict);
    }
}

#[test]
fn a_backoff_is_busy_until_the_next_start() {
    let settings = Settings {
        jitter: chinwag_engine::Jitter::None,
        ..one_slot(busy(OnBusy::Reject, Interrupted::Merge))
    };
    let mut world = World::new(settings);
    assert_eq!(try_put(&mut world, 0.0, "ann", "a", None), Ok(()));
    let call = world.poll(0.0).remove(0);
    assert_eq!(try_put(&mut world, 0.2, "bob", "b", None), Ok(()));
    world.failed(0.5, &call).unwrap();
    world.poll(0.5);
    world.poll(5.0);

    assert_eq!(
        try_put(&mut world, 5.0, "ann", "c", None),
        Err(Refusal::Busy)
    );
}

#[test]
fn a_policy_that_could_never_be_served_is_refused() {
    use OnBusy::{Inject, Interrupt, Reject, Rollback};
    let merge_one = Settings {
        max_batch: Some(Size::ONE),
        ..Settings::default()
    };
    let by_message = Settings {
        lanes: Lanes::Message,
        interrupted: Interrupted::Abandon,
        ..Settings::default()
    };
    for (settings, own, unserved) in [
        (Settings::default(), Rollback, true),
        (busy(Rollback, Interrupted::Merge), Rollback, false),
        (merge_one.clone(), Interrupt, true),
        (merge_one, Inject, false),
        (by_message.clone(), Inject, true),
        (by_message.clone(), Interrupt, false),
        (by_message, Reject, false),
    ] {
        let mut world = World::new(settings);
        let verdict = try_put(&mut world, 0.0, "ann", "a", Some(own));
        assert_eq!(verdict == Err(Refusal::Unserved), unserved, "{own:?}");
    }
}

fn try_put(
    world: &mut World,
    now: f64,
    sender: &str,
    word: &'static str,
    on_busy: Option<OnBusy>,
) -> Result<(), Refusal> {
    let options = Options {
        on_busy,
        ..Options::default()
    };
    let pushed = world.engine.push(
        at(now),
        chinwag_engine::Attempt::First,
        "room",
        sender,
        word,
        options,
        &mut world.out,
    );
    pushed.map(|_| ()).map_err(|refused| refused.reason)
}

#[test]
fn a_call_takes_what_waits_at_most_so_many_at_a_time() {
    let settings = Settings {
        inject_limit: Some(3),
        max_batch: Some(Size::ONE),
        ..busy(OnBusy::Inject, Interrupted::Merge)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "work");
    let call = world.poll(0.0).remove(0);
    for word in ["a", "b", "c", "d", "e"] {
        world.push(0.1, "ann", word);
    }
    let mut take = |now| {
        world
            .engine
            .take(at(now), call.lease, None, &mut world.out)
            .unwrap()
    };

    assert_eq!([take(0.3), take(0.6), take(0.9)], [3, 2, 0]);
    world.engine.audit(at(1.0), &mut Outbox::default()).unwrap();
    let batch = world.engine.batch(call.lease).unwrap();
    let words: Vec<_> = batch.messages().map(|message| *message.payload).collect();
    assert_eq!(words, ["work", "a", "b", "c", "d", "e"]);
    world.done(1.0, &call).unwrap();
    assert_eq!(world.ends().len(), 6);
}

#[test]
fn the_inbox_ends_at_the_first_message_that_is_not_for_it() {
    let settings = busy(OnBusy::Inject, Interrupted::Merge);
    let alone = Options {
        standalone: true,
        ..Options::default()
    };
    let other = Options {
        batch_key: Some("k".into()),
        ..Options::default()
    };
    let waits = Options {
        on_busy: Some(OnBusy::Enqueue),
        ..Options::default()
    };
    for stop in [alone, other, waits] {
        let mut world = World::new(settings.clone());
        world.push(0.0, "ann", "work");
        let call = world.poll(0.0).remove(0);
        world.push(0.1, "ann", "a");
        world.put(0.2, "ann", "stop", stop);
        world.push(0.3, "ann", "b");

        let offered = world
            .engine
            .inbox(at(0.5), call.lease, &mut world.out)
            .unwrap();

        assert_eq!(offered.len(), 1);
    }
}

#[test]
fn taken_messages_are_tried_again_with_the_call() {
    let settings = Settings {
        jitter: chinwag_engine::Jitter::None,
        capacity_per_group: Some(1),
        ..busy(OnBusy::Inject, Interrupted::Merge)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "work");
    let call = world.poll(0.0).remove(0);
    world.push(0.1, "ann", "a");
    world
        .engine
        .take(at(0.2), call.lease, None, &mut world.out)
        .unwrap();
    world.push(0.3, "ann", "b"); // the place of what was taken is free
    world.failed(0.5, &call).unwrap();

    assert_eq!(world.starts(1.5), [["work", "a"]]);
}

#[test]
fn what_somebody_said_ends_a_background_call() {
    for slots in 1..=3 {
        let settings = Settings {
            max_concurrent_per_group: slots,
            ..Settings::default()
        };
        let mut world = World::new(settings);
        for sender in &["u", "v", "w"][..slots as usize] {
            world.put(0.0, sender, "cron", background());
        }
        let calls = world.poll(0.0);
        assert_eq!(calls.len(), slots as usize);
        world.push(1.0, "ann", "hi");
        world.poll(1.0);
        assert_eq!(world.asked(), [(vec!["cron"], "preempted")]);
        let victim = calls.last().unwrap(); // the newest among equals

        world.ended(1.5, victim);

        let hi = world.poll(1.5).remove(0);
        assert_eq!(hi.words, ["hi"]);
        world.done(2.0, &hi).unwrap();
        assert_eq!(world.starts(2.0), [["cron"]], "it comes back");
    }
}

#[test]
fn background_waits_behind_whatever_somebody_said() {
    let mut world = World::new(one_slot(Settings::default()));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    let urgent = Options {
        rank: Points::from_f64(1e6),
        ..background()
    };
    world.put(0.1, "sys", "cron", urgent);
    world.push(0.2, "bob", "b");
    world.done(1.0, &call).unwrap();

    let call = world.poll(1.0).remove(0);

    assert_eq!(call.words, ["b"]);
    world.done(2.0, &call).unwrap();
    assert_eq!(world.starts(2.0), [["cron"]]);
}

#[test]
fn held_background_starts_once_it_is_held_no_longer() {
    let holds = Settings {
        hold_background: true,
        ..Settings::default()
    };
    let mut world = World::new(holds);
    world.put(0.0, "ann", "cron", background());
    assert!(world.starts(10.0).is_empty());

    let profile = Settings::default().into();
    world
        .engine
        .configure(at(11.0), "room", profile, &mut world.out)
        .unwrap();

    assert_eq!(world.starts(11.0), [["cron"]]);
}

#[test]
fn a_senders_background_has_a_lane_of_its_own() {
    let mut world = World::new(Settings::default());
    world.put(0.0, "ann", "cron", background());
    world.push(0.0, "ann", "a");

    let mut starts = world.starts(0.0);
    starts.sort();
    assert_eq!(starts, [["a"], ["cron"]]);
}

#[test]
fn a_lead_in_points_ends_the_lowest_call_of_a_full_group() {
    for slots in 1..=3_usize {
        let settings = Settings {
            max_concurrent_per_group: slots as u32,
            preempt_margin: Some(Points::from_f64(2.0)),
            ..Settings::default()
        };
        let mut world = World::new(settings);
        for (place, sender) in ["u", "v", "w"][..slots].iter().enumerate() {
            world.put(0.0, sender, "low", ranked(place as f64));
        }
        let calls = world.poll(0.0);
        world.put(1.0, "ann", "near", ranked(1.9));
        world.poll(1.0);
        assert_eq!(world.asked(), []);
        world.put(1.1, "bob", "high", ranked(2.0));
        world.poll(1.1);
        assert_eq!(world.asked().len(), 1);
        let lowest = calls
            .iter()
            .find(|call| world.engine.ending(call.lease).is_some())
            .unwrap();
        let score = world.engine.batch(lowest.lease).unwrap().score().rank;
        assert_eq!(score, Points::from_f64(0.0));

        world.ended(1.2, lowest);

        assert_eq!(world.starts(1.2), [["high"]], "the slot goes to it");
    }
}

#[test]
fn one_call_is_ended_for_one_batch() {
    let settings = Settings {
        preempt_margin: Some(Points::from_f64(1.0)),
        ..Settings::default()
    };
    let mut world = World::new(settings);
    world.push(0.0, "u", "low");
    world.push(0.0, "v", "low");
    world.poll(0.0);
    for (now, sender) in [(1.0, "a"), (1.1, "b"), (1.2, "c")] {
        world.put(now, sender, "high", ranked(9.0));
        world.poll(now);
    }

    assert_eq!(world.asked().len(), 2, "there are no more");
}

#[test]
fn a_full_group_of_messages_ends_its_lowest_then_oldest() {
    let settings = Settings {
        lanes: Lanes::Message,
        ..interrupting(Interrupted::Abandon)
    };
    let cases = [
        ([0.0, 0.0], 0.0, Some("1")),
        ([5.0, 3.0], 9.0, Some("2")),
        ([5.0, 3.0], 1.0, None),
    ];
    for (ranks, newcomer, victim) in cases {
        let mut world = World::new(settings.clone());
        world.put(0.0, "u", "1", ranked(ranks[0]));
        let mut calls = world.poll(0.0);
        world.put(0.1, "v", "2", ranked(ranks[1]));
        calls.extend(world.poll(0.1));
        world.put(0.2, "w", "3", ranked(newcomer));
        world.poll(0.2);
        let asked = world.asked();
        assert_eq!(asked.first().map(|(words, _)| words[0]), victim);
        if let Some(victim) = victim {
            let call = calls.iter().find(|call| call.words == [victim]).unwrap();
            world.ended(0.2, call);
            assert_eq!(world.starts(0.2), [["3"]]);
        }
    }
}

#[test]
fn a_message_of_its_own_is_resumed_after_what_interrupted_it() {
    let settings = Settings {
        lanes: Lanes::Message,
        ..one_slot(interrupting(Interrupted::Resume))
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "long");
    let long = world.poll(0.0).remove(0);
    world.push(1.0, "bob", "quick");
    world.poll(1.0);
    world.ended(1.0, &long);
    let quick = world.poll(1.0).remove(0);
    assert_eq!(quick.words, ["quick"]);
    world
        .push_with(
            1.5,
            "room",
            "eve",
            "later",
            Options {
                on_busy: Some(OnBusy::Enqueue),
                ..Options::default()
            },
        )
        .unwrap();
    world.done(2.0, &quick).unwrap();

    assert_eq!(world.starts(2.0), [["long"]]);
}

#[test]
fn what_waits_behind_an_interrupter_is_put_off_no_more_often_than_it_may() {
    let settings = Settings {
        lanes: Lanes::Message,
        max_interrupts: 2,
        ..one_slot(interrupting(Interrupted::Resume))
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "first");
    let mut call = world.poll(0.0).remove(0);
    let mut interruptions = 0;
    for number in 1..9 {
        let now = f64::from(number);
        world.push(now, "bob", "more");
        world.poll(now);
        if !world.asked().is_empty() {
            interruptions += 1;
            world.ended(now, &call);
            call = world.poll(now).remove(0);
        }
    }

    assert_eq!(interruptions, 2);
}

#[test]
fn what_supersedes_an_interrupter_takes_its_place() {
    let settings = Settings {
        keep: chinwag_engine::Keep::Latest,
        ..interrupting(Interrupted::Resume)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "long");
    let long = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "old");
    world.poll(1.0);
    world.push(1.5, "ann", "new");
    world.ended(2.0, &long);

    let call = world.poll(2.0).remove(0);
    assert_eq!(call.words, ["new"]);
    world.done(3.0, &call).unwrap();
    assert_eq!(world.starts(3.0), [["long"]]);
}

#[test]
fn what_closing_makes_due_interrupts_nothing() {
    let settings = Settings {
        quiet: seconds(5.0),
        quiet_when_idle: false,
        ..interrupting(Interrupted::Merge)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "b");

    world.engine.close(at(2.0), &mut world.out);

    assert!(world.starts(2.0).is_empty());
    assert_eq!(world.asked(), []);
    world.done(3.0, &call).unwrap();
    assert_eq!(world.starts(3.0), [["b"]]);
}

#[test]
fn somebody_elses_cancellation_puts_the_messages_back() {
    let mut world = World::new(Settings {
        max_interrupts: 2,
        max_attempts: 1,
        ..Settings::default()
    });
    world.push(0.0, "ann", "a");
    for _ in 0..2 {
        let call = world.poll(1.0).remove(0);
        assert_eq!(world.engine.batch(call.lease).unwrap().attempt(), 1);
        world.ended(1.0, &call);
    }
    let call = world.poll(1.0).remove(0);

    world.ended(1.0, &call);

    assert_eq!(
        world.ends(),
        [("a", End::Dead)],
        "once too often is a failure"
    );
}

#[test]
fn an_edit_hands_a_running_message_over_again() {
    let mut world = World::new(Settings {
        interrupted: Interrupted::Abandon,
        ..Settings::default()
    });
    let id = Options {
        id: Some("x".into()),
        ..Options::default()
    };
    world.put(0.0, "ann", "old", id);
    let call = world.poll(0.0).remove(0);
    let edited = |world: &mut World, restart| {
        world
            .engine
            .edit(at(1.0), "room", "x", "new", restart, &mut world.out)
            .is_ok()
    };
    assert!(!edited(&mut world, false));
    assert!(edited(&mut world, true));
    assert!(!edited(&mut world, true), "it is about to end");
    world.ended(1.5, &call);

    assert_eq!(world.starts(1.5), [["new"]]);
}

#[test]
fn clearing_takes_what_an_interruption_would_bring_back() {
    let mut world = World::new(interrupting(Interrupted::Merge));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "b");
    world.poll(1.0);

    let cleared = world.engine.clear(at(1.5), Some("room"), &mut world.out);
    world.ended(2.0, &call);

    assert_eq!(cleared, 2);
    assert_eq!(world.ends(), [("b", End::Cleared), ("a", End::Cleared)]);
    assert!(world.starts(2.0).is_empty());
}

#[test]
fn the_context_of_an_interrupted_call_comes_back_with_it() {
    for interrupted in [Interrupted::Merge, Interrupted::Resume] {
        let mut world = World::new(interrupting(interrupted));
        let listens = Options {
            context: true,
            ..Options::default()
        };
        world.put(0.0, "eve", "heard", listens.clone());
        world.push(0.0, "ann", "a");
        let call = world.poll(0.0).remove(0);
        world.put(0.5, "eve", "since", listens);
        world.push(1.0, "ann", "b");
        world.poll(1.0);
        world.ended(1.0, &call);

        let first = world.poll(1.0).remove(0);

        let contexts = |world: &World, call: &Call| -> Vec<_> {
            let batch = world.engine.batch(call.lease).unwrap();
            batch.context().map(|message| *message.payload).collect()
        };
        if interrupted == Interrupted::Merge {
            assert_eq!(contexts(&world, &first), ["heard", "since"]);
        } else {
            assert_eq!(contexts(&world, &first), ["since"]);
            world.done(2.0, &first).unwrap();
            let again = world.poll(2.0).remove(0);
            assert_eq!(contexts(&world, &again), ["heard"]);
        }
    }
}

#[test]
fn saved_state_belongs_to_the_batch_or_to_the_lanes_last_call() {
    for (interrupted, saved, previous) in [
        (Interrupted::Merge, None, Some("half")),
        (Interrupted::Abandon, None, Some("half")),
        (Interrupted::Resume, Some("half"), None),
    ] {
        let mut world = World::new(interrupting(interrupted));
        world.push(0.0, "ann", "a");
        let call = world.poll(0.0).remove(0);
        world
            .engine
            .save(call.lease, "half", &mut world.out)
            .unwrap();
        world.push(1.0, "ann", "b");
        world.poll(1.0);
        world.ended(1.0, &call);
        let mut next = world.poll(1.0).remove(0);
        if interrupted == Interrupted::Resume {
            world.done(2.0, &next).unwrap();
            next = world.poll(2.0).remove(0);
        }

        assert_eq!(
            world.engine.batch(next.lease).unwrap().saved().copied(),
            saved
        );
        let found = world.engine.previous(next.lease);
        assert_eq!(found.and_then(|found| found.saved.copied()), previous);
    }
}

#[test]
fn a_rolled_back_call_leaves_no_trace() {
    let mut world = World::new(busy(OnBusy::Rollback, Interrupted::Merge));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world
        .engine
        .save(call.lease, "half", &mut world.out)
        .unwrap();
    assert_eq!(
        world.engine.batch(call.lease).unwrap().saved(),
        Some(&"half")
    );
    world.push(1.0, "ann", "b");
    world.poll(1.0);
    world.ended(1.0, &call);

    let next = world.poll(1.0).remove(0);

    assert_eq!(world.engine.batch(next.lease).unwrap().saved(), None);
    assert!(world.engine.previous(next.lease).is_none());
}

#[test]
fn a_call_that_ignores_its_end_is_fenced_and_the_lane_goes_on() {
    let mut world = World::new(interrupting(Interrupted::Merge));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "b");
    world.poll(1.0);
    assert_eq!(world.wake_at(), Some(6.0));

    assert_eq!(world.starts(6.0), [["a", "b"]]);

    assert_eq!(world.out.fenced, [call.lease]);
    assert!(
        world
            .engine
            .save(call.lease, "late", &mut world.out)
            .is_err()
    );
    assert!(world.done(7.0, &call).is_err());
}

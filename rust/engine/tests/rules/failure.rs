//! What becomes of calls that fail (section F).

use std::time::Duration;

use chinwag_engine::{
    End, Failure, Jitter, Lanes, Options, Outcome, Points, Profile, Settings, Size, Strategy,
};

use crate::world::{Call, World, at, seconds};

fn steady() -> Settings {
    Settings {
        jitter: Jitter::None,
        ..Settings::default()
    }
}

fn fail(world: &mut World, now: f64, call: &Call) {
    world.failed(now, call).expect("it runs");
}

#[test]
fn a_failed_batch_comes_back_as_it_was_and_before_anything_newer() {
    let mut world = World::new(steady());
    world.push(0.0, "ann", "a");
    world.push(0.0, "ann", "b");
    let first = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "c");
    fail(&mut world, 2.0, &first);
    assert!(world.ends().is_empty());
    world.push(2.5, "ann", "d");

    assert!(world.poll(2.9).is_empty(), "its lane backs off");
    let second = world.poll(3.0).remove(0);
    assert_eq!(second.words, ["a", "b"]);
    assert_eq!(world.engine.batch(second.lease).unwrap().attempt(), 2);
    fail(&mut world, 3.0, &second);
    assert!(world.poll(4.9).is_empty(), "twice as long the second time");
    let third = world.poll(5.0).remove(0);
    fail(&mut world, 6.0, &third);

    assert_eq!(world.ends(), [("a", End::Dead), ("b", End::Dead)]);
    assert_eq!(world.starts(6.0), [["c", "d"]]);
}

#[test]
fn a_lane_that_backs_off_holds_no_slot() {
    let mut world = World::new(Settings {
        max_concurrent: Some(1),
        ..steady()
    });
    world.push(0.0, "ann", "a");
    world.push(0.0, "bob", "b");
    let call = world.poll(0.0).remove(0);
    fail(&mut world, 1.0, &call);

    assert_eq!(world.starts(1.0), [["b"]]);
}

#[test]
fn messages_for_themselves_back_off_each_for_itself() {
    let mut world = World::new(Settings {
        lanes: Lanes::Message,
        max_concurrent_per_group: 1,
        ..steady()
    });
    world.push(0.0, "ann", "a");
    world.push(20.0, "ann", "b");
    let call = world.poll(20.0).remove(0);
    assert_eq!(call.words, ["a"]);
    fail(&mut world, 20.0, &call);
    let other = world.poll(20.0).remove(0);
    assert_eq!(other.words, ["b"]);
    world.done(20.5, &other).unwrap();

    assert_eq!(world.starts(21.0), [["a"]]);
}

#[test]
fn backoffs_that_end_together_start_together() {
    let mut world = World::new(Settings {
        lanes: Lanes::Message,
        ..steady()
    });
    world.push(0.0, "ann", "a");
    world.push(0.0, "ann", "b");
    for call in world.poll(0.0) {
        fail(&mut world, 0.0, &call);
    }

    assert_eq!(world.starts(1.0), [["b"], ["a"]], "b is back-to-back");
}

/// The next message of its sender starts beside it, and not it as well.
#[test]
fn nothing_cuts_a_backoff_short() {
    let mut world = World::new(Settings {
        lanes: Lanes::Message,
        back_to_back: seconds(0.0),
        burst: seconds(0.0),
        ..steady()
    });
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    fail(&mut world, 0.0, &call);
    world.push(0.5, "ann", "b");

    assert_eq!(world.starts(0.5), [["b"]]);
    assert_eq!(world.starts(1.0), [["a"]]);
}

#[test]
fn no_retry_ends_it_at_once() {
    let mut world = World::new(steady());
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    let outcome = Outcome::Failed {
        reason: "error",
        retry: false,
        error: Some("why"),
    };
    world
        .engine
        .settle(at(1.0), call.lease, outcome, &mut world.out)
        .unwrap();

    assert_eq!(world.ends(), [("a", End::Dead)]);
}

#[test]
fn a_failure_after_commit_is_final() {
    let mut world = World::new(steady());
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world
        .engine
        .commit(at(0.5), call.lease, &mut world.out)
        .unwrap();
    fail(&mut world, 1.0, &call);

    assert_eq!(world.out.ended[0].reason, "committed");
}

#[test]
fn what_would_come_too_late_is_dead_as_soon_as_that_is_known() {
    let mut world = World::new(Settings {
        ttl: Some(seconds(5.0)),
        max_attempts: 9,
        ..steady()
    });
    world.push(0.0, "ann", "a");
    world.push(3.0, "ann", "b");
    let call = world.poll(3.0).remove(0);
    fail(&mut world, 4.5, &call); // again at 5.5
    let dead = &world.out.ended[0];
    assert_eq!((dead.payload, dead.reason), ("a", "ttl"));
    world.out.ended.clear();
    let call = world.poll(5.5).remove(0);
    assert_eq!(call.words, ["b"]);
}

#[test]
fn what_waits_for_its_retry_expires() {
    let mut world = World::new(Settings {
        ttl: Some(seconds(5.0)),
        ..steady()
    });
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    fail(&mut world, 1.0, &call); // again at 2, but then nobody has a slot
    world.engine.pause(at(1.5), None, None, &mut world.out);
    world.push(1.5, "ann", "b");
    assert!(world.poll(5.0).is_empty());
    assert!(world.ends().is_empty(), "exactly as old as it may be");
    world.poll(5.1);
    assert_eq!(world.ends(), [("a", End::Dead)]);
    world.engine.resume(at(6.0), None, &mut world.out);
    assert_eq!(world.starts(6.0), [["b"]]);
}

#[test]
fn a_retry_that_expired_is_put_forward_no_more() {
    let mut world = World::new(Settings {
        lanes: Lanes::Message,
        ..steady()
    });
    let own = Options {
        ttl: Some(seconds(5.0)),
        rank: Points::from_f64(1.0),
        ..Options::default()
    };
    world.push_with(0.0, "room", "ann", "a", own).unwrap();
    let call = world.poll(0.0).remove(0);
    fail(&mut world, 1.0, &call);
    world.engine.pause(at(1.5), None, None, &mut world.out);
    world.push(1.5, "ann", "b");
    world.poll(2.0); // now both are due
    world.poll(5.1);
    assert_eq!(world.ends(), [("a", End::Dead)]);
    world.engine.resume(at(6.0), None, &mut world.out);

    assert_eq!(world.starts(6.0), [["b"]]);
}

#[test]
fn what_stands_behind_an_expired_retry_takes_its_place() {
    let mut world = World::new(steady());
    let own = Options {
        ttl: Some(seconds(5.0)),
        ..Options::default()
    };
    world.push_with(0.0, "room", "ann", "a", own).unwrap();
    world.push(0.0, "ann", "b");
    let call = world.poll(0.0).remove(0);
    let batch = world.engine.batch(call.lease).unwrap();
    let failures = batch.messages().map(|message| Failure {
        seq: message.seq,
        error: None,
    });
    let failures = failures.collect();
    world
        .engine
        .settle_with(at(1.0), call.lease, Outcome::Done, failures, &mut world.out)
        .unwrap();
    world.engine.pause(at(1.5), None, None, &mut world.out);
    world.poll(2.0);
    world.poll(5.1);
    assert_eq!(world.ends(), [("a", End::Dead)]);
    world.engine.resume(at(6.0), None, &mut world.out);

    assert_eq!(world.starts(6.0), [["b"]]);
}

#[test]
fn messages_given_up_on_are_tried_one_by_one() {
    let mut world = World::new(steady());
    for word in ["a", "b", "c"] {
        world.push(0.0, "ann", word);
    }
    let call = world.poll(0.0).remove(0);
    let seqs: Vec<_> = world
        .engine
        .batch(call.lease)
        .unwrap()
        .messages()
        .map(|message| message.seq)
        .collect();
    world.push(1.0, "ann", "d");
    let failures = [2, 0].map(|place| Failure {
        seq: seqs[place],
        error: None,
    });
    world
        .engine
        .settle_with(
            at(1.0),
            call.lease,
            Outcome::Done,
            failures.into(),
            &mut world.out,
        )
        .unwrap();

    assert_eq!(world.ends(), [("b", End::Done)]);
    for (now, word) in [(2.0, "a"), (2.0, "c"), (2.0, "d")] {
        let call = world.poll(now).remove(0);
        assert_eq!(call.words, [word]);
        world.done(now, &call).unwrap();
    }
}

#[test]
fn a_failed_batch_is_halved_down_to_the_message_that_fails() {
    let mut world = World::new(Settings {
        split_failed: true,
        max_attempts: 1,
        ..steady()
    });
    let heard = Options {
        context: true,
        ..Options::default()
    };
    world.push_with(0.0, "room", "zoe", "x", heard).unwrap();
    for word in ["a", "b", "bad", "d", "e"] {
        world.push(0.0, "ann", word);
    }
    let mut calls = Vec::new();
    while let Some(call) = world.poll(1.0).pop() {
        let batch = world.engine.batch(call.lease).unwrap();
        let context = batch.context_len();
        calls.push((call.words.clone(), context));
        if call.words.contains(&"bad") {
            fail(&mut world, 1.0, &call);
        } else {
            world.done(1.0, &call).unwrap();
        }
    }
    assert_eq!(
        calls,
        [
            (vec!["a", "b", "bad", "d", "e"], 1),
            (vec!["a", "b", "bad"], 1),
            (vec!["a", "b"], 1),
            (vec!["bad"], 1),
            (vec!["d", "e"], 1),
        ]
    );
    let ends = world.ends();
    let dead: Vec<_> = ends.iter().filter(|it| it.1 == End::Dead).collect();
    assert_eq!(dead, [&("bad", End::Dead)]);
    assert_eq!(ends.last(), Some(&("x", End::Done)), "with the last part");
}

#[test]
fn a_snoozed_batch_comes_back_and_it_was_no_attempt() {
    let mut world = World::new(steady());
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "b");
    let outcome = Outcome::Snoozed(seconds(3.0));
    world
        .engine
        .settle(at(1.0), call.lease, outcome, &mut world.out)
        .unwrap();
    assert!(world.poll(3.9).is_empty());
    let call = world.poll(4.0).remove(0);
    assert_eq!(call.words, ["a"]);
    assert_eq!(world.engine.batch(call.lease).unwrap().attempt(), 1);
}

/// What comes meanwhile has come during the call, and is due when that is over (rule W5).
#[test]
fn a_snooze_without_end_is_a_backoff_too() {
    let mut world = World::new(Settings {
        lanes: Lanes::Group,
        quiet: seconds(30.0),
        max_wait: seconds(60.0),
        quiet_when_busy: false,
        ..steady()
    });
    let flush = Options {
        flush: true,
        ..Options::default()
    };
    world.push_with(0.0, "room", "ann", "a", flush).unwrap();
    let call = world.poll(0.0).remove(0);
    let outcome = Outcome::Snoozed(Duration::MAX);
    world
        .engine
        .settle(at(0.0), call.lease, outcome, &mut world.out)
        .unwrap();
    world.poll(0.5);
    world.push(1.0, "bob", "b");
    assert!(world.starts(1.0).is_empty());
    world
        .engine
        .stop(at(2.0), "room", Some("ann"), &mut world.out);

    assert_eq!(world.starts(2.0), [["b"]]);
}

#[test]
fn a_slow_call_is_asked_to_end_and_fenced_after_its_grace() {
    let mut world = World::new(Settings {
        handler_timeout: Some(seconds(10.0)),
        cancel_grace: seconds(2.0),
        max_attempts: 2,
        max_batch: Some(Size::ONE),
        ..steady()
    });
    world.push(0.0, "ann", "a");
    world.push(0.0, "ann", "b");
    let call = world.poll(0.0).remove(0);
    assert_eq!(world.wake_at(), Some(10.0));
    assert!(world.poll(10.0).is_empty(), "its lane is busy");
    assert_eq!(world.out.ending, [(call.lease, "timeout")]);
    assert!(world.poll(12.0).is_empty());
    assert_eq!(world.out.fenced, [call.lease]);
    assert!(world.done(12.5, &call).is_err(), "its lease is lost");
    let again = world.poll(13.0).remove(0);
    assert_eq!(again.words, ["a"]);
    // This time it ends in its grace, but as was decided.
    world.poll(23.0);
    world.done(24.0, &again).unwrap();
    assert_eq!(world.ends(), [("a", End::Dead)]);
    assert_eq!(world.starts(24.0), [["b"]]);
}

/// What a slow call cost in time is charged to its sender, whose next message is weighed anew.
#[test]
fn a_call_is_fenced_though_the_next_message_has_just_left() {
    let settings = Settings {
        lanes: Lanes::Message,
        handler_timeout: Some(seconds(2.0)),
        cancel_grace: seconds(1.0),
        max_concurrent_per_group: 1,
        max_attempts: 1,
        ..steady()
    };
    let mut world = World::new(Profile::always(settings, Strategy::LoadBalanced));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.poll(2.0); // it is asked to end
    world.push(2.5, "ann", "b");
    let first = Options {
        id: Some("first".into()),
        rank: Points::from_f64(1.0),
        ..Options::default()
    };
    world.push_with(2.5, "room", "ann", "c", first).unwrap();
    world.poll(2.5);
    assert!(
        world
            .engine
            .withdraw(at(2.5), "room", "first", &mut world.out)
    );

    assert_eq!(world.starts(3.0), [["b"]]);
    assert_eq!(world.out.fenced, [call.lease]);
}

#[test]
fn a_call_is_late_once_its_time_is_over_and_before_it_is_asked_to_end() {
    let mut world = World::new(Settings {
        handler_timeout: Some(seconds(10.0)),
        ..steady()
    });
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);

    assert!(!world.engine.is_late(at(10.0), call.lease));
    assert!(world.engine.is_late(at(10.1), call.lease));
    world.poll(10.1);
    assert_eq!(world.out.ending, [(call.lease, "timeout")]);
    assert!(world.engine.is_late(at(10.1), call.lease));
    world.failed(10.2, &call).expect("it has its grace");
    assert!(!world.engine.is_late(at(20.0), call.lease), "it is over");
}

#[test]
fn clear_takes_what_is_to_be_tried_again() {
    let mut world = World::new(steady());
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    fail(&mut world, 1.0, &call);
    world.push(1.0, "ann", "b");

    assert_eq!(world.engine.clear(at(1.5), Some("room"), &mut world.out), 2);
    assert_eq!(world.ledger(1.5).retrying, 0);
    assert!(world.poll(9.0).is_empty());
}

#[test]
fn what_came_during_a_backoff_is_due_after_the_last_attempt() {
    let mut world = World::new(Settings {
        quiet: seconds(30.0),
        max_wait: seconds(60.0),
        quiet_when_busy: false,
        ..steady()
    });
    world
        .push_with(
            0.0,
            "room",
            "ann",
            "a",
            Options {
                flush: true,
                ..Options::default()
            },
        )
        .unwrap();
    let call = world.poll(0.0).remove(0);
    fail(&mut world, 1.0, &call);
    world.push(1.5, "ann", "b");
    let call = world.poll(2.0).remove(0);
    world.done(3.0, &call).unwrap();

    assert_eq!(world.starts(3.0), [["b"]]);
}

#[test]
fn no_pause_stays_none_after_any_number_of_failures() {
    let mut world = World::new(Settings {
        max_attempts: 200,
        backoff: seconds(0.0),
        backoff_factor: 1000.0,
        ..steady()
    });
    world.push(0.0, "ann", "a");
    for _ in 0..150 {
        let call = world.poll(0.0).remove(0);
        fail(&mut world, 0.0, &call);
    }
}

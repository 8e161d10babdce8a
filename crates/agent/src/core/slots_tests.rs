//! A thousand slots, what of them a turn is about, and what is noted of them against a look at them all.

use mintage_identity::UnixTime;

use super::*;
use crate::{
    core::slot::Purpose,
    rotation::{BACKDATE, Event, Jitter},
};

const START: Now = Now {
    wall: UnixTime::from_seconds(1_800_000_000),
    boot: Duration::from_secs(1_000),
};

fn later(by: Duration) -> Now {
    Now {
        wall: START.wall.plus(by),
        boot: START.boot + by,
    }
}

fn key(nth: u64) -> SlotKey {
    SlotKey::Workload(EntryName::parse(&format!("w{nth}")).unwrap())
}

fn feed(slots: &mut Slots, key: &SlotKey, event: Event, now: Now) {
    let slot = slots.get_mut(key).unwrap();
    slot.rotation = slot.rotation.step(event, now, Jitter(0)).0;
}

/// A thousand that were just given certificates of these lifetimes in seconds; nothing of them is touched.
fn thousand(life: impl Fn(u64) -> u64) -> Slots {
    let mut slots = Slots::default();
    for nth in 0..1_000 {
        let SlotKey::Workload(entry) = key(nth) else { continue };
        slots.insert(key(nth), Slot::new(Purpose::Workload { entry }));
        let ttl = Duration::from_secs(life(nth));
        let came = Event::Received {
            not_before: START.wall.minus(BACKDATE),
            not_after: START.wall.plus(ttl),
            age: Duration::ZERO,
        };
        for event in [Event::Want { ttl }, Event::Online, came] {
            feed(&mut slots, &key(nth), event, START);
        }
    }
    assert!(slots.begin_turn(START), "the first turn looks at all");
    slots.end_turn(START);
    slots
}

fn touched(slots: &Slots) -> Vec<SlotKey> {
    slots.touched_of(|_, _| true)
}

#[test]
fn a_turn_is_about_what_was_touched_and_what_is_due_and_no_other_of_a_thousand() {
    let mut slots = thousand(|nth| 600 + nth);
    let now = later(Duration::from_millis(200));
    assert!(!slots.begin_turn(now));
    assert_eq!(touched(&slots), []);
    feed(&mut slots, &key(7), Event::RenewNow, now);
    assert_eq!(touched(&slots), [key(7)]);
    slots.end_turn(now);
    let asking = slots.get(&key(7)).unwrap().wake_at(now);
    assert!(asking.is_some_and(|at| at < START.boot + Duration::from_secs(60)));
    assert_eq!(slots.wake_at(), asking, "its ask is the next that is waited for");

    // The first of the others is due at 45 % of the shortest lifetime; clocks were compared meanwhile.
    slots.remove(&key(7));
    let due = Duration::from_secs(270);
    assert_eq!(slots.wake_at(), Some(START.boot + due));
    slots.begin_turn(later(due - Duration::from_secs(2)));
    slots.end_turn(later(due - Duration::from_secs(2)));
    assert!(!slots.begin_turn(later(due)));
    assert_eq!(touched(&slots), [key(0)]);
}

#[test]
fn all_are_looked_at_when_a_clock_was_set_and_now_and_then() {
    let second = Duration::from_secs(1);
    let sets: [(bool, Now); 6] = [
        (false, later(second * 4)),
        (true, later(TICK_MAX)),
        (
            true,
            Now {
                boot: START.boot,
                ..later(second * 3600)
            },
        ),
        (
            true,
            Now {
                wall: START.wall,
                ..later(second)
            },
        ),
        (
            true,
            Now {
                wall: START.wall.minus(second),
                ..START
            },
        ),
        (
            false,
            Now {
                wall: START.wall.plus(second / 2),
                ..later(second)
            },
        ),
    ];
    for (all, now) in sets {
        let mut slots = thousand(|_| 600);
        assert_eq!(slots.begin_turn(now), all, "{now:?}");
        assert_eq!(touched(&slots).len(), if all { 1_000 } else { 0 }, "{now:?}");
    }
}

#[test]
fn what_is_noted_is_what_a_look_at_all_finds_whatever_came_before() {
    let mut slots = thousand(|nth| 60 + nth % 7);
    let mut draw = 1_u64;
    for step in 0..4_000_u64 {
        let now = later(Duration::from_millis(step * 20));
        slots.begin_turn(now);
        for due in slots.touched_of(|_, slot| slot.rotation.is_due(now)) {
            feed(&mut slots, &due, Event::Tick, now);
        }
        draw = draw
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let some = key(draw >> 33 & 1_023);
        match draw >> 60 {
            0 => _ = slots.remove(&some),
            1 => {
                let SlotKey::Workload(entry) = some.clone() else {
                    continue;
                };
                slots.insert(some, Slot::new(Purpose::Workload { entry }));
            }
            2 if slots.contains_key(&some) => feed(&mut slots, &some, Event::Unwant, now),
            3 if slots.contains_key(&some) => {
                let ttl = Duration::from_secs(60 + draw % 5);
                feed(&mut slots, &some, Event::Want { ttl }, now);
            }
            _ if slots.contains_key(&some) => feed(&mut slots, &some, Event::Failed { soon: true }, now),
            _ => {}
        }
        slots.end_turn(now);
        if step % 100 == 0 {
            let lives = slots.values().filter_map(|slot| slot.rotation.bounding_life());
            let wakes = slots.values().filter_map(|slot| slot.wake_at(now));
            let found = (slots.values().count(), lives.min(), wakes.min());
            assert_eq!(
                (slots.workloads(), slots.shortest_life(), slots.wake_at()),
                found,
                "step {step}"
            );
        }
    }
    assert!(slots.values().count() < 1_000);
    for nth in 0..1_024 {
        slots.remove(&key(nth));
    }
    assert!(slots.times.is_empty() && slots.lives.is_empty() && slots.touched.is_empty());
    assert_eq!((slots.workloads(), slots.serving()), (0, 0), "nothing is left behind");
}

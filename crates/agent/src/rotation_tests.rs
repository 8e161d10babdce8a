//! Attacks on the rotation state machine: simulated days with failing CAs, stepped clocks and long sleeps.

use proptest::prelude::*;

use super::*;

const START: Now = Now {
    wall: UnixTime::from_seconds(1_800_000_000),
    boot: Duration::from_secs(1_000),
};

const MILLI: Duration = Duration::from_millis(1);

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn later(now: Now, by: Duration) -> Now {
    Now {
        wall: now.wall.plus(by),
        boot: now.boot + by,
    }
}

fn received(now: Now, ttl: Duration) -> Event {
    Event::Received {
        not_before: now.wall.minus(BACKDATE),
        not_after: now.wall.plus(ttl),
        age: Duration::ZERO,
    }
}

fn holding(ttl: Duration, jitter: Jitter) -> Rotation {
    let (state, _) = Rotation::new().step(Event::Want { ttl }, START, jitter);
    let (state, actions) = state.step(Event::Online, START, jitter);
    assert_eq!(actions, [Action::Ask]);
    state.step(received(START, ttl), START, jitter).0
}

#[test]
fn first_ask_is_immediate_and_renewal_falls_into_the_window() {
    for jitter in [0, 1, 30_000, u16::MAX] {
        let state = holding(secs(600), Jitter(jitter));
        let wake = state.wake_at(START).unwrap() - START.boot;
        assert!((secs(270)..=secs(330)).contains(&wake), "{wake:?}");
        let early = later(START, wake - Duration::from_millis(1));
        assert_eq!(state.step(Event::Tick, early, Jitter(jitter)).1, []);
        assert_eq!(
            state.step(Event::Tick, later(START, wake), Jitter(jitter)).1,
            [Action::Ask]
        );
    }
}

#[test]
fn backdate_is_not_lifetime() {
    // 60 s of life: the window is 27 s to 33 s, not 40 s to 50 s of the 90 s between the two dates.
    let wake = holding(secs(60), Jitter(u16::MAX)).wake_at(START).unwrap() - START.boot;
    assert_eq!(wake, secs(33));
}

#[test]
fn nothing_is_asked_while_offline_and_a_lost_ask_comes_again_at_once() {
    let (state, actions) = Rotation::new().step(Event::Want { ttl: secs(600) }, START, Jitter(0));
    assert_eq!(actions, []);
    let (state, actions) = state.step(Event::Online, START, Jitter(0));
    assert_eq!(actions, [Action::Ask]);
    let now = later(START, secs(3));
    let (state, actions) = state.step(Event::Offline, now, Jitter(0));
    assert_eq!(actions, []);
    assert_eq!(state.wake_at(now), None, "only an event can help now");
    assert_eq!(
        state.step(Event::Online, later(now, secs(60)), Jitter(0)).1,
        [Action::Ask]
    );
}

/// The waits between the asks of one identity whose CA answers every ask like this, from the first renewal on.
fn gaps_between_asks(ttl: Duration, answer: Option<Event>) -> Vec<Duration> {
    let mut state = holding(ttl, Jitter(0));
    let mut now = later(START, ttl / 2);
    let mut asks = Vec::new();
    for _ in 0..3_000 {
        let (next, actions) = state.step(Event::Tick, now, Jitter(u16::MAX));
        state = next;
        if actions.contains(&Action::Ask) {
            asks.push(now.boot);
            state = answer.map_or(state, |answer| state.step(answer, now, Jitter(u16::MAX)).0);
        }
        // As the agent's loop does: it wakes when the state asks for it.
        now = later(
            now,
            state
                .wake_at(now)
                .unwrap()
                .saturating_sub(now.boot)
                .clamp(MILLI, secs(5)),
        );
    }
    asks.windows(2).map(|w| w[1] - w[0]).collect()
}

#[test]
fn whatever_the_ca_does_the_next_ask_comes_within_a_tenth_of_the_lifetime() {
    for ttl in [60, 61, 100, 600, 3_600].map(secs) {
        for answer in [
            None,
            Some(Event::Failed { soon: true }),
            Some(Event::Failed { soon: false }),
        ] {
            let gaps = gaps_between_asks(ttl, answer);
            assert!(gaps.len() >= 8, "{ttl:?} {answer:?}: {gaps:?}");
            let longest = gaps.iter().max().unwrap();
            assert!(*longest <= ttl / 10 + MILLI, "{ttl:?} {answer:?}: {longest:?}");
            // Not by hammering: the waits grow until they fill the tenth.
            assert!(*longest + MILLI * 5 >= ttl / 10, "{ttl:?} {answer:?}: {longest:?}");
            assert!(
                gaps.windows(2).all(|w| w[1] + MILLI * 5 >= w[0]),
                "{ttl:?} {answer:?}: {gaps:?}"
            );
        }
    }
}

#[test]
fn refusal_that_will_not_change_waits_a_tenth_of_the_lifetime() {
    let state = holding(secs(600), Jitter(0));
    let now = later(START, secs(330));
    let (state, _) = state.step(Event::Tick, now, Jitter(0));
    let (state, actions) = state.step(Event::Failed { soon: false }, now, Jitter(0));
    assert_eq!(actions, []);
    assert_eq!(state.wake_at(now).unwrap() - now.boot, secs(30));
}

#[test]
fn renew_now_asks_at_once_even_when_it_comes_during_an_ask() {
    let state = holding(secs(600), Jitter(0));
    let now = later(START, secs(5));
    let (state, actions) = state.step(Event::RenewNow, now, Jitter(0));
    assert_eq!(actions, [Action::Ask]);
    let (state, actions) = state.step(Event::RenewNow, now, Jitter(0));
    assert_eq!(actions, [], "one ask at a time");
    let now = later(now, secs(1));
    let (state, actions) = state.step(received(now, secs(600)), now, Jitter(0));
    assert_eq!(
        actions,
        [Action::Ask],
        "the certificate that came was asked for before the demand"
    );
    let now = later(now, secs(1));
    let (_, actions) = state.step(received(now, secs(600)), now, Jitter(0));
    assert_eq!(actions, [], "and then it is enough");
}

#[test]
fn what_the_ca_demands_before_its_entries_have_come_is_asked_for_as_they_come() {
    let dates = Event::Restored {
        not_before: START.wall.minus(BACKDATE),
        not_after: START.wall.plus(secs(600)),
    };
    let want = Event::Want { ttl: secs(600) };
    let asked = |events: &[Event]| {
        let mut state = Rotation::new();
        let mut asked = 0;
        for event in events {
            let (next, actions) = state.step(*event, START, Jitter(0));
            (state, asked) = (next, asked + actions.len());
        }
        asked
    };
    assert_eq!(
        asked(&[dates, Event::Online, Event::RenewNow]),
        0,
        "no entry says that it may be had"
    );
    assert_eq!(asked(&[dates, Event::Online, Event::RenewNow, want]), 1);
    assert_eq!(asked(&[dates, Event::Online, want]), 0);
    assert_eq!(asked(&[dates, Event::Online, Event::RenewNow, Event::Unwant, want]), 0);
}

#[test]
fn expiry_is_told_once_and_renewal_stops_when_unwanted() {
    let (state, _) = holding(secs(60), Jitter(0)).step(Event::Offline, START, Jitter(0));
    let end = later(START, secs(60));
    assert!(state.serving(later(START, secs(59))) && !state.serving(end));
    assert_eq!(state.wake_at(START), Some(end.boot));
    let (state, actions) = state.step(Event::Tick, end, Jitter(0));
    assert_eq!(actions, [Action::Lapsed]);
    assert_eq!(state.step(Event::Tick, later(end, secs(1)), Jitter(0)).1, []);
    let (state, _) = holding(secs(60), Jitter(0)).step(Event::Unwant, START, Jitter(0));
    assert_eq!(state.step(Event::Tick, later(START, secs(40)), Jitter(0)).1, []);
}

#[test]
fn clock_set_back_does_not_delay_and_clock_set_forward_renews_once_spread_out() {
    let state = holding(secs(600), Jitter(0));
    let back = Now {
        wall: START.wall.minus(secs(3600)),
        boot: START.boot + secs(270),
    };
    assert_eq!(state.step(Event::Tick, back, Jitter(0)).1, [Action::Ask]);

    let forward = Now {
        wall: START.wall.plus(secs(400)),
        boot: START.boot + secs(10),
    };
    let (spread, actions) = state.step(Event::Tick, forward, Jitter(u16::MAX));
    assert_eq!(actions, [], "an even share of a tenth of the lifetime comes first");
    assert_eq!(spread.wake_at(forward).unwrap() - forward.boot, secs(60));
    let due = later(forward, secs(60));
    let (asking, actions) = spread.step(Event::Tick, due, Jitter(0));
    assert_eq!(actions, [Action::Ask]);
    // The CA's clock did not move: by this node's clock the new certificate is old at once. It still waits its time.
    let new = Event::Received {
        not_before: START.wall,
        not_after: START.wall.plus(secs(630)),
        age: Duration::ZERO,
    };
    let (fresh, actions) = asking.step(new, due, Jitter(0));
    assert_eq!(actions, []);
    let (_, actions) = fresh.step(Event::Tick, later(due, secs(200)), Jitter(0));
    assert!(!actions.contains(&Action::Ask), "no hot loop");
}

#[test]
fn ten_years_forward_and_1970_do_not_spin() {
    for wall in [
        START.wall.plus(secs(315_360_000)),
        UnixTime::from_seconds(0),
        UnixTime::from_seconds(2_147_483_648),
    ] {
        let mut state = holding(secs(600), Jitter(0));
        let mut asks = 0;
        for tick in 0..600u64 {
            let now = Now {
                wall: wall.plus(secs(tick)),
                boot: START.boot + secs(tick),
            };
            let (next, actions) = state.step(Event::Tick, now, Jitter(9_999));
            state = next;
            if actions.contains(&Action::Ask) {
                asks += 1;
                // The CA lives in another time; its certificates have ended for this clock.
                let answer = Event::Received {
                    not_before: START.wall,
                    not_after: START.wall.plus(secs(630)),
                    age: Duration::ZERO,
                };
                state = state.step(answer, now, Jitter(9_999)).0;
            }
        }
        assert!(asks <= 4, "{asks} asks in ten minutes at {wall:?}");
    }
}

#[test]
fn after_a_sleep_past_every_lifetime_the_asks_of_many_are_spread_over_seconds() {
    for (ttl, most) in [(600, 5_000), (86_400, 5_000), (60, 3_000)] {
        let now = later(START, secs(2 * 86_400));
        let mut waits = Vec::new();
        for nth in 0..100u16 {
            let jitter = Jitter(nth * (u16::MAX / 99));
            let (state, actions) = holding(secs(ttl), jitter).step(Event::Tick, now, jitter);
            assert_eq!(actions.first(), Some(&Action::Lapsed));
            if actions.contains(&Action::Ask) {
                waits.push(0);
                continue;
            }
            let wake = state.wake_at(now).unwrap();
            let (state, actions) = state.step(Event::Tick, later(now, wake - now.boot), jitter);
            assert_eq!(actions, [Action::Ask], "once, and then it asks");
            assert!(state.asking());
            waits.push(u64::try_from((wake - now.boot).as_millis()).unwrap());
        }
        assert!(
            waits[0] == 0 && (most * 99 / 100..=most).contains(&waits[99]),
            "{ttl}: {waits:?}"
        );
        let early = waits.iter().filter(|wait| **wait <= most / 10).count();
        assert!(early <= 12, "{early} of 100 asked in the first tenth");
    }
}

/// As after an outage that outlasted the certificate.
#[test]
fn e64_ten_thousand_agents_that_restart_at_once_ask_over_seconds_and_all_before_their_certificates_end() {
    const AGENTS: u32 = 10_000;
    let ttl = secs(600);
    // They were off for three tenths of a lifetime; as they went off their certificates were of every age up to renewal.
    let asks = (0..AGENTS).map(|nth| {
        let age = ttl * 3 / 10 + ttl * 9 / 20 * nth / AGENTS;
        let dates = Event::Restored {
            not_before: START.wall.minus(age).minus(BACKDATE),
            not_after: START.wall.minus(age).plus(ttl),
        };
        let jitter = Jitter((u64::from(nth) * 40_503 % 65_536) as u16);
        let mut state = Rotation::new().step(dates, START, jitter).0;
        let mut asked = state.step(Event::Want { ttl }, START, jitter);
        state = asked.0;
        asked = state.step(Event::Online, START, jitter);
        let mut now = START;
        while !asked.1.contains(&Action::Ask) {
            let at = asked.0.wake_at(now).unwrap();
            now = later(START, at.max(now.boot) - START.boot);
            asked = asked.0.step(Event::Tick, now, jitter);
        }
        let waited = now.boot - START.boot;
        assert!(age + waited < ttl, "{nth} asks when it has ended");
        waited.as_secs()
    });
    let mut each_second = vec![0; 600];
    asks.for_each(|second| each_second[second as usize] += 1);
    let most = each_second.iter().max().unwrap();
    assert!(*most <= AGENTS / 40, "{most} in one second");
}

#[test]
fn an_ended_certificate_is_asked_for_over_seconds_when_the_ca_is_back() {
    let (state, _) = holding(secs(600), Jitter(0)).step(Event::Offline, START, Jitter(0));
    let now = later(START, secs(700));
    let (state, actions) = state.step(Event::Tick, now, Jitter(0));
    assert_eq!(actions, [Action::Lapsed]);
    let (state, actions) = state.step(Event::Online, now, Jitter(u16::MAX));
    assert_eq!(actions, []);
    assert_eq!(state.wake_at(now).unwrap() - now.boot, secs(5));
    // A demand does not wait.
    assert_eq!(state.step(Event::RenewNow, now, Jitter(u16::MAX)).1, [Action::Ask]);
}

#[test]
fn without_a_ca_for_two_lifetimes_it_serves_until_expiry_wakes_seldom_and_asks_once_it_is_back() {
    for ttl in [60, 600, 86_400].map(secs) {
        let (mut state, actions) = holding(ttl, Jitter(0)).step(Event::Offline, START, Jitter(0));
        assert_eq!(actions, []);
        let (mut now, back) = (START, later(START, ttl * 2));
        let (mut wakes, mut lapses) = (0, Vec::new());
        while now.boot < back.boot {
            let wake = state.wake_at(now).unwrap_or(back.boot).max(now.boot + MILLI);
            now = later(now, wake - now.boot);
            let (next, actions) = state.step(Event::Tick, now, Jitter(u16::MAX));
            state = next;
            wakes += 1;
            assert!(!actions.contains(&Action::Ask), "{ttl:?}: asked of nobody");
            lapses.extend(actions.contains(&Action::Lapsed).then_some(now.boot - START.boot));
            assert_eq!(
                state.serving(now),
                now.boot - START.boot < ttl,
                "{ttl:?}: {:?}",
                now.boot
            );
        }
        assert_eq!(lapses, [ttl], "told once, at the very end");
        assert!(wakes <= 4, "{ttl:?}: woken {wakes} times with nothing to do");
        assert_eq!(state.step(Event::Online, now, Jitter(0)).1, [Action::Ask]);
    }
}

#[test]
fn restored_certificate_counts_its_age_by_its_dates() {
    let dates = Event::Restored {
        not_before: START.wall.minus(secs(230)),
        not_after: START.wall.plus(secs(400)),
    };
    let (state, _) = Rotation::new().step(dates, START, Jitter(0));
    let (state, _) = state.step(Event::Want { ttl: secs(600) }, START, Jitter(0));
    let (state, actions) = state.step(Event::Online, START, Jitter(0));
    assert_eq!(actions, []);
    assert!(state.serving(START));
    assert_eq!(
        state.wake_at(START).unwrap() - START.boot,
        secs(70),
        "270 s less the 200 s it is old"
    );
}

#[derive(Debug, Clone)]
enum Op {
    Sleep(u16),
    Suspend(u32),
    StepWall(i32),
    CaDown(bool),
    Refuse(bool),
    RenewNow,
    LoseReply,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1u16..120).prop_map(Op::Sleep),
        1 => (1u32..20_000).prop_map(Op::Suspend),
        1 => (-90_000i32..90_000).prop_map(Op::StepWall),
        1 => any::<bool>().prop_map(Op::CaDown),
        1 => any::<bool>().prop_map(Op::Refuse),
        1 => Just(Op::RenewNow),
        1 => Just(Op::LoseReply),
    ]
}

/// A world of one identity and one CA whose clock is true time.
struct World {
    state: Rotation,
    now: Now,
    /// True time; the CA dates certificates by it.
    truth: UnixTime,
    ttl: Duration,
    ca_up: bool,
    refusing: bool,
    lose_next: bool,
    asks: Vec<Duration>,
    /// End of the certificate in hand in true time.
    ends: Option<UnixTime>,
    seed: u32,
    /// True time since when nothing kept the identity from being renewed.
    calm_since: UnixTime,
    demanded: usize,
}

impl World {
    fn jitter(&mut self) -> Jitter {
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Jitter((self.seed >> 16) as u16)
    }

    fn feed(&mut self, event: Event) {
        let jitter = self.jitter();
        if !self.state.is_due(self.now) {
            // The agent's loop passes over whoever is not due.
            let ticked = self.state.step(Event::Tick, self.now, jitter);
            assert_eq!(
                ticked,
                (self.state, Vec::new()),
                "a tick does something though nothing is due"
            );
        }
        let (state, actions) = self.state.step(event, self.now, jitter);
        self.state = state;
        if actions.contains(&Action::Ask) {
            assert!(self.ca_up, "asked a CA that cannot be reached");
            self.asks.push(self.now.boot);
            if std::mem::take(&mut self.lose_next) {
                return;
            }
            if self.refusing {
                return self.feed(Event::Failed { soon: true });
            }
            self.ends = Some(self.truth.plus(self.ttl));
            self.feed(Event::Received {
                not_before: self.truth.minus(BACKDATE),
                not_after: self.truth.plus(self.ttl),
                age: Duration::ZERO,
            });
        }
    }

    fn pass(&mut self, by: Duration) {
        self.truth = self.truth.plus(by);
        self.now = later(self.now, by);
    }

    /// Passes time as the agent's loop does: it wakes when the state asks for it, and at least every five seconds.
    fn live(&mut self, whole: Duration) {
        let end = self.now.boot + whole;
        while self.now.boot < end {
            let wake = self
                .state
                .wake_at(self.now)
                .unwrap_or(end)
                .min(self.now.boot + secs(5))
                .min(end);
            self.pass(wake.saturating_sub(self.now.boot).max(Duration::from_millis(20)));
            self.feed(Event::Tick);
            let calm = self.truth.since(self.calm_since) > self.ttl;
            assert!(
                !calm || self.ends.is_some_and(|end| end > self.truth),
                "no certificate while the CA is up"
            );
        }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Sleep(s) => self.live(secs(u64::from(s))),
            Op::Suspend(s) => {
                self.pass(secs(u64::from(s)));
                self.calm_since = self.truth;
            }
            Op::StepWall(s) => {
                self.now.wall = UnixTime::from_millis(self.now.wall.millis() + i64::from(s) * 1000);
            }
            Op::CaDown(down) => {
                self.ca_up = !down;
                self.feed(if down { Event::Offline } else { Event::Online });
            }
            Op::Refuse(refusing) => self.refusing = refusing,
            Op::RenewNow => {
                self.demanded += 1;
                self.feed(Event::RenewNow);
            }
            Op::LoseReply => self.lose_next = true,
        }
        if !self.ca_up || self.refusing || self.lose_next {
            self.calm_since = self.truth.plus(secs(1_000_000_000));
        } else if self.calm_since > self.truth {
            self.calm_since = self.truth;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn never_without_a_certificate_while_the_ca_is_up_and_never_a_hot_loop(
        ttl in prop_oneof![Just(60u64), Just(600), 60u64..3_600],
        ops in proptest::collection::vec(op(), 1..60),
        seed: u32,
    ) {
        let mut world = World {
            state: Rotation::new(), now: START, truth: START.wall, ttl: secs(ttl), ca_up: true, refusing: false,
            lose_next: false, asks: Vec::new(), ends: None, seed, calm_since: START.wall, demanded: 0,
        };
        world.feed(Event::Want { ttl: secs(ttl) });
        world.feed(Event::Online);
        for op in &ops {
            world.run(op);
        }
        prop_assert!(world.asks.windows(2).all(|w| w[1] - w[0] >= ASK_GAP), "asked twice within the gap");
        // Any minute holds at most the backed-off retries and what was demanded.
        let most = world
            .asks
            .iter()
            .map(|at| world.asks.iter().filter(|other| **other >= *at && **other < *at + secs(60)).count())
            .max()
            .unwrap_or(0);
        prop_assert!(most <= 24 + 2 * world.demanded, "{} asks within a minute", most);
    }

    #[test]
    fn renewals_are_spread_evenly_over_the_window(seed: u32) {
        let mut world = seed;
        let mut tenths = [0u32; 10];
        for _ in 0..2_000 {
            world = world.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let wake = holding(secs(1_000), Jitter((world >> 16) as u16)).wake_at(START).unwrap() - START.boot;
            let within = wake.checked_sub(secs(450)).unwrap().as_millis();
            tenths[usize::try_from(within / 10_001).unwrap().min(9)] += 1;
        }
        prop_assert!(tenths.iter().all(|n| (120..=280).contains(n)), "{tenths:?}");
    }
}

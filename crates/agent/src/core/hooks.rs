//! When the hooks of a folder run: after each change, at least once, one change at a time; again after a failure; inside
//! the window, unless what the servers hold would end. A start counts as a change, since a crash may have come between the
//! swap and its hooks.

use std::{sync::Arc, time::Duration};

use mintage_identity::UnixTime;

use super::{
    Core, Input, boot,
    slot::{Slot, SlotKey, Trouble},
};
use crate::{
    AgentEvent,
    config::{Delivery, Window},
    held::Held,
    hook::Change,
    limits::{HOOK_RETRY_FIRST, HOOK_RETRY_MAX},
    rotation::Now,
};

/// Part of a lifetime that is left when the window no longer matters, and that a wait may take.
const LAST_PART: u32 = 10;

/// Where the hooks of one folder stand.
#[derive(Debug, Default)]
pub(crate) struct Acting {
    /// The folder has changed since they last began, or they failed.
    wanted: bool,
    running: bool,
    failures: u32,
    /// Not before this time since boot.
    after: Duration,
    /// End and lifetime of what the servers read when they last succeeded.
    served: Option<(UnixTime, Duration)>,
    pub(crate) trouble: Option<Trouble>,
}

impl Acting {
    /// The folder has changed; what failed before says nothing about the new content.
    fn want(&mut self) {
        (self.wanted, self.failures, self.after) = (true, 0, Duration::ZERO);
    }

    /// How long until the hooks run; `None` while there is nothing to do.
    pub(super) fn due_in(&self, window: Option<Window>, now: Now) -> Option<Duration> {
        if !self.wanted || self.running {
            return None;
        }
        let opens = window.map_or(Duration::ZERO, |window| window.opens_in(now.wall));
        // Servers that were never told have nothing that could be waited for.
        let must = self.served.map_or(Duration::ZERO, |(end, life)| {
            end.since(now.wall).saturating_sub(life / LAST_PART)
        });
        Some(self.after.saturating_sub(now.boot).max(opens.min(must)))
    }

    /// Nothing is wanted any more. What runs goes on to its end, so that no other begins beside it.
    pub(super) fn forget(&mut self) {
        *self = Self {
            running: self.running,
            ..Self::default()
        };
    }

    fn begin(&mut self) {
        (self.wanted, self.running) = (false, true);
    }

    fn succeeded(&mut self, end: UnixTime, life: Duration) {
        self.running = false;
        self.served = Some((end, life));
        self.trouble = None;
    }

    /// Tries again by itself, unless the change is no longer wanted.
    fn failed(&mut self, now: Now, life: Duration) {
        let wait = HOOK_RETRY_FIRST * 2_u32.saturating_pow(self.failures.min(16));
        let most = HOOK_RETRY_MAX.min(life / LAST_PART).max(HOOK_RETRY_FIRST);
        self.failures = self.failures.saturating_add(1);
        (self.running, self.wanted) = (false, true);
        self.after = boot(now) + wait.min(most);
    }
}

impl Core {
    /// A folder's content is in place.
    pub(super) fn folder_changed(&mut self, key: &SlotKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        match slot.delivery().is_some_and(Delivery::acts) {
            true => slot.acting.want(),
            false => slot.acting.forget(),
        }
    }

    /// Begins what is due.
    pub(super) fn act(&mut self) {
        let now = self.shared.deps.now();
        let due = |_: &SlotKey, slot: &Slot| slot.hooks_due_in(now) == Some(Duration::ZERO);
        for key in self.slots.touched_of(due) {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            let (Some(delivery), Some(held)) = (slot.delivery().cloned(), slot.held.clone()) else {
                slot.acting = Acting::default();
                continue;
            };
            slot.acting.begin();
            let change = Change {
                provider: self.shared.deps.provider.clone(),
                delivery,
                held: held.clone(),
            };
            let (permits, inbox) = (self.acting.clone(), self.inbox.clone());
            tokio::spawn(async move {
                let Ok(permit) = permits.acquire().await else { return };
                let result = change.carry_out().await;
                drop(permit);
                let _ = inbox.send(Input::Acted { key, held, result }).await;
            });
        }
    }

    /// The hooks of a change ended.
    pub(super) fn acted(&mut self, key: &SlotKey, held: &Arc<Held>, result: Result<(), (&'static str, String)>) {
        let now = self.shared.deps.now();
        let life = held.not_after().since(held.not_before());
        let Some(slot) = self.slots.get_mut(key) else { return };
        let (stage, message) = match result {
            Ok(()) => {
                slot.acting.succeeded(held.not_after(), life);
                let Some(delivery) = slot.delivery() else { return };
                let (entry, directory) = (delivery.entry().clone(), delivery.directory().to_owned());
                tracing::info!(%entry, serial = %held.serial(), directory = %directory.display(), "hooks succeeded");
                return self.shared.tell(AgentEvent::Acted {
                    entry,
                    serial: *held.serial(),
                    directory,
                });
            }
            Err(failed) => failed,
        };
        // Without a certificate there is nothing to tell anybody.
        match slot.held.is_some() {
            true => slot.acting.failed(now, life),
            false => slot.acting = Acting::default(),
        }
        let trouble = Trouble { stage, message };
        if slot.acting.trouble.as_ref() == Some(&trouble) {
            self.shared.metrics.failure(stage);
        } else {
            self.shared.problem(stage, &slot.subject(), &trouble.message);
            slot.acting.trouble = Some(trouble);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(3600);

    fn at(hour: i64, boot_s: u64) -> Now {
        Now {
            wall: UnixTime::from_seconds(1_800_057_600 + hour * 3600),
            boot: Duration::from_secs(boot_s),
        }
    }

    #[test]
    fn hooks_run_once_for_each_change_and_again_for_one_that_came_meanwhile() {
        let mut acting = Acting::default();
        assert_eq!(acting.due_in(None, at(0, 0)), None);
        acting.want();
        assert_eq!(acting.due_in(None, at(0, 0)), Some(Duration::ZERO));
        acting.begin();
        assert_eq!(acting.due_in(None, at(0, 0)), None);
        acting.want();
        acting.succeeded(at(1, 0).wall, LIFE);
        assert_eq!(acting.due_in(None, at(0, 0)), Some(Duration::ZERO));
        acting.begin();
        acting.succeeded(at(1, 0).wall, LIFE);
        assert_eq!(acting.due_in(None, at(0, 0)), None);
    }

    #[test]
    fn what_is_forgotten_while_it_runs_keeps_its_place_until_it_ends() {
        let mut acting = Acting::default();
        acting.want();
        acting.begin();
        acting.forget();
        acting.want();
        assert_eq!(acting.due_in(None, at(0, 0)), None);
        acting.succeeded(at(1, 0).wall, LIFE);
        assert_eq!(acting.due_in(None, at(0, 0)), Some(Duration::ZERO));
    }

    #[test]
    fn failures_wait_longer_and_longer_but_never_past_a_tenth_of_the_lifetime() {
        let mut acting = Acting::default();
        acting.want();
        let mut waits = Vec::new();
        for _ in 0..9 {
            acting.begin();
            acting.failed(at(0, 100), Duration::from_secs(300));
            waits.push(acting.due_in(None, at(0, 100)).unwrap().as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30, 30]);
        acting.want();
        assert_eq!(acting.due_in(None, at(0, 100)), Some(Duration::ZERO));
    }

    #[test]
    fn a_window_is_waited_for_only_as_long_as_what_is_served_lasts() {
        // 00:00 of a day.
        assert_eq!(at(0, 0).wall.seconds() % 86_400, 0);
        let window = Some(Window::parse("04:00-05:00").unwrap());
        let mut acting = Acting::default();
        acting.want();
        assert_eq!(
            acting.due_in(window, at(0, 0)),
            Some(Duration::ZERO),
            "nothing is served yet"
        );
        acting.begin();
        acting.succeeded(at(20, 0).wall, Duration::from_secs(20 * 3600));
        acting.want();
        assert_eq!(acting.due_in(window, at(0, 0)), Some(Duration::from_secs(4 * 3600)));
        assert_eq!(acting.due_in(window, at(4, 0)), Some(Duration::ZERO));
        acting.succeeded(at(2, 0).wall, Duration::from_secs(10 * 3600));
        assert_eq!(acting.due_in(window, at(0, 0)), Some(LIFE), "an hour before its end");
        assert_eq!(
            acting.due_in(window, at(3, 0)),
            Some(Duration::ZERO),
            "it has ended already"
        );
    }
}

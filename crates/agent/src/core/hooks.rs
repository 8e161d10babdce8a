//! When the hooks of a folder run: after each change, at least once, one change at a time; again after a failure, those that
//! succeeded not again; inside the window, unless what the servers hold is refused by now or would end. What they were told
//! of last is kept, so that a start is a change only where a crash came between the swap and its hooks.

use std::{sync::Arc, time::Duration};

use super::{
    Core, Input, boot,
    slot::{Slot, SlotKey, Trouble},
};
use crate::{
    AgentEvent,
    config::{Delivery, Window},
    held::Held,
    hook::{Change, Content, Round, Served, Stopped},
    limits::{HOOK_RETRY_FIRST, HOOK_RETRY_MAX, HOOKS_AGAIN_AFTER_LOOKS},
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
    /// What lies in the folder.
    content: Option<Content>,
    /// Hooks that succeeded for it, from the first on.
    done: usize,
    /// Only the look at what is served is due: the hooks have all succeeded.
    looking: bool,
    /// Looks at it that failed.
    looks: u32,
    failures: u32,
    /// Not before this time since boot.
    after: Duration,
    /// The window does not matter.
    urgent: bool,
    /// The next content is told from the beginning, even if it is the same.
    anew: bool,
    /// What the servers read when they last succeeded.
    served: Option<Served>,
    pub(crate) trouble: Option<Trouble>,
}

impl Acting {
    /// What servers were told of before a restart.
    pub(super) fn restore(&mut self, served: Option<Served>) {
        self.served = served;
    }

    /// This is in the folder now.
    fn changed(&mut self, content: Content) {
        let under_way = self.wanted || self.running;
        let known = match under_way {
            true => self.content,
            false => self.served.as_ref().map(|served| served.content),
        };
        self.content = Some(content);
        if std::mem::take(&mut self.anew) || known != Some(content) {
            // Whoever was revoked is let in until the servers read the new lists.
            self.urgent |= self
                .served
                .as_ref()
                .is_some_and(|served| served.content.lists != content.lists);
            self.want();
        }
    }

    /// There is something to tell; what failed before says nothing about it.
    fn want(&mut self) {
        self.wanted = true;
        (self.done, self.looking, self.looks) = (0, false, 0);
        (self.failures, self.after) = (0, Duration::ZERO);
    }

    /// Somebody has mended what failed, or says so: everything from the beginning, now or once the folder is written again.
    pub(super) fn mended(&mut self, rewritten: bool) {
        match self.trouble.is_some() && self.content.is_some() {
            true if rewritten => self.anew = true,
            true => self.want(),
            false => {}
        }
    }

    /// How long until the hooks run; `None` while there is nothing to do.
    pub(super) fn due_in(&self, window: Option<Window>, now: Now) -> Option<Duration> {
        if !self.wanted || self.running {
            return None;
        }
        let again = self.after.saturating_sub(now.boot);
        let opens = match window {
            // A look changes nothing.
            Some(window) if !self.urgent && !self.looking => window.opens_in(now.wall),
            _ => Duration::ZERO,
        };
        // Servers that were never told have nothing that could be waited for.
        let must = self.served.as_ref().map_or(Duration::ZERO, |served| {
            let life = served.not_after.since(served.not_before);
            served.not_after.since(now.wall).saturating_sub(life / LAST_PART)
        });
        Some(again.max(opens.min(must)))
    }

    /// Nothing is wanted any more. What runs goes on to its end, so that no other begins beside it.
    pub(super) fn forget(&mut self) {
        *self = Self {
            running: self.running,
            ..Self::default()
        };
    }

    fn begin(&mut self) -> Round {
        (self.wanted, self.running) = (false, true);
        match self.looking {
            true => Round::Look,
            false => Round::From(self.done),
        }
    }

    fn succeeded(&mut self, served: Served) {
        self.running = false;
        self.urgent &= self.wanted;
        self.served = Some(served);
        self.trouble = None;
    }

    /// Tries again by itself, unless something else is to be told by now.
    fn failed(&mut self, stopped: &Stopped, now: Now, life: Duration) {
        self.running = false;
        if self.wanted {
            return;
        }
        let wait = HOOK_RETRY_FIRST * 2_u32.saturating_pow(self.failures.min(16));
        let most = HOOK_RETRY_MAX.min(life / LAST_PART).max(HOOK_RETRY_FIRST);
        self.failures = self.failures.saturating_add(1);
        self.wanted = true;
        self.after = boot(now) + wait.min(most);
        self.done = stopped.done;
        self.looking = stopped.stage == "effect";
        if self.looking {
            self.looks = self.looks.saturating_add(1);
            if HOOKS_AGAIN_AFTER_LOOKS.contains(&self.looks) {
                (self.done, self.looking) = (0, false);
            }
        }
    }

    /// What is told of a failure beside what failed: whether it is mended by itself.
    fn outlook(&self, stage: &str, hooks: bool) -> &'static str {
        let [.., last] = HOOKS_AGAIN_AFTER_LOOKS;
        match stage == "effect" && hooks {
            true if self.looks > last => {
                "; its hooks ran again three times for this and do not any more before the next change: mend it, then SIGHUP \
                 the agent"
            }
            true => "; it is looked at again, and the hooks run again three times at most",
            false => "",
        }
    }
}

impl Core {
    /// A folder's content is in place.
    pub(super) fn folder_changed(&mut self, key: &SlotKey, content: Content) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        match slot.delivery().is_some_and(Delivery::acts) {
            true => slot.acting.changed(content),
            false => slot.acting.forget(),
        }
        self.hurry(key);
    }

    /// Something was revoked, or is no longer trusted: hooks that wait for their window do not wait where servers hold it.
    pub(super) fn hurry_all(&mut self) {
        for key in self.slots.folders_of(|slot| slot.acting.wanted) {
            self.hurry(&key);
        }
    }

    fn hurry(&mut self, key: &SlotKey) {
        let (trust, now) = (self.shared.ca_trust.load_full(), self.shared.wall());
        let Some(slot) = self.slots.get_mut(key) else { return };
        let windowed = slot.delivery().is_some_and(|delivery| delivery.window().is_some());
        let acting = &mut slot.acting;
        if !windowed || !acting.wanted || acting.urgent {
            return;
        }
        let served = acting.served.as_ref();
        acting.urgent = served.is_some_and(|served| served.is_refused(&trust, &self.shared.deps.provider, now));
    }

    /// Begins what is due.
    pub(super) fn act(&mut self) {
        let now = self.shared.deps.now();
        let due = |_: &SlotKey, slot: &Slot| slot.hooks_due_in(now) == Some(Duration::ZERO);
        for key in self.slots.touched_of(due) {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            let (Some(delivery), Some(held), Some(content)) =
                (slot.delivery().cloned(), slot.held.clone(), slot.acting.content)
            else {
                slot.acting = Acting::default();
                continue;
            };
            let change = Change {
                provider: self.shared.deps.provider.clone(),
                delivery,
                held: held.clone(),
                pinned: slot.pinned.clone(),
                round: slot.acting.begin(),
            };
            let (turns, inbox, store) = (self.turns.clone(), self.inbox.clone(), self.shared.store.clone());
            tokio::spawn(async move {
                let Some(result) = turns.run(Box::pin(change.carry_out())).await else {
                    return;
                };
                if result.is_ok() {
                    let served = Served::of(&held, content);
                    let saved = move || store.save_served(&change.delivery, &served);
                    // After a restart they would be told once more.
                    if let Ok(Err(error)) = tokio::task::spawn_blocking(saved).await {
                        tracing::warn!(%error, "what the servers were told of could not be kept");
                    }
                }
                let acted = Input::Acted {
                    key,
                    held,
                    content,
                    result,
                };
                let _ = inbox.send(acted).await;
            });
        }
    }

    /// The hooks of a change ended.
    pub(super) fn acted(&mut self, key: &SlotKey, held: &Arc<Held>, content: Content, result: Result<(), Stopped>) {
        let now = self.shared.deps.now();
        let life = held.not_after().since(held.not_before());
        let Some(slot) = self.slots.get_mut(key) else { return };
        let stopped = match result {
            Ok(()) => {
                slot.acting.succeeded(Served::of(held, content));
                let Some(delivery) = slot.delivery() else { return };
                let (entry, directory) = (delivery.entry().clone(), delivery.directory().to_owned());
                tracing::info!(%entry, serial = %held.serial(), directory = %directory.display(), "hooks succeeded");
                return self.shared.tell(AgentEvent::Acted {
                    entry,
                    serial: *held.serial(),
                    directory,
                });
            }
            Err(stopped) => stopped,
        };
        // Without a certificate there is nothing to tell anybody.
        match slot.held.is_some() {
            true => slot.acting.failed(&stopped, now, life),
            false => slot.acting = Acting::default(),
        }
        let hooks = slot.delivery().is_some_and(|delivery| !delivery.hooks().is_empty());
        let Stopped { stage, problem, .. } = stopped;
        let message = problem + slot.acting.outlook(stage, hooks);
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
    use mintage_identity::{SpiffeId, UnixTime};

    use super::*;

    const LIFE: Duration = Duration::from_secs(3600);

    fn at(hour: i64, boot_s: u64) -> Now {
        Now {
            wall: UnixTime::from_seconds(1_800_057_600 + hour * 3600),
            boot: Duration::from_secs(boot_s),
        }
    }

    fn content(all: u8) -> Content {
        with_lists(all, 0)
    }

    fn with_lists(all: u8, lists: u8) -> Content {
        Content {
            all: [all; 32],
            lists: [lists; 32],
        }
    }

    /// What servers hold that were told of this, until then and for so long.
    fn served(content: Content, end: UnixTime, life: Duration) -> Served {
        Served {
            content,
            chain: Vec::new(),
            id: SpiffeId::parse("spiffe://dev.test/web").unwrap(),
            not_before: end.minus(life),
            not_after: end,
        }
    }

    fn stopped(stage: &'static str, done: usize) -> Stopped {
        Stopped {
            stage,
            done,
            problem: String::new(),
        }
    }

    #[test]
    fn hooks_run_once_for_each_change_and_again_for_one_that_came_meanwhile() {
        let mut acting = Acting::default();
        assert_eq!(acting.due_in(None, at(0, 0)), None);
        acting.changed(content(1));
        assert_eq!(acting.due_in(None, at(0, 0)), Some(Duration::ZERO));
        assert_eq!(acting.begin(), Round::From(0));
        assert_eq!(acting.due_in(None, at(0, 0)), None);
        acting.changed(content(1));
        acting.changed(content(2));
        acting.succeeded(served(content(1), at(1, 0).wall, LIFE));
        assert_eq!(acting.due_in(None, at(0, 0)), Some(Duration::ZERO));
        acting.begin();
        acting.succeeded(served(content(2), at(1, 0).wall, LIFE));
        assert_eq!(acting.due_in(None, at(0, 0)), None);
        acting.changed(content(2));
        assert_eq!(acting.due_in(None, at(0, 0)), None, "the same again is no change");
        acting.changed(content(1));
        assert_eq!(acting.due_in(None, at(0, 0)), Some(Duration::ZERO));
    }

    #[test]
    fn a_start_is_a_change_only_where_servers_were_told_of_something_else() {
        let mut acting = Acting::default();
        acting.restore(Some(served(content(1), at(20, 0).wall, 20 * LIFE)));
        acting.changed(content(1));
        assert_eq!(acting.due_in(None, at(0, 0)), None);
        acting.changed(content(2));
        assert_eq!(acting.due_in(None, at(0, 0)), Some(Duration::ZERO));
        let window = Some(Window::parse("04:00-05:00").unwrap());
        assert_eq!(acting.due_in(window, at(0, 0)), Some(4 * LIFE), "and in its window");
    }

    #[test]
    fn what_is_forgotten_while_it_runs_keeps_its_place_until_it_ends() {
        let mut acting = Acting::default();
        acting.changed(content(1));
        acting.begin();
        acting.forget();
        acting.changed(content(2));
        assert_eq!(acting.due_in(None, at(0, 0)), None);
        acting.succeeded(served(content(1), at(1, 0).wall, LIFE));
        assert_eq!(acting.due_in(None, at(0, 0)), Some(Duration::ZERO));
    }

    #[test]
    fn failures_wait_longer_and_longer_but_never_past_a_tenth_of_the_lifetime() {
        let mut acting = Acting::default();
        acting.changed(content(1));
        let mut waits = Vec::new();
        for _ in 0..9 {
            acting.begin();
            acting.failed(&stopped("hook", 0), at(0, 100), Duration::from_secs(300));
            waits.push(acting.due_in(None, at(0, 100)).unwrap().as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30, 30]);
        acting.changed(content(2));
        assert_eq!(acting.due_in(None, at(0, 100)), Some(Duration::ZERO));
    }

    #[test]
    fn hooks_that_succeeded_do_not_run_again_for_one_that_failed() {
        let mut acting = Acting::default();
        acting.changed(content(1));
        assert_eq!(acting.begin(), Round::From(0));
        acting.failed(&stopped("hook", 2), at(0, 0), LIFE);
        assert_eq!(acting.begin(), Round::From(2));
        acting.changed(content(2));
        acting.failed(&stopped("hook", 2), at(0, 0), LIFE);
        assert_eq!(
            acting.due_in(None, at(0, 0)),
            Some(Duration::ZERO),
            "another change waits for nothing"
        );
        assert_eq!(acting.begin(), Round::From(0));
    }

    #[test]
    fn what_is_not_served_is_looked_at_again_and_hooks_run_again_three_times_at_most() {
        let mut acting = Acting::default();
        acting.changed(content(1));
        let mut rounds = Vec::new();
        for _ in 0..100 {
            rounds.push(acting.begin());
            acting.failed(&stopped("effect", 2), at(0, 0), LIFE);
            let told = acting.outlook("effect", true);
            assert_eq!(told.contains("SIGHUP"), rounds.len() > 16, "{}", rounds.len());
        }
        let hooks: Vec<usize> = (0..100).filter(|n| rounds[*n] != Round::Look).collect();
        assert_eq!(hooks, [0, 4, 8, 16]);
        let window = Some(Window::parse("04:00-05:00").unwrap());
        assert!(
            acting.due_in(window, at(0, 100)).unwrap() <= HOOK_RETRY_MAX,
            "a look waits for no window"
        );
        acting.trouble = Some(Trouble {
            stage: "effect",
            message: String::new(),
        });
        acting.mended(true);
        assert_eq!(acting.begin(), Round::Look);
        acting.changed(content(1));
        assert_eq!(acting.begin(), Round::From(0), "after somebody has mended it");
        acting.failed(&stopped("effect", 2), at(0, 0), LIFE);
        acting.mended(false);
        assert_eq!(acting.begin(), Round::From(0), "and without a change of the delivery");
    }

    #[test]
    fn a_window_is_waited_for_only_as_long_as_what_is_served_lasts() {
        // 00:00 of a day.
        assert_eq!(at(0, 0).wall.seconds() % 86_400, 0);
        let window = Some(Window::parse("04:00-05:00").unwrap());
        let mut acting = Acting::default();
        acting.changed(content(1));
        assert_eq!(
            acting.due_in(window, at(0, 0)),
            Some(Duration::ZERO),
            "nothing is served yet"
        );
        acting.begin();
        acting.succeeded(served(content(1), at(20, 0).wall, 20 * LIFE));
        acting.changed(content(2));
        assert_eq!(acting.due_in(window, at(0, 0)), Some(4 * LIFE));
        assert_eq!(acting.due_in(window, at(4, 0)), Some(Duration::ZERO));
        acting.succeeded(served(content(1), at(2, 0).wall, 10 * LIFE));
        assert_eq!(acting.due_in(window, at(0, 0)), Some(LIFE), "an hour before its end");
        assert_eq!(
            acting.due_in(window, at(3, 0)),
            Some(Duration::ZERO),
            "it has ended already"
        );
    }

    #[test]
    fn other_lists_wait_for_no_window() {
        let window = Some(Window::parse("04:00-05:00").unwrap());
        let mut acting = Acting::default();
        acting.restore(Some(served(with_lists(1, 1), at(20, 0).wall, 20 * LIFE)));
        acting.changed(with_lists(2, 1));
        assert_eq!(acting.due_in(window, at(0, 0)), Some(4 * LIFE));
        acting.changed(with_lists(3, 2));
        assert_eq!(acting.due_in(window, at(0, 0)), Some(Duration::ZERO));
        acting.begin();
        acting.succeeded(served(with_lists(3, 2), at(20, 0).wall, 20 * LIFE));
        acting.changed(with_lists(4, 2));
        assert_eq!(acting.due_in(window, at(0, 0)), Some(4 * LIFE), "the next change does");
    }
}

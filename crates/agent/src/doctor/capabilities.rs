//! What the agent may do beyond its own user, and what of that its configuration needs: a row for each need, and none for what
//! nothing asks for. A running agent is looked at itself, since a unit gives capabilities that the doctor's caller lacks.

use std::fs;

use mintage_sys::process::{effective_gid, effective_uid};

use super::notes::Notes;
use crate::{
    Config,
    config::{Delivery, HookAction},
};

const CHECK: &str = "capabilities";

/// A capability's number (capabilities(7), linux/capability.h) and name.
type Capability = (u32, &'static str);
const CHOWN: Capability = (0, "CAP_CHOWN");
const DAC_OVERRIDE: Capability = (1, "CAP_DAC_OVERRIDE");
const DAC_READ_SEARCH: Capability = (2, "CAP_DAC_READ_SEARCH");
const KILL: Capability = (5, "CAP_KILL");
const SETGID: Capability = (6, "CAP_SETGID");
const SETUID: Capability = (7, "CAP_SETUID");
const SYS_PTRACE: Capability = (19, "CAP_SYS_PTRACE");

/// One thing that the configuration asks for.
struct Need {
    what: String,
    /// Of each of these any one is enough.
    all_of: &'static [&'static [Capability]],
    /// It cannot work without; else it depends on whom it meets.
    surely: bool,
    /// What happens without.
    without: &'static str,
}

/// Looks at the agent that runs under this number, or at this very process.
pub(super) fn examine(notes: &mut Notes, config: &Config, agent: Option<i32>) {
    let needs = needs(config, (effective_uid(), effective_gid()));
    if needs.is_empty() {
        return;
    }
    let (whose, file) = match agent {
        Some(pid) => ("the running agent".to_owned(), format!("/proc/{pid}/status")),
        None => (format!("uid {} here", effective_uid()), "/proc/self/status".to_owned()),
    };
    let read = fs::read_to_string(&file).map_err(|error| error.to_string());
    match read.and_then(|status| parse(&status).ok_or_else(|| "has no line CapEff".to_owned())) {
        Ok(held) => needs.iter().for_each(|need| judge(notes, need, held, &whose)),
        Err(problem) => notes.warn(
            CHECK,
            format!("{file}: {problem}"),
            "what the agent may do is not known; /proc must be there",
        ),
    }
}

fn judge(notes: &mut Notes, need: &Need, held: u64, whose: &str) {
    let has = |(number, _): &Capability| held >> number & 1 == 1;
    let lacks = need.all_of.iter().filter(|any| !any.iter().any(has));
    let lacks: Vec<&str> = lacks.filter_map(|any| any.first()).map(|(_, name)| *name).collect();
    if lacks.is_empty() {
        return notes.ok(CHECK, format!("{whose} has what is needed for {}", need.what));
    }
    let told = format!("{whose} lacks {} for {}", lacks.join(" and "), need.what);
    let advice = format!(
        "without, {}; AmbientCapabilities= and CapabilityBoundingSet= of the unit give it, as in deploy/",
        need.without
    );
    match need.surely {
        true => notes.fail(CHECK, told, &advice),
        false => notes.warn(CHECK, told, &advice),
    }
}

/// The effective set (proc_pid_status(5)).
fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// What this configuration asks for of an agent with these ids.
fn needs(config: &Config, (uid, gid): (u32, u32)) -> Vec<Need> {
    let mut needs = Vec::new();
    if config.socket().is_some() {
        needs.push(Need {
            what: "callers of other users on the socket (their /proc and their executables)".to_owned(),
            all_of: &[&[SYS_PTRACE], &[DAC_READ_SEARCH, DAC_OVERRIDE]],
            surely: false,
            without: "processes of other users, or with executables that only their users may read, are refused",
        });
    }
    let deliveries = config.deliveries();
    let others = |delivery: &&Delivery| delivery.owner() != uid || delivery.group() != gid;
    let count = deliveries.iter().filter(others).count();
    if count > 0 {
        needs.push(Need {
            what: format!("{count} folders that belong to other users or groups"),
            all_of: &[&[CHOWN], &[DAC_OVERRIDE]],
            surely: true,
            without: "nothing is delivered there",
        });
    }
    let hooks = || deliveries.iter().flat_map(Delivery::hooks).map(|hook| &hook.action);
    if hooks().any(|action| matches!(action, HookAction::Signal { .. })) {
        needs.push(Need {
            what: "signals to processes of other users".to_owned(),
            all_of: &[&[KILL]],
            surely: false,
            without: "hooks of kind signal reach the agent's own user alone",
        });
    }
    let as_other = hooks().any(|action| match action {
        HookAction::Command { user, .. } | HookAction::Postgres { user, .. } => {
            user.is_some_and(|(user, _)| user != uid)
        }
        _ => false,
    });
    if as_other {
        needs.push(Need {
            what: "hooks that run as another user".to_owned(),
            all_of: &[&[SETUID], &[SETGID]],
            surely: true,
            without: "they fail at each change (deploy/mintage-agent-hooks.conf)",
        });
    }
    needs
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Accounts, doctor::notes::Level};

    const US: (u32, u32) = (1000, 1000);

    fn config(more: &str) -> Config {
        let text = format!("data_dir = '/d'\nsocket = 'off'\n{more}");
        Config::parse(Path::new("agent.toml"), &text, None, &Accounts::of_system()).unwrap()
    }

    fn found(more: &str, held: &[Capability]) -> Vec<(Level, String)> {
        let mut notes = Notes::default();
        let held = held.iter().fold(0, |held, (number, _)| held | 1 << number);
        for need in needs(&config(more), US) {
            judge(&mut notes, &need, held, "it");
        }
        let report = notes.report();
        let findings = report.findings().iter();
        findings.map(|found| (found.level, found.told.clone())).collect()
    }

    #[test]
    fn rows_are_of_what_the_configuration_needs_and_of_nothing_else() {
        let folder =
            |owner: u32| format!("[[delivery]]\nentry = 'a'\ndirectory = '/o'\nowner = {owner}\ngroup = {owner}\n");
        let hook = |hook: &str| format!("{}[[delivery.hook]]\n{hook}\n", folder(1000));
        assert_eq!(found("", &[]), []);
        assert_eq!(found(&folder(1000), &[]), []);
        assert_eq!(found(&hook("command = ['/bin/true']"), &[]), []);
        for (more, needed, level) in [
            (folder(1001), &[CHOWN, DAC_OVERRIDE][..], Level::Fail),
            (hook("signal = 'HUP'\npid_file = '/p'"), &[KILL], Level::Warn),
            (
                hook("command = ['/bin/true']\nuser = 'nobody'"),
                &[SETUID, SETGID],
                Level::Fail,
            ),
        ] {
            let with = found(&more, needed);
            assert!(matches!(&with[..], [(Level::Ok, _)]), "{more}: {with:?}");
            for (_, missing) in needed {
                let rest: Vec<_> = needed.iter().copied().filter(|(_, name)| name != missing).collect();
                let without = found(&more, &rest);
                assert!(
                    matches!(&without[..], [(found, told)] if *found == level && told.contains(missing)),
                    "{more}: {without:?}"
                );
            }
        }
    }

    #[test]
    fn callers_of_the_socket_need_proc_and_either_right_to_read() {
        let need = &needs(&Config::new("/d"), US)[0];
        let level = |held: &[Capability]| {
            let mut notes = Notes::default();
            let held = held.iter().fold(0, |held, (number, _)| held | 1 << number);
            judge(&mut notes, need, held, "it");
            notes.report().findings()[0].level
        };
        assert_eq!(level(&[SYS_PTRACE, DAC_READ_SEARCH]), Level::Ok);
        assert_eq!(level(&[SYS_PTRACE, DAC_OVERRIDE]), Level::Ok);
        assert_eq!(level(&[SYS_PTRACE]), Level::Warn);
        assert_eq!(level(&[DAC_OVERRIDE]), Level::Warn);
    }

    #[test]
    fn the_effective_set_is_read_from_its_own_line() {
        let status = "Name:\tx\nCapPrm:\t0000000000000001\nCapEff:\t0000000000080020\nCapBnd:\t00000000000000ff\n";
        assert_eq!(parse(status), Some(1 << SYS_PTRACE.0 | 1 << KILL.0));
        assert_eq!(parse("CapEff:\tx\n"), None);
        assert_eq!(parse("Name:\tCapEff\n"), None);
        let own = fs::read_to_string("/proc/self/status").unwrap();
        assert!(parse(&own).is_some(), "{own}");
    }
}

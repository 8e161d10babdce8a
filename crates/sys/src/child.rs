//! Programs that this one starts: they get none of its capabilities.

use std::{os::unix::process::CommandExt, process::Command};

/// Lets `command` start without the ambient capabilities of this process (capabilities(7)), which execve(2) would
/// otherwise hand on to whatever is run, and as leader of a process group of its own, so that all it starts can be ended
/// together.
pub fn alone(command: &mut Command) -> &mut Command {
    command.process_group(0);
    // SAFETY: between fork and exec the closure makes one system call, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(|| Ok(rustix::thread::clear_ambient_capability_set()?)) }
}

/// Ends a program that was started by [`alone`] and everything in its group (SIGKILL). The caller has not waited for it
/// yet, so that its number is still its own. A group that has ended is no error.
pub fn end_group(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_starts_in_a_group_of_its_own_and_without_ambient_capabilities() {
        let output = alone(Command::new("sh").args(["-c", "cat /proc/self/stat; grep CapAmb /proc/self/status"]))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (stat, caps) = text.split_once('\n').unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // State, parent, group: the group is that of the shell, which is the parent of cat.
        assert_eq!(fields[2], fields[1]);
        assert_eq!(caps.split_whitespace().last(), Some("0000000000000000"));
    }

    #[test]
    fn ending_a_group_ends_what_the_program_started() {
        let mut child = alone(Command::new("sh").args(["-c", "sleep 600 & wait"]))
            .spawn()
            .unwrap();
        end_group(child.id());
        assert!(!child.wait().unwrap().success());
        end_group(child.id());
    }
}

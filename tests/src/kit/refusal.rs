//! A program that must refuse to start: exit code 1, and one line that says what and what to do.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for a program to refuse; a loaded machine is slow.
const REFUSAL_MAX: Duration = Duration::from_secs(60);

/// Runs one of our programs and returns the one line of its refusal, without the program's name.
///
/// # Panics
///
/// When it does not refuse, or with another code or more lines than that.
pub fn refused(command: &mut Command) -> String {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let started = Instant::now();
    while child.try_wait().expect("it can be waited for").is_none() {
        if started.elapsed() > REFUSAL_MAX {
            child.kill().expect("it can be killed");
            panic!("{command:?} was not refused");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().expect("it has ended");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{text}");
    // Beside the log, which is JSON here, there is exactly the reason.
    let mut lines = text.lines().filter(|line| !line.starts_with('{'));
    let (line, second) = (lines.next().unwrap_or_default(), lines.next());
    assert_eq!(second, None, "{text}");
    let reason = line.split_once(": ").filter(|(name, _)| name.starts_with("mintage"));
    reason.unwrap_or_else(|| panic!("{text}")).1.to_owned()
}

/// Asserts that a line holds each of these parts.
///
/// # Panics
///
/// When it does not.
pub fn tells(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no {part:?} in: {line}");
    }
}

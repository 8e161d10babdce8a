//! A program without a shell: its own user, none of the agent's capabilities or variables, a limit on time and output.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use mintage_sys::child;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::late;
use crate::limits::HOOK_OUTPUT_BYTES_MAX;

/// Where programs look for others; the agent's own variables are nobody's business.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Characters of a failed program's last words that are told.
const TOLD_MAX: usize = 400;

/// Runs it to its end; what it printed. Past its time everything it started is ended.
pub(super) async fn run(
    argv: &[&str],
    user: Option<(u32, u32)>,
    facts: &[(&str, String)],
    within: Duration,
) -> Result<String, String> {
    let (name, arguments) = argv.split_first().ok_or("there is no program")?;
    let mut command = Command::new(name);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .envs(facts.iter().map(|(key, value)| (*key, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some((uid, gid)) = user.filter(|user| *user != own()) {
        // As root, this drops the supplementary groups too.
        command.uid(uid).gid(gid);
    }
    child::alone(&mut command);
    let mut process = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started: {error}{}", remedy(&error, user)))?;
    let mut group = Group(process.id());
    let (out, err) = (process.stdout.take(), process.stderr.take());
    // The output may be held open by what the program left behind; the program's own end is what counts.
    let ended = timeout(within, async { tokio::join!(process.wait(), read(out), read(err)) }).await;
    let Ok((status, out, err)) = ended else {
        return Err(late(within));
    };
    // It was waited for: the number may be another's by now.
    group.0 = None;
    let status = status.map_err(|error| error.to_string())?;
    match status.success() {
        true => Ok(String::from_utf8_lossy(&out).into_owned()),
        false => {
            let said = if err.is_empty() { out } else { err };
            Err(format!("{status}: {}", last_words(&said)))
        }
    }
}

fn own() -> (u32, u32) {
    use mintage_sys::process::{effective_gid, effective_uid};
    (effective_uid(), effective_gid())
}

fn remedy(error: &std::io::Error, user: Option<(u32, u32)>) -> &'static str {
    match (error.kind(), user) {
        (std::io::ErrorKind::PermissionDenied, Some(_)) => {
            "; to run it as another user the agent needs CAP_SETUID and CAP_SETGID, see deploy/mintage-agent-hooks.conf"
        }
        _ => "",
    }
}

/// Ends the program's whole group when it is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            child::end_group(pid);
        }
    }
}

/// Reads to the end and keeps the first part: a program that prints for ever must not stop for want of a reader.
async fn read(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let (mut kept, mut part) = (Vec::new(), [0; 4096]);
    let Some(mut from) = from else { return kept };
    while let Ok(got @ 1..) = from.read(&mut part).await {
        let room = HOOK_OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&part[..got.min(room)]);
    }
    kept
}

/// The end of what it said, on one line and without what a terminal would act on.
fn last_words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let plain: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let skip = plain.chars().count().saturating_sub(TOLD_MAX);
    plain.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn it_gets_the_facts_and_nothing_of_the_agents_own() {
        let facts = [("MINTAGE_ENTRY", "web".to_owned())];
        let printed = run(&["/usr/bin/env"], None, &facts, LONG).await.unwrap();
        let mut lines: Vec<&str> = printed.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["MINTAGE_ENTRY=web", &format!("PATH={SEARCH_PATH}")]);
    }

    #[tokio::test]
    async fn what_fails_is_told_with_its_last_words() {
        let argv = ["/bin/sh", "-c", "printf 'bad\\033[31m\\nworse' >&2; exit 3"];
        let problem = run(&argv, None, &[], LONG).await.unwrap_err();
        assert!(
            problem.contains("exit status: 3") && problem.ends_with("bad [31m worse"),
            "{problem}"
        );
        let problem = run(&["/nonexistent"], None, &[], LONG).await.unwrap_err();
        assert!(problem.contains("cannot be started"), "{problem}");
    }

    #[tokio::test]
    async fn past_its_time_it_is_ended_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        // It reads to the end that comes when the last writer is gone: the child of the program too.
        let path = fifo.clone();
        let reader = std::thread::spawn(move || std::fs::read(path).unwrap());
        let script = format!("(exec 3> {}; echo begun >&3; sleep 600) & wait", fifo.display());
        let problem = run(&["/bin/sh", "-c", &script], None, &[], Duration::from_millis(500)).await;
        assert!(problem.unwrap_err().contains("timeout_s"));
        assert_eq!(reader.join().unwrap(), b"begun\n");
    }

    #[tokio::test]
    async fn a_flood_of_output_is_read_and_cut() {
        let argv = ["/bin/sh", "-c", "head -c 10000000 /dev/zero | tr '\\0' x"];
        assert_eq!(run(&argv, None, &[], LONG).await.unwrap().len(), HOOK_OUTPUT_BYTES_MAX);
    }
}

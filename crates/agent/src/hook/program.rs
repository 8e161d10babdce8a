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
use crate::limits::{HOOK_OUTPUT_BYTES_MAX, HOOK_OUTPUT_GRACE};

/// Where programs look for others; the agent's own variables are nobody's business.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Characters of a failed program's last words that are told.
const TOLD_MAX: usize = 400;

/// Runs it to its end; what it printed. Past its time everything it started is ended; what a program leaves running at its
/// own end is left alone.
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
    let (mut out, mut err) = (Output::of(process.stdout.take()), Output::of(process.stderr.take()));
    let ended = timeout(within, async {
        tokio::select! {
            status = process.wait() => status,
            // Whoever has closed its output may go on without.
            ((), ()) = async { tokio::join!(out.read(), err.read()) } => process.wait().await,
        }
    });
    let Ok(status) = ended.await else {
        return Err(late(within));
    };
    // It was waited for: the number may be another's by now.
    group.0 = None;
    // What it left behind may hold its output open for as long as it runs; the program's own end is what counts.
    let _ = timeout(HOOK_OUTPUT_GRACE, async { tokio::join!(out.read(), err.read()) }).await;
    let status = status.map_err(|error| error.to_string())?;
    match status.success() {
        true => Ok(String::from_utf8_lossy(&out.kept).into_owned()),
        false => {
            let said = if err.kept.is_empty() { out.kept } else { err.kept };
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

/// What a program prints, of which the first part is kept.
struct Output<R> {
    from: Option<R>,
    kept: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Output<R> {
    fn of(from: Option<R>) -> Self {
        Self { from, kept: Vec::new() }
    }

    /// Reads to the end: a program that prints for ever must not stop for want of a reader. Broken off, it loses nothing.
    async fn read(&mut self) {
        let mut part = [0; 4096];
        while let Some(from) = &mut self.from {
            match from.read(&mut part).await {
                Ok(got @ 1..) => {
                    let room = HOOK_OUTPUT_BYTES_MAX.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&part[..got.min(room)]);
                }
                _ => self.from = None,
            }
        }
    }
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
    async fn a_program_that_leaves_a_daemon_behind_has_ended_and_the_daemon_lives() {
        let within = Duration::from_secs(30);
        for (code, script) in [(0, "sleep 600 & echo $!"), (3, "sleep 600 & echo $!; exit 3")] {
            let began = std::time::Instant::now();
            let ran = run(&["/bin/sh", "-c", script], None, &[], within).await;
            assert!(began.elapsed() < within, "it waited for the daemon");
            let said = match (code, ran) {
                (0, Ok(said)) => said,
                (_, Err(problem)) => problem.strip_prefix("exit status: 3: ").unwrap().to_owned(),
                (_, Ok(said)) => panic!("{said:?}"),
            };
            let daemon = rustix::process::Pid::from_raw(said.trim().parse().unwrap()).unwrap();
            rustix::process::kill_process(daemon, rustix::process::Signal::KILL).expect("the daemon still runs");
        }
    }

    #[tokio::test]
    async fn what_was_printed_before_the_output_was_closed_is_kept() {
        let argv = ["/bin/sh", "-c", "echo said; exec >&- 2>&-; sleep 0.2; exit 4"];
        let problem = run(&argv, None, &[], LONG).await.unwrap_err();
        assert!(
            problem.contains("exit status: 4") && problem.ends_with("said"),
            "{problem}"
        );
    }

    /// Only root may become another user.
    #[tokio::test]
    async fn a_program_of_another_user_has_its_ids_and_no_other_group() {
        if !rustix::process::geteuid().is_root() {
            println!("missing privilege: root; this test proves nothing here");
            return;
        }
        let printed = run(&["/usr/bin/id"], Some((65_534, 65_534)), &[], LONG).await.unwrap();
        let ids: Vec<&str> = printed
            .split_whitespace()
            .map(|part| part.split('(').next().unwrap())
            .collect();
        assert_eq!(ids, ["uid=65534", "gid=65534", "groups=65534"]);
    }

    #[tokio::test]
    async fn a_flood_of_output_is_read_and_cut() {
        let argv = ["/bin/sh", "-c", "head -c 10000000 /dev/zero | tr '\\0' x"];
        assert_eq!(run(&argv, None, &[], LONG).await.unwrap().len(), HOOK_OUTPUT_BYTES_MAX);
    }
}

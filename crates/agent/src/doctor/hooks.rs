//! What the hooks act on: files, programs and sockets that must be there when a certificate changes.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

use tokio::{
    net::{TcpStream, ToSocketAddrs},
    time::timeout,
};

use super::notes::Notes;
use crate::{
    Config,
    config::{Delivery, HookAction, SignalTarget},
    limits::CONNECT_WAIT,
};

/// Where `systemd` says that it runs (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// One line for each target that is missing, and one for all others.
pub(super) async fn examine(notes: &mut Notes, config: &Config) {
    let (mut good, mut all) = (0_usize, 0_usize);
    for delivery in config.deliveries() {
        for hook in delivery.hooks() {
            all += 1;
            let looked = look(&hook.action).await;
            good += usize::from(looked.is_ok());
            missing(notes, delivery, looked);
        }
        if let Some(effect) = delivery.effect() {
            all += 1;
            let looked = answers(&effect.address)
                .await
                .map_err(|error| format!("{}: {error}", effect.address));
            good += usize::from(looked.is_ok());
            missing(notes, delivery, looked);
        }
    }
    if good > 0 {
        notes.ok("hooks", format!("the targets of {good} of {all} are there"));
    }
}

fn missing(notes: &mut Notes, delivery: &Delivery, looked: Result<(), String>) {
    if let Err(problem) = looked {
        notes.warn(
            "hook",
            format!("of {}: {problem}", delivery.entry()),
            "start the server, or mend the hook: until then its hooks fail at each change",
        );
    }
}

async fn look(action: &HookAction) -> Result<(), String> {
    match action {
        HookAction::Signal { target, .. } => match target {
            SignalTarget::PidFile(pid_file) => is(pid_file, fs::Metadata::is_file, "a file"),
            SignalTarget::Pid(pid) => {
                let process = format!("/proc/{pid}");
                is(Path::new(&process), fs::Metadata::is_dir, "a process")
            }
        },
        HookAction::Systemd { .. } => is(
            Path::new(SYSTEMD),
            fs::Metadata::is_dir,
            "a directory: systemd does not run here",
        ),
        HookAction::Command { argv, .. } => {
            let program = argv.first().map(String::as_str).unwrap_or_default();
            let runs = |meta: &fs::Metadata| meta.is_file() && meta.permissions().mode() & 0o111 != 0;
            is(Path::new(program), runs, "a program")
        }
        HookAction::Haproxy { socket, .. } => is(socket, |meta| meta.file_type().is_socket(), "a socket"),
        HookAction::Postgres { socket_dir, port, .. } => {
            let socket = socket_dir.join(format!(".s.PGSQL.{port}"));
            is(&socket, |meta| meta.file_type().is_socket(), "a socket")
        }
        HookAction::Http { address, .. } => answers(address).await.map_err(|error| format!("{address}: {error}")),
    }
}

fn is(path: &Path, right: impl Fn(&fs::Metadata) -> bool, what: &str) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(meta) if right(&meta) => Ok(()),
        Ok(_) => Err(format!("{} is not {what}", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

async fn answers(address: impl ToSocketAddrs) -> io::Result<()> {
    match timeout(CONNECT_WAIT, TcpStream::connect(address)).await {
        Ok(connected) => connected.map(drop),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn targets_are_looked_for_where_the_hook_acts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        fs::write(&file, "7").unwrap();
        let command = |path: &Path| HookAction::Command {
            argv: vec![path.display().to_string(), "-v".to_owned()],
            user: None,
        };
        assert!(look(&command(&file)).await.unwrap_err().contains("not a program"));
        assert_eq!(look(&command(Path::new("/bin/sh"))).await, Ok(()));
        let socket = |socket: &Path| HookAction::Haproxy {
            socket: socket.to_owned(),
            certificate: None,
        };
        assert!(look(&socket(&file)).await.unwrap_err().contains("not a socket"));
        let path = dir.path().join(".s.PGSQL.5432");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(look(&socket(&path)).await, Ok(()));
        let postgres = |port| HookAction::Postgres {
            socket_dir: dir.path().to_owned(),
            port,
            role: "postgres".to_owned(),
            user: None,
        };
        assert_eq!(look(&postgres(5432)).await, Ok(()));
        assert!(look(&postgres(5433)).await.is_err());
        let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = http.local_addr().unwrap();
        let action = HookAction::Http {
            address,
            path: "/".to_owned(),
        };
        assert_eq!(look(&action).await, Ok(()));
        drop(http);
        assert!(look(&action).await.is_err());
    }
}

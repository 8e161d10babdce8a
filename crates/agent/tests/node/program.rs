//! The program: arguments, exit codes, signals, and its size.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::support::{
    self, FakeCa,
    agent::{Node, read_generation, until},
    entry,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mintage-agent");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn version_and_help_are_answers_and_mistakes_are_exit_code_one() {
    let version = run(&["version", "-o", "json"]);
    assert_eq!(version.status.code(), Some(0));
    let value: serde_json::Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(
        (value["schema_version"].as_u64(), value["version"].as_str()),
        (Some(1), Some(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    for wrong in [&["nonsense"][..], &["run"], &["validate"], &["run", "--nonsense"]] {
        assert_eq!(run(wrong).status.code(), Some(1), "{wrong:?}");
    }
}

#[test]
fn a_completion_script_knows_every_verb() {
    for (shell, mark) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef mintage-agent"),
        ("fish", "complete -c mintage-agent"),
    ] {
        let answer = run(&["completions", shell]);
        let script = String::from_utf8(answer.stdout).unwrap();
        assert_eq!(answer.status.code(), Some(0), "{shell}");
        for part in [mark, "run", "validate", "version", "completions", "join-token-file"] {
            assert!(script.contains(part), "no {part:?} for {shell}");
        }
    }
    assert_eq!(run(&["completions", "csh"]).status.code(), Some(1));
}

#[test]
fn secret_in_argv_is_refused_without_being_repeated() {
    let secret = "mint1_AAECAwQFBgcICQoLDA0ODw";
    for arguments in [
        vec!["run", "--data-dir", "/nonexistent", "--join-token-file", secret],
        vec!["run", "--join-token", secret],
        vec!["run", "--data-dir=/x", "--join-token=mint1_x"],
        vec![
            "run",
            "--join-token-file",
            "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NTY3ODk",
        ],
    ] {
        let output = run(&arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            text.contains("looks like a join token") && text.contains("--join-token-file"),
            "{text}"
        );
        assert!(!text.contains("AAECAwQ") && !text.contains("QUJDREVG"), "{text}");
    }
}

#[test]
fn validate_reads_the_sample_and_tells_file_line_and_nearest_key() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("agent.toml");
    let validate = |text: &str| {
        std::fs::write(&file, text).unwrap();
        run(&["validate", "--config", file.to_str().unwrap(), "-o", "json"])
    };
    let good = validate("data_dir = '/d'\n[[delivery]]\nentry = 'a'\ndirectory = '/r'\n");
    assert_eq!(good.status.code(), Some(0), "{}", said(&good));
    let value: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!(value["deliveries"].as_u64(), Some(1));
    let bad = validate("data_dir = '/d'\nsockt = '/s'\n");
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        said(&bad).contains("agent.toml:2: unknown key `sockt`; the nearest valid key is `socket`"),
        "{}",
        said(&bad)
    );
    let missing = run(&["validate", "--config", "/nonexistent/agent.toml"]);
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn token_files_that_others_can_read_or_that_are_no_token_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    let (file, data) = (temp.path().join("token"), temp.path().join("data"));
    let start = || {
        let [data, file] = [&data, &file].map(|path| path.to_str().unwrap());
        run(&["run", "--data-dir", data, "--join-token-file", file])
    };
    std::fs::write(&file, "mint1_x\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(said(&start()).contains("chmod 600"));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let output = start();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("copy the whole line again"), "{}", said(&output));
    let without = run(&["run", "--data-dir", data.to_str().unwrap()]);
    assert_eq!(without.status.code(), Some(1));
    assert!(said(&without).contains("--join-token-file"), "{}", said(&without));
}

/// A configuration of these entries with no socket.
fn write_config(node: &Node, entries: &[&str]) -> std::path::PathBuf {
    let mut text = format!("data_dir = {:?}\nsocket = \"off\"\n", node.data());
    for entry in entries {
        text.push_str(&format!(
            "[[delivery]]\nentry = \"{entry}\"\ndirectory = {:?}\n",
            node.folder(entry)
        ));
    }
    let file = node.temp.path().join("agent.toml");
    std::fs::write(&file, text).unwrap();
    file
}

fn start_program(ca: &FakeCa, node: &Node, config: &Path) -> std::process::Child {
    use std::io::Write;
    let mut child = Command::new(PROGRAM)
        .args(["run", "--join-token-file", "-", "--config"])
        .arg(config)
        .stdin(Stdio::piped())
        .stderr(std::fs::File::create(node.temp.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    // The token comes by standard input.
    child
        .stdin
        .take()
        .unwrap()
        .write_all(ca.token().encode().as_bytes())
        .unwrap();
    child
}

fn signal(child: &std::process::Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reloads_deliveries_and_names_what_it_cannot_and_sigterm_ends_in_time() {
    let ca = FakeCa::start(vec![entry("web", "/web"), entry("db", "/db")]).await;
    let node = Node::new();
    let config = write_config(&node, &["web"]);
    let mut child = start_program(&ca, &node, &config);
    until("the first pair", || read_generation(&node.folder("web")).is_some()).await;
    let config = write_config(&node, &["web", "db"]);
    let text = std::fs::read_to_string(&config).unwrap();
    let fixed = "[lookup]\nfreshness = \"strict\"\n[workload]\nkeep = false\n";
    std::fs::write(&config, format!("metrics = \"127.0.0.1:1\"\n{text}{fixed}")).unwrap();
    signal(&child, "-HUP");
    until("the second pair", || read_generation(&node.folder("db")).is_some()).await;
    let log = || std::fs::read_to_string(node.temp.path().join("log")).unwrap();
    for key in ["metrics", "lookup", "workload"] {
        let told = |line: &str| line.contains(&format!("\"{key}\"")) && line.contains("restart the agent");
        assert!(log().lines().any(told), "{key}: {}", log());
    }
    for line in log().lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("not a terminal: JSON lines");
        assert!(event["level"].is_string());
    }
    std::fs::write(&config, "nonsense = 1\n").unwrap();
    signal(&child, "-HUP");
    until("the refusal", || log().contains("not reloaded")).await;
    let asked = Instant::now();
    signal(&child, "-TERM");
    let status = tokio::task::block_in_place(|| child.wait().unwrap());
    assert!(
        status.success() && asked.elapsed() < Duration::from_secs(10),
        "{status} {:?}",
        asked.elapsed()
    );
    let secret = ca.token().encode();
    assert!(
        !log().contains(&secret[6..40]) && !log().contains("PRIVATE KEY"),
        "no secret is logged"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_is_exit_code_two() {
    let ca = FakeCa::start(vec![]).await;
    let node = Node::new();
    let config = write_config(&node, &[]);
    let file = node.temp.path().join("token");
    let token = mintage_attest::join_token::JoinToken::new(
        vec![ca.address.to_string()],
        ca.token().root_hashes().to_vec(),
        support::domain(),
        zeroize::Zeroizing::new([1; 32]),
    );
    let _ = std::fs::remove_file(&file);
    let dir = mintage_sys::dir::Dir::open(node.temp.path()).unwrap();
    mintage_sys::secret_file::write_new(&dir, "token", token.unwrap().encode().as_bytes()).unwrap();
    let arguments = [
        "run",
        "--config",
        config.to_str().unwrap(),
        "--join-token-file",
        file.to_str().unwrap(),
    ];
    let output = tokio::task::block_in_place(|| run(&arguments));
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("mintage token create"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_deliveries_fit_into_25_mb() {
    let names: Vec<String> = (0..100).map(|n| format!("e{n}")).collect();
    let ca = FakeCa::start(names.iter().map(|name| entry(name, &format!("/{name}"))).collect()).await;
    let node = Node::new();
    let entries: Vec<&str> = names.iter().map(String::as_str).collect();
    let config = write_config(&node, &entries);
    let mut child = start_program(&ca, &node, &config);
    until("all pairs", || {
        entries
            .iter()
            .all(|entry| read_generation(&node.folder(entry)).is_some())
    })
    .await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.trim().split(' ').next().unwrap().parse().unwrap();
    signal(&child, "-TERM");
    tokio::task::block_in_place(|| child.wait().unwrap());
    assert!(kib < 25 * 1024, "{kib} KiB resident");
    println!("{kib} KiB resident with 100 deliveries");
}

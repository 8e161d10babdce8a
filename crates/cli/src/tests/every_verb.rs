//! Every verb of the command tree, so that none is forgotten: what changes something has `--dry-run` and changes nothing
//! with it, what reads changes nothing at all, and each answers in each format, with its schema version.

use std::{collections::BTreeSet, time::Duration};

use clap::{Command, CommandFactory};
use mintage_agent::{Agent, AgentEvent, AgentHandle, Config as AgentConfig};
use mintage_attest::JoinToken;

use super::*;

/// What a verb does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// It changes nothing.
    Reads,
    /// It changes the CA or asks something of an agent, and has `--dry-run`. The words are for the rehearsal too.
    Changes,
    /// It runs something of its own in a directory that must be new, or prints a script: `-o` and rehearsals are not
    /// about it.
    Apart,
}

use Does::{Apart, Changes, Reads};

/// Every verb, and words to call it with. `%` is 0, 1 and 2 for the three formats, `TOKEN` the id of one token for each.
const VERBS: [(&str, Does, &str); 53] = [
    ("agent ban", Changes, "banned% --reason test"),
    ("agent evict", Changes, "evicted%"),
    ("agent list", Reads, ""),
    ("agent renew", Changes, "connected"),
    ("agent show", Reads, "connected"),
    (
        "audit check",
        Reads,
        "--certificate DIR/cert.pem --proof DIR/proof --vkey DIR/vkey",
    ),
    ("audit diff", Reads, "DIR/ca DIR/ca"),
    ("audit export", Reads, "--format csv --out DIR/records%.csv"),
    ("audit export-tiles", Apart, ""),
    ("audit proof", Reads, "0"),
    ("audit retain", Changes, "--older-than 24h"),
    ("audit roll", Changes, ""),
    ("audit search", Reads, ""),
    ("audit shards", Reads, ""),
    ("audit show", Reads, "0"),
    ("audit tail", Reads, ""),
    ("audit verify", Reads, ""),
    (
        "bundle federate",
        Changes,
        "--trust-domain td%.test --revocation none DIR/roots.pem",
    ),
    ("bundle federated list", Reads, ""),
    ("bundle federated remove", Changes, "gone%.test"),
    ("bundle show", Reads, ""),
    ("ca status", Reads, ""),
    ("cert holder", Reads, "spiffe://dev.test/mintage/ca/ca-1"),
    ("cert list", Reads, ""),
    ("completions", Apart, ""),
    ("dev", Apart, ""),
    ("entry apply", Changes, "-f DIR/apply/apply%.toml"),
    (
        "entry create",
        Changes,
        "made% --spiffe-id spiffe://dev.test/made% --agent n1 --selector unix:uid:5",
    ),
    ("entry delete", Changes, "gone%"),
    ("entry disable", Changes, "switched%"),
    ("entry enable", Changes, "switched%"),
    ("entry explain", Reads, "--agent n1 --selector unix:uid:1000"),
    (
        "entry import",
        Changes,
        "--from spire-json --agents * DIR/import/spire%.json",
    ),
    ("entry list", Reads, ""),
    ("entry show", Reads, "apply%"),
    ("entry validate", Reads, "DIR/apply --trust-domain dev.test"),
    ("exec", Apart, ""),
    ("explain", Apart, ""),
    ("revocation crl", Reads, "--out DIR/crls"),
    ("revocation export", Reads, "--out DIR/revoked%"),
    ("revocation list", Reads, ""),
    ("revocation status", Reads, ""),
    ("revoke", Changes, "--spiffe-id spiffe://dev.test/revoked% --no-renew"),
    ("svid fetch", Apart, ""),
    ("svid inspect", Reads, "DIR/cert.pem"),
    ("svid report", Apart, ""),
    ("svid watch", Apart, ""),
    ("token create", Changes, "--agent new%"),
    ("token delete", Changes, "TOKEN"),
    ("token list", Reads, ""),
    ("version", Reads, ""),
    ("witness init", Changes, "--dir DIR/witness% --name w%"),
    ("witness serve", Apart, ""),
];

/// The leaves of a command tree, each by its words.
fn leaves(command: &Command, path: &[&str]) -> Vec<(String, Command)> {
    let mut found = Vec::new();
    for verb in command.get_subcommands() {
        let path = [path, &[verb.get_name()]].concat();
        match verb.has_subcommands() {
            true => found.extend(leaves(verb, &path)),
            false => found.push((path.join(" "), verb.clone())),
        }
    }
    found
}

#[test]
fn every_verb_has_its_row_and_every_one_that_changes_something_a_dry_run() {
    let tree = leaves(&Cli::command(), &[]);
    let found: BTreeSet<&str> = tree.iter().map(|(path, _)| path.as_str()).collect();
    let listed: BTreeSet<&str> = VERBS.iter().map(|(path, ..)| *path).collect();
    assert_eq!(
        found, listed,
        "a verb without a row, or a row without a verb: say in VERBS what it does"
    );
    assert_eq!(listed.len(), VERBS.len(), "each once");
    for (path, verb) in &tree {
        let (_, does, _) = VERBS.iter().find(|(row, ..)| row == path).unwrap();
        let rehearses = verb
            .get_arguments()
            .any(|argument| argument.get_long() == Some("dry-run"));
        assert_eq!(rehearses, *does == Changes, "{path}: {does:?}");
    }
}

#[test]
fn exports_are_told_alike_what_to_write_and_where_and_o_is_how_an_answer_is_printed() {
    let tree = leaves(&Cli::command(), &[]);
    let has = |verb: &Command, name: &str| verb.get_arguments().any(|argument| argument.get_long() == Some(name));
    let exports: BTreeSet<&str> = tree
        .iter()
        .filter(|(_, verb)| has(verb, "format"))
        .map(|(path, verb)| {
            assert!(has(verb, "out"), "{path} has --format, but no --out FILE");
            path.as_str()
        })
        .collect();
    assert_eq!(exports, BTreeSet::from(["audit export", "revocation export"]));
    for (path, verb) in &tree {
        let own = |argument: &&clap::Arg| argument.get_short() == Some('o');
        assert!(verb.get_arguments().find(own).is_none(), "{path} has an -o of its own");
    }
    // The file was once named without an option.
    let named = |words: &str| Cli::try_parse_from(format!("mintage revocation export {words}").split(' '));
    for good in ["FILE", "--out FILE", "--format jsonl", "--format jsonl FILE"] {
        named(good).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    assert!(named("FILE --out FILE").is_err());
}

/// Lets an agent join and connect, without socket or deliveries: it asks for nothing by itself.
fn joined(running: &Running, name: &str) -> AgentHandle {
    let token = running.expect(0, &format!("token create --agent {name}")).data;
    let token = JoinToken::parse(token.trim()).unwrap();
    let config = AgentConfig::new(running.dir.path().join(name)).with_socket(None);
    running.runtime.block_on(async {
        let agent = Agent::start(config, Some(token), mintage_agent::Deps::system()).unwrap();
        let mut events = agent.events();
        while !matches!(events.recv().await.unwrap(), AgentEvent::Connected { .. }) {}
        agent
    })
}

/// What `spire-server entry show` prints of one entry.
fn of_spire(path: &str) -> String {
    format!(
        r#"{{"entries": [{{"id": "{path}", "spiffe_id": {{"trust_domain": "dev.test", "path": "/{path}"}},
        "parent_id": {{"trust_domain": "dev.test", "path": "/spire/agent/join_token/abc"}},
        "selectors": [{{"type": "unix", "value": "uid:1000"}}], "x509_svid_ttl": 300}}]}}"#
    )
}

fn left(running: &Running, agent: &AgentHandle) {
    assert!(running.runtime.block_on(agent.shutdown(Duration::from_secs(10))));
}

/// Everything that the words of [`VERBS`] name: ids of three tokens, and agents, of whom one stays connected. The others
/// are gone, so that none of them comes back on its own and leaves a record.
fn furnished(running: &Running) -> ([String; 3], AgentHandle) {
    for folder in ["apply", "import", "gone"] {
        fs::create_dir(running.dir.path().join(folder)).unwrap();
    }
    for n in 0..3 {
        write(&running.dir.path().join("apply"), &format!("apply{n}"), "5m");
        write(&running.dir.path().join("gone"), &format!("gone{n}"), "5m");
        write(&running.dir.path().join("gone"), &format!("switched{n}"), "5m");
        let file = running.dir.path().join(format!("import/spire{n}.json"));
        fs::write(file, of_spire(&format!("spire{n}"))).unwrap();
    }
    running.expect(0, "entry apply -f DIR/gone");
    let roots = running.expect(0, "bundle show -o pem").data;
    fs::write(running.dir.path().join("roots.pem"), roots).unwrap();
    for n in 0..3 {
        let line = format!("bundle federate --trust-domain gone{n}.test DIR/roots.pem");
        running.expect(0, &line);
    }
    for name in (0..3).flat_map(|n| [format!("banned{n}"), format!("evicted{n}")]) {
        left(running, &joined(running, &name));
    }
    offline_audit::proven(running);
    let token = |n| {
        let made = running.json(0, &format!("token create --agent late{n}"));
        made["id"].as_str().unwrap().to_owned()
    };
    ([0, 1, 2].map(token), joined(running, "connected"))
}

/// How many records the ledger holds.
fn records(running: &Running) -> u64 {
    running.json(0, "ca status")["ledger_size"].as_u64().unwrap()
}

/// Runs a verb in one format and holds what it printed to that format.
fn printed(running: &Running, line: &str, format: &str) -> Vec<Value> {
    let answer = running.expect(0, &format!("{line} -o {format}"));
    let parsed: Vec<Value> = match format {
        "json" => vec![serde_json::from_str(&answer.data).unwrap_or_else(|error| panic!("{line}: {error}"))],
        "jsonl" => {
            let lines = answer.data.lines();
            lines
                .map(|text| serde_json::from_str(text).unwrap_or_else(|error| panic!("{line}: {error}: {text}")))
                .collect()
        }
        _ => {
            assert!(
                !(answer.data + &answer.notices).trim().is_empty(),
                "{line} says nothing"
            );
            return Vec::new();
        }
    };
    for value in &parsed {
        assert_eq!(value["schema_version"], 1, "{line} -o {format}: {value}");
    }
    parsed
}

#[test]
fn every_verb_answers_in_every_format_and_changes_something_only_when_it_is_meant_to() {
    let running = Running::new();
    let (tokens, agent) = furnished(&running);
    let calls = VERBS.iter().filter(|(_, does, _)| *does != Apart);
    for (verb, does, words) in calls {
        for (n, format) in ["table", "json", "jsonl"].into_iter().enumerate() {
            let words = words.replace('%', &n.to_string()).replace("TOKEN", &tokens[n]);
            let before = records(&running);
            let rehearsal = if *does == Changes { "--dry-run" } else { "" };
            let told = printed(&running, &format!("{verb} {words} {rehearsal}"), format);
            assert_eq!(records(&running), before, "{verb} {rehearsal} changed something");
            if *does == Reads {
                continue;
            }
            assert!(
                told.iter().all(|value| value["dry_run"] == true),
                "{verb}: {told:?} does not say that it was a rehearsal"
            );
            let told = printed(&running, &format!("{verb} {words}"), format);
            assert!(told.iter().all(|value| value["dry_run"] == false), "{verb}: {told:?}");
            // To be asked to renew is news for an agent, and no record; a witness is no part of the CA; and no shard here is
            // old enough to be given up.
            let recorded = records(&running) > before;
            let apart = ["agent renew", "audit retain", "witness init"].contains(verb);
            assert!(recorded || apart, "{verb} changed nothing");
        }
    }
    left(&running, &agent);
}

//! Policies are read line by line as C2SP tlog-policy says, and counted as they are written.

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::{Cosigner, LogKey, limits::POLICY_BYTES_MAX};

const ORIGIN: &str = "example.com/log";

fn pair(seed: u8) -> LogKey {
    LogKey::generate(&Zeroizing::new([seed; 32])).unwrap().0
}

fn log() -> Vkey {
    Vkey::new(ORIGIN, pair(1).public_key()).unwrap()
}

fn witness(seed: u8) -> Cosigner {
    Cosigner::new(&format!("witness.example/{seed}"), pair(seed)).unwrap()
}

/// A checkpoint of the log, cosigned by the witnesses of these seeds.
fn note(seeds: &[u8]) -> SignedNote {
    let text = format!("{ORIGIN}\n9\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n");
    let line = crate::NoteSignature::new(ORIGIN, log().id(), pair(1).sign_octets(text.as_bytes()));
    let note = SignedNote::new(text, vec![line]);
    let lines: Vec<_> = seeds
        .iter()
        .map(|seed| {
            witness(*seed)
                .cosign(&note, UnixTime::from_seconds(i64::from(*seed)))
                .unwrap()
        })
        .collect();
    note.with_lines(lines).unwrap()
}

/// The example of C2SP tlog-policy, with keys.
fn example() -> String {
    let mut text = format!("# Ours.\n\n \tlog {} https://log.example/\n", log());
    for (name, seed) in [("X1", 2), ("X2", 3), ("X3", 4), ("Y1", 5), ("Y2", 6), ("Y3", 7)] {
        text += &format!("witness\t{name}  {}\n", witness(seed).key());
    }
    text + "group X-witnesses 2 X1 X2 X3\ngroup Y-witnesses any Y1 Y2 Y3\n\
        group X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n"
}

#[test]
fn the_published_example_counts_its_two_levels() {
    let policy = Policy::parse(example().as_bytes()).unwrap();
    assert_eq!((policy.logs().len(), policy.witnesses().len()), (1, 6));
    assert_eq!(policy.logs()[0].url.as_deref(), Some("https://log.example/"));
    for (seeds, holds) in [
        (&[][..], false),
        (&[2, 3], false),
        (&[2, 3, 4], false),
        (&[2, 5, 6, 7], false),
        (&[2, 4, 6], true),
        (&[2, 3, 4, 5, 6, 7], true),
        (&[2, 3, 9], false),
    ] {
        let note = note(seeds);
        let checked = policy.check(&note).unwrap();
        assert_eq!(checked.quorum, holds, "{seeds:?}");
        assert_eq!(checked.log.vkey, log());
        assert_eq!(checked.checkpoint.size(), 9);
        let known: Vec<_> = checked.witnesses.iter().map(|(_, time)| time.seconds()).collect();
        let expected: Vec<_> = seeds
            .iter()
            .filter(|seed| **seed < 9)
            .map(|seed| i64::from(*seed))
            .collect();
        assert_eq!(known, expected);
    }
}

#[test]
fn a_single_witness_or_none_may_be_the_quorum() {
    let lines = format!("log {}\nwitness w {}\n", log(), witness(2).key());
    let one = Policy::parse(format!("{lines}quorum w\n").as_bytes()).unwrap();
    assert!(one.asks_for_witnesses());
    assert!(one.check(&note(&[2])).unwrap().quorum && !one.check(&note(&[3])).unwrap().quorum);
    let none = Policy::parse(format!("{lines}quorum none").as_bytes()).unwrap();
    assert!(none.check(&note(&[])).unwrap().quorum && !none.asks_for_witnesses());
    assert!(Policy::parse(b"quorum none").unwrap().check(&note(&[])).is_err());
}

#[test]
fn a_checkpoint_of_no_listed_log_and_bad_lines_of_known_keys_are_refused() {
    let policy = Policy::parse(example().as_bytes()).unwrap();
    let text = note(&[2]).to_string();
    let parse = |text: &str| SignedNote::parse(text.as_bytes()).unwrap();
    assert!(policy.check(&parse(&text)).is_ok());
    assert!(policy.check(&parse(&text.replace("\n9\n", "\n8\n"))).is_err());
    // The same key under another origin.
    assert!(
        policy
            .check(&parse(&text.replace(ORIGIN, "example.com/other")))
            .is_err()
    );
    // Two bits of the cosignature's time.
    let line = text.lines().find(|line| line.contains("witness.example/2")).unwrap();
    let (head, tail) = line.split_at(line.len() - 20);
    let altered = text.replace(line, &format!("{head}{}", tail.replacen(char::is_alphanumeric, "+", 1)));
    assert_ne!(altered, text);
    assert!(policy.check(&parse(&altered)).is_err());
    let other = Policy::trusting([Vkey::new(ORIGIN, [9; 32]).unwrap()]).unwrap();
    assert!(other.check(&note(&[])).is_err());
}

#[test]
fn each_fault_is_told_with_its_line() {
    let (log, one, two) = (log(), witness(2), witness(3));
    let (one, two) = (one.key(), two.key());
    for (text, line, problem) in [
        (String::new(), 1, "without a quorum line"),
        ("quorum none\nquorum none\n".into(), 2, "named twice"),
        ("quorum\n".into(), 1, "names no witness"),
        ("quorum w\n".into(), 1, "no line before"),
        ("quorum none x\n".into(), 1, "goes on with \"x\""),
        ("logs\n".into(), 1, "none of log"),
        ("\n# x\nlog\n".into(), 3, "names no key"),
        ("log x\n".into(), 1, "is not <name>"),
        (format!("log {log}\nlog {log}\n"), 2, "listed twice"),
        (
            format!("log {log}\nlog {}\n", Vkey::new("other", *log.public_key()).unwrap()),
            2,
            "listed twice",
        ),
        (format!("log {log} https://x y\n"), 1, "goes on with \"y\""),
        (format!("log {one}\n"), 1, "cosignature/v1 key (type 0x04)"),
        (format!("witness w {log}\n"), 1, "log key (type 0x01)"),
        (format!("witness none {one}\n"), 1, "meaning of its own"),
        (format!("witness w {one}\nwitness w {two}\n"), 2, "given twice"),
        (format!("witness w {one}\nwitness v {one}\n"), 2, "listed twice"),
        (format!("witness w {one}\ngroup w any w\n"), 2, "given twice"),
        (format!("witness w {one}\ngroup g 2 w\n"), 2, "needs 2 of 1"),
        (format!("witness w {one}\ngroup g 0 w\n"), 2, "needs 0 of 1"),
        (format!("witness w {one}\ngroup g +1 w\n"), 2, "neither any, all"),
        (format!("witness w {one}\ngroup g any w w\n"), 2, "twice"),
        (format!("witness w {one}\ngroup g any none\n"), 2, "no line before"),
        ("group g all\n".into(), 1, "needs 0 of 0"),
        ("group g any g\n".into(), 1, "no line before"),
        ("quorum none\r\n".into(), 1, "control character 0x0d"),
        ("quorum none\u{7f}\n".into(), 1, "control character 0x7f"),
    ] {
        let told = Policy::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(
            told.contains(&format!("line {line}: ")) && told.contains(problem),
            "{text:?}: {told}"
        );
    }
}

#[test]
fn names_are_octets_and_limits_hold() {
    let mut text = b"witness \xe2\x84\xaa ".to_vec();
    text.extend(witness(2).key().to_string().into_bytes());
    text.extend(b"\nquorum K\n");
    assert!(Policy::parse(&text).is_err(), "a Kelvin sign is no K");
    assert!(Policy::parse(&vec![b'#'; POLICY_BYTES_MAX + 1]).is_err());
    let logs = |count: u32| {
        let key = |number: u32| {
            let mut public = [0; 32];
            public[..4].copy_from_slice(&number.to_be_bytes());
            format!("log {}\n", Vkey::new("a", public).unwrap())
        };
        (0..count).map(key).collect::<String>() + "quorum none\n"
    };
    assert!(Policy::parse(logs(POLICY_LOGS_MAX as u32).as_bytes()).is_ok());
    assert!(Policy::parse(logs(POLICY_LOGS_MAX as u32 + 1).as_bytes()).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Policy::parse(&bytes);
    }

    #[test]
    fn arbitrary_words_never_panic(lines in proptest::collection::vec(
        "(log|witness|group|quorum|#)?( (w|g|any|all|none|[0-9]{1,25}|\\PC{0,5})){0,5}", 0..8,
    )) {
        let _ = Policy::parse(lines.join("\n").as_bytes());
    }
}

//! The witness protocol against every small tree, hand-made bad requests, and arbitrary octets.

use mintage_identity::UnixTime;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::{
    Cosigner, HashSource, LogKey, consistency,
    tree::{leaf_hash, naive},
};

const ORIGIN: &str = "example.com/behind-the-sofa";

struct Leaves(Vec<Hash>);

impl HashSource for Leaves {
    fn node(&self, level: u8, index: u64) -> Result<Hash, LedgerError> {
        let width = 1usize << level;
        let low = index as usize * width;
        Ok(naive::root(&self.0[low..low + width]))
    }
}

impl Leaves {
    /// The first `size` leaves of a tree; trees of other seeds differ in every leaf.
    fn new(seed: u8, size: u64) -> Self {
        Self(
            (0..size)
                .map(|i| leaf_hash(&[&[seed][..], &i.to_be_bytes()].concat()))
                .collect(),
        )
    }

    fn head(&self, size: u64) -> TreeHead {
        let root = match size {
            0 => empty_root(),
            size => naive::root(&self.0[..size as usize]),
        };
        TreeHead { size, root }
    }
}

fn pair(seed: u8) -> LogKey {
    LogKey::generate(&Zeroizing::new([seed; 32])).unwrap().0
}

fn vkey(seed: u8) -> Vkey {
    Vkey::new(ORIGIN, pair(seed).public_key()).unwrap()
}

fn keys() -> [Vkey; 2] {
    [vkey(1), vkey(2)]
}

fn text(head: TreeHead) -> String {
    format!("{ORIGIN}\n{}\n{}\n", head.size, STANDARD.encode(head.root.as_bytes()))
}

/// A checkpoint that the log's key of this seed signs.
fn signed(seed: u8, head: TreeHead) -> SignedNote {
    let text = text(head);
    let line = NoteSignature::new(ORIGIN, vkey(seed).id(), pair(seed).sign_octets(text.as_bytes()));
    SignedNote::new(text, vec![line])
}

fn request(old: u64, proof: Vec<Hash>, head: TreeHead) -> AddCheckpoint {
    AddCheckpoint::new(old, proof, signed(1, head)).unwrap()
}

fn status(request: &AddCheckpoint, stored: TreeHead) -> u16 {
    decide(&keys(), request, stored).status()
}

/// C2SP tlog-witness, the example of a request body.
const EXAMPLE: &str = "old 20852014\n\
    PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n\
    jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n\
    5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n\
    /6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\n\
    example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
    \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
    \u{2014} example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n";

#[test]
fn the_published_request_is_read_and_written_back() {
    let read = AddCheckpoint::parse(EXAMPLE.as_bytes()).unwrap();
    assert_eq!((read.old_size(), read.proof().len()), (20_852_014, 4));
    assert_eq!(
        (read.checkpoint().origin(), read.checkpoint().size()),
        (ORIGIN, 20_852_163)
    );
    assert_eq!(read.to_string(), EXAMPLE);
    assert_eq!(status(&read, TreeHead::empty()), 403, "its keys are not published");
}

#[test]
fn every_step_between_small_trees_is_cosigned_and_no_step_to_another_tree() {
    const MOST: u64 = 18;
    let (ours, other) = (Leaves::new(1, MOST), Leaves::new(2, MOST));
    for old in 0..=MOST {
        for new in old..=MOST {
            let proof = consistency(&ours, old, new).unwrap();
            let asked = request(old, proof.clone(), ours.head(new));
            let asked = AddCheckpoint::parse(asked.to_string().as_bytes()).unwrap();
            assert_eq!(decide(&keys(), &asked, ours.head(old)), Verdict::Cosign(ours.head(new)));
            // Whoever holds another tree of the old size takes it for no continuation, whatever the proof.
            if old > 0 {
                assert_eq!(status(&asked, other.head(old)), 422, "{old} {new}");
                let forged = request(old, consistency(&other, old, new).unwrap(), other.head(new));
                assert_eq!(status(&forged, ours.head(old)), 422, "{old} {new}");
                let mixed = request(old, proof, other.head(new));
                assert_eq!(status(&mixed, ours.head(old)), 422, "{old} {new}");
            }
        }
    }
}

#[test]
fn each_refusal_has_its_status() {
    let leaves = Leaves::new(1, 9);
    let proof = |old, new| consistency(&leaves, old, new).unwrap();
    let good = request(3, proof(3, 7), leaves.head(7));
    assert_eq!(status(&good, leaves.head(3)), 200);
    // 409 says what is stored, whether it is less or more.
    for stored in [0, 2, 4, 9] {
        assert_eq!(decide(&keys(), &good, leaves.head(stored)), Verdict::OtherSize(stored));
    }
    // A proof where none may be, and a size of nothing whose root is something.
    let stray = request(0, vec![empty_root()], leaves.head(7));
    assert_eq!(status(&stray, TreeHead::empty()), 422);
    let hollow = TreeHead {
        size: 0,
        root: leaves.head(1).root,
    };
    assert_eq!(status(&request(0, Vec::new(), hollow), TreeHead::empty()), 422);
    assert_eq!(
        status(&request(7, vec![empty_root()], leaves.head(7)), leaves.head(7)),
        422,
        "one size needs no proof"
    );
    // Keys: another one of the same log is as good, a foreign one is ignored, a bad line of a known one is not.
    let by = |seed, head| AddCheckpoint::new(3, proof(3, 7), signed(seed, head)).unwrap();
    assert_eq!(status(&by(2, leaves.head(7)), leaves.head(3)), 200);
    assert_eq!(status(&by(3, leaves.head(7)), leaves.head(3)), 403);
    let line = |seed, of: TreeHead| signed(seed, of).signatures()[0].clone();
    let with = |lines: Vec<NoteSignature>| {
        let note = SignedNote::new(text(leaves.head(7)), lines);
        status(&AddCheckpoint::new(3, proof(3, 7), note).unwrap(), leaves.head(3))
    };
    assert_eq!(with(vec![line(3, leaves.head(8)), line(1, leaves.head(7))]), 200);
    assert_eq!(with(vec![line(2, leaves.head(8)), line(1, leaves.head(7))]), 403);
    assert_eq!(with(vec![line(1, leaves.head(7)), line(1, leaves.head(8))]), 403);
    let elsewhere = good.to_string().replace(ORIGIN, "example.com/elsewhere");
    let elsewhere = AddCheckpoint::parse(elsewhere.as_bytes()).unwrap();
    assert_eq!(status(&elsewhere, leaves.head(3)), 404);
    assert_eq!(Verdict::Malformed(String::new()).status(), 400);
}

#[test]
fn malformed_requests_are_refused() {
    let leaves = Leaves::new(1, 9);
    let good = request(3, consistency(&leaves, 3, 7).unwrap(), leaves.head(7)).to_string();
    for (from, to) in [
        ("old 3\n", ""),
        ("old 3\n", "old 03\n"),
        ("old 3\n", "old  3\n"),
        ("old 3\n", "old +3\n"),
        ("old 3\n", "old 3 \n"),
        ("old 3\n", "old 3\r\n"),
        ("old 3\n", "old\t3\n"),
        ("old 3\n", "OLD 3\n"),
        ("old 3\n", "old 8\n"),
        ("old 3\n", "old 18446744073709551616\n"),
        ("old 3\n", "old 3\n\n"),
        ("old 3\n", "old 3\nAAAA\n"),
        ("old 3\n", "old 3\nnothing\n"),
        ("\n\n", "\n"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(AddCheckpoint::parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
    for end in 0..good.len() {
        assert!(AddCheckpoint::parse(&good.as_bytes()[..end]).is_err(), "cut at {end}");
    }
    assert!(AddCheckpoint::parse(&vec![b'a'; ADD_CHECKPOINT_BYTES_MAX + 1]).is_err());
    let many = |count| AddCheckpoint::new(3, vec![empty_root(); count], signed(1, leaves.head(7)));
    assert!(many(64).is_err());
    let most = many(63).unwrap().to_string();
    assert!(AddCheckpoint::parse(most.as_bytes()).is_ok());
    let line = format!("{}\n", STANDARD.encode(empty_root().as_bytes()));
    let over = most.replacen("old 3\n", &format!("old 3\n{line}"), 1);
    assert!(AddCheckpoint::parse(over.as_bytes()).is_err());
}

#[test]
fn an_answer_is_kept_only_when_its_line_verifies() {
    let leaves = Leaves::new(1, 9);
    let note = signed(1, leaves.head(7));
    let witness = |name: &str, seed| Cosigner::new(name, pair(seed)).unwrap();
    let (one, two) = (witness("w1", 7), witness("w2", 8));
    let at = |seconds| UnixTime::from_seconds(seconds);
    let line = |witness: &Cosigner, note: &SignedNote, seconds| witness.cosign(note, at(seconds)).unwrap();
    let answer = format!("{}\n{}\n", line(&two, &note, 5), line(&one, &note, 5));
    for (witness, name) in [(&one, "w1"), (&two, "w2")] {
        let kept = cosignature_in(answer.as_bytes(), &note, witness.key()).unwrap();
        assert_eq!(kept.name(), name);
        let merged = note.with_lines([kept]).unwrap();
        assert_eq!(witness.key().time_on(&merged).unwrap(), Some(at(5)));
    }
    let forged = line(&one, &signed(1, leaves.head(8)), 5);
    let timeless = line(&one, &note, 0);
    for bad in [
        String::new(),
        "\n".to_owned(),
        answer.trim_end().to_owned(),
        format!("{}\n", line(&two, &note, 5)),
        format!("{forged}\n"),
        format!("{timeless}\n"),
        format!("{}\n{forged}\n", line(&one, &note, 5)),
        format!("\n{answer}"),
        format!("{}\n\n{}\n", line(&two, &note, 5), line(&one, &note, 5)),
        format!("<html>\n{answer}"),
        "a".repeat(NOTE_BYTES_MAX + 1),
    ] {
        assert!(cosignature_in(bad.as_bytes(), &note, one.key()).is_err(), "{bad:?}");
    }
}

#[test]
fn sizes_are_plain_numbers() {
    assert_eq!(size_in(b"0\n").unwrap(), 0);
    assert_eq!(size_in(b"20852014\n").unwrap(), 20_852_014);
    for bad in [
        "",
        "\n",
        "1",
        "01\n",
        "-1\n",
        " 1\n",
        "1\n\n",
        "18446744073709551616\n",
        "1\r\n",
    ] {
        assert!(size_in(bad.as_bytes()).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_octets_never_panic_and_are_never_cosigned(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(read) = AddCheckpoint::parse(&body) {
            prop_assert_ne!(status(&read, TreeHead::empty()), 200);
        }
        let _ = size_in(&body);
        prop_assert!(cosignature_in(&body, &signed(1, TreeHead::empty()), Cosigner::new("w", pair(7)).unwrap().key()).is_err());
    }

    #[test]
    fn what_is_nearly_a_request_never_panics(body in "old [0-9]{0,3}\n([A-Za-z0-9+/=]{44}\n){0,3}\n(\\PC{0,9}\n){0,5}\n?(\u{2014} \\PC{0,40}\n){0,2}") {
        if let Ok(read) = AddCheckpoint::parse(body.as_bytes()) {
            prop_assert_eq!(AddCheckpoint::parse(read.to_string().as_bytes()).unwrap(), read);
        }
    }

    #[test]
    fn a_request_with_any_octet_altered_is_not_cosigned(at in any::<prop::sample::Index>(), bit in 0u8..8, old in 1u64..12) {
        let leaves = Leaves::new(1, 12);
        let good = request(old, consistency(&leaves, old, 12).unwrap(), leaves.head(12)).to_string();
        let mut octets = good.clone().into_bytes();
        let at = at.index(octets.len());
        octets[at] ^= 1 << bit;
        if let Ok(read) = AddCheckpoint::parse(&octets) {
            prop_assert_ne!(status(&read, leaves.head(old)), 200, "{}", read);
        }
    }

    #[test]
    fn arbitrary_proofs_cosign_nothing(old in 1u64..30, proof in proptest::collection::vec(any::<[u8; 32]>(), 0..64)) {
        let leaves = Leaves::new(1, 30);
        let fork = Leaves::new(2, 30);
        let proof = proof.into_iter().map(Hash::new).collect();
        prop_assert_eq!(status(&request(old, proof, fork.head(30)), leaves.head(old)), 422);
    }
}

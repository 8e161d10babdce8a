//! Sets of more entries than one command may change.

use super::*;

/// One file with entries of these numbers; the one named by `longer` lives longer.
fn write_set(dir: &Path, numbers: std::ops::Range<u32>, longer: Option<u32>) {
    let text: String = numbers
        .map(|n| {
            let ttl = if longer == Some(n) { "10m" } else { "5m" };
            format!(
                "[[entry]]\nname = \"w{n:04}\"\nspiffe_id = \"spiffe://dev.test/w/{n}\"\nagents = \
                 [\"spiffe://dev.test/mintage/agent/*\"]\nselectors = [\"unix:uid:1000\"]\nttl = \"{ttl}\"\n"
            )
        })
        .collect();
    fs::write(dir.join("all.toml"), text).unwrap();
}

fn sums(told: &Value) -> [u64; 4] {
    ["created", "updated", "deleted", "unchanged"].map(|field| told[field].as_u64().unwrap())
}

#[test]
fn a_set_of_any_size_is_applied_and_only_what_it_changes_counts() {
    let running = Running::new();
    let dir = running.dir.path().join("entries");
    fs::create_dir(&dir).unwrap();
    write_set(&dir, 0..1_100, None);
    let planned = running.json(0, "entry apply -f DIR/entries --dry-run");
    assert_eq!(sums(&planned), [1_100, 0, 0, 0]);
    assert!(running.json(0, "entry list")["entries"].as_array().unwrap().is_empty());
    let applied = running.json(0, "entry apply -f DIR/entries");
    assert_eq!(sums(&applied), [1_100, 0, 0, 0]);
    assert!(applied["index"].as_u64() >= Some(1_100), "{}", applied["index"]);
    assert_eq!(sums(&running.json(0, "entry apply -f DIR/entries")), [0, 0, 0, 1_100]);

    write_set(&dir, 0..1_100, Some(700));
    assert_eq!(sums(&running.json(0, "entry apply -f DIR/entries")), [0, 1, 0, 1_099]);
    write_set(&dir, 1..1_100, Some(700));
    assert_eq!(
        sums(&running.json(0, "entry apply -f DIR/entries --prune")),
        [0, 0, 1, 1_099]
    );

    // Nothing is half done where all must change together.
    write_set(&dir, 1..501, None);
    for more in ["", " --dry-run"] {
        let refused = running.expect(1, &format!("entry apply -f DIR/entries --prune{more}"));
        assert!(
            refused.notices.contains("599 deleted") && refused.notices.contains("without --prune first"),
            "{}",
            refused.notices
        );
    }
    assert_eq!(running.json(0, "ca status")["entries"], 1_099);
}

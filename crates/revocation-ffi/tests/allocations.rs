//! A warm question takes no memory, whether it is put to a view or to a map. It is held here, and not beside the filter, because
//! an allocator that counts is `unsafe` code.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod fixture;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
};

use fixture::{Fixture, Names, SORTS, fixture, questions};
use mintage_revocation::{Decision, FreshnessPolicy, MapOwner, MapReader, Query, Verdict, View};

/// Counts what this thread takes.
struct Counting;

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    TAKEN.with(|taken| taken.set(taken.get() + 1));
}

// SAFETY: everything is done by the system's allocator; counting touches no memory but the thread's counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` took memory.
fn taken(work: impl FnOnce()) -> u64 {
    let before = TAKEN.with(Cell::get);
    work();
    TAKEN.with(Cell::get) - before
}

/// As many of each sort.
const QUESTIONS: usize = 12 * SORTS;

fn ask(view: &View, queries: &[Query<'_>], fixture: &Fixture) -> [u64; 3] {
    let (mut verdicts, mut decisions) = (
        [Verdict::Stale; QUESTIONS],
        [Decision::Refuse(Verdict::Stale); QUESTIONS],
    );
    let policy = FreshnessPolicy::default();
    let single = taken(|| {
        for query in queries {
            black_box(view.check(query, fixture.now));
            black_box(view.decide(query, fixture.now, policy));
        }
    });
    let batch = taken(|| view.check_batch(queries, fixture.now, &mut verdicts));
    let decided = taken(|| view.decide_batch(queries, fixture.now, policy, &mut decisions));
    let revoked = verdicts
        .iter()
        .filter(|verdict| matches!(verdict, Verdict::Revoked { .. }));
    assert_eq!(
        revoked.count(),
        QUESTIONS / 2,
        "the questions reach the exact lines and the rules"
    );
    [single, batch, decided]
}

#[test]
fn a_warm_question_takes_no_memory() {
    let fixture = fixture();
    let names = Names::new();
    let queries = questions(&fixture, &names, QUESTIONS);
    let reader = MapReader::open(&fixture.path(), &fixture.domain, MapOwner::RootOrSelf).unwrap();
    let mapped = reader.view(fixture.now);
    // The first questions may set up what stays, such as this thread's place in the list of readers.
    ask(&mapped, &queries, &fixture);
    reader.check(&queries[0], fixture.now);
    assert_eq!(ask(&mapped, &queries, &fixture), [0; 3], "through the map");
    assert_eq!(
        ask(&fixture.view, &queries, &fixture),
        [0; 3],
        "in the process that follows"
    );
    let through_reader = taken(|| {
        for query in &queries {
            black_box(reader.check(query, fixture.now));
        }
    });
    assert_eq!(through_reader, 0, "with a look for a newer file each");
    assert_ne!(taken(|| drop(black_box(Box::new(1)))), 0, "the counter counts");
}

//! The C interface, called as C calls it.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod fixture;

use std::{
    ffi::{CString, c_char, c_int},
    path::Path,
    process::Command,
    ptr,
};

use fixture::{Fixture, ISSUER, fixture};
use mintage_identity::Serial;
use mintage_revocation_ffi as ffi;

fn open(path: &Path, domain: &str) -> (c_int, *mut ffi::MintageRevocation, String) {
    open_of(path, domain, -1)
}

fn open_of(path: &Path, domain: &str, owner: i64) -> (c_int, *mut ffi::MintageRevocation, String) {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let domain = CString::new(domain).unwrap();
    let mut map = ptr::null_mut();
    let mut error = [0_u8; 300];
    let (to, len) = (error.as_mut_ptr().cast::<c_char>(), error.len());
    // SAFETY: both texts are terminated; `map` and `error` may be written to.
    let code = unsafe { ffi::mintage_revocation_open(path.as_ptr(), domain.as_ptr(), owner, &raw mut map, to, len) };
    let end = error.iter().position(|&o| o == 0).unwrap();
    (code, map, String::from_utf8(error[..end].to_vec()).unwrap())
}

fn last_update(map: *const ffi::MintageRevocation) -> i64 {
    // SAFETY: null or an open handle.
    unsafe { ffi::mintage_revocation_last_update(map) }
}

/// The handle is used no more afterwards.
fn close(map: *mut ffi::MintageRevocation) {
    // SAFETY: null or an open handle, closed here once by every test.
    unsafe { ffi::mintage_revocation_close(map) }
}

fn open_nothing(out: *mut *mut ffi::MintageRevocation) -> c_int {
    // SAFETY: null is allowed; `out` is null or may be written to.
    unsafe { ffi::mintage_revocation_open(ptr::null(), ptr::null(), -1, out, ptr::null_mut(), 0) }
}

fn ask(map: *const ffi::MintageRevocation, query: *const ffi::MintageRevocationQuery, max_age_s: u32) -> c_int {
    // SAFETY: an open handle or null, and every pointer of the query has its length.
    unsafe { ffi::mintage_revocation_check(map, query, max_age_s) }
}

/// Asks with `change` made to an otherwise good query.
fn check(
    map: *const ffi::MintageRevocation,
    fixture: &Fixture,
    serial: &Serial,
    max_age_s: u32,
    change: impl FnOnce(&mut ffi::MintageRevocationQuery),
) -> c_int {
    let (id, spki) = ("spiffe://dev.test/web", [0_u8; 32]);
    let mut query = ffi::MintageRevocationQuery {
        size: size_of::<ffi::MintageRevocationQuery>(),
        issuer_key_id: ISSUER.as_bytes().as_ptr(),
        serial: serial.octets().as_ptr(),
        serial_len: serial.octets().len(),
        not_before_ms: fixture.now.millis(),
        not_after_ms: fixture.not_after.millis(),
        spiffe_id: id.as_ptr().cast(),
        spiffe_id_len: id.len(),
        spki_sha256: spki.as_ptr(),
    };
    change(&mut query);
    ask(map, &raw const query, max_age_s)
}

#[test]
fn a_map_answers_through_the_c_interface() {
    let fixture = fixture();
    let (code, map, error) = open(&fixture.path(), "dev.test");
    assert_eq!((code, error.as_str()), (ffi::GOOD, ""));
    assert_eq!(check(map, &fixture, &fixture.revoked, 600, |_| {}), ffi::REVOKED);
    assert_eq!(check(map, &fixture, &fixture.good, 600, |_| {}), ffi::GOOD);
    assert_eq!(check(map, &fixture, &fixture.good, 0, |_| {}), ffi::GOOD);
    // A CA certificate may have no SPIFFE ID; a DER serial may have a sign zero.
    assert_eq!(
        check(map, &fixture, &fixture.good, 0, |query| query.spiffe_id = ptr::null()),
        ffi::GOOD
    );
    let signed = [&[0], fixture.revoked.octets()].concat();
    let with_sign = |query: &mut ffi::MintageRevocationQuery| {
        (query.serial, query.serial_len) = (signed.as_ptr(), signed.len());
    };
    assert_eq!(check(map, &fixture, &fixture.good, 0, with_sign), ffi::REVOKED);
    let stranger = [9_u8; 32];
    let foreign = |query: &mut ffi::MintageRevocationQuery| query.issuer_key_id = stranger.as_ptr();
    assert_eq!(check(map, &fixture, &fixture.good, 600, foreign), ffi::NOT_COVERED);
    assert_eq!(last_update(map), fixture.now.millis());
    close(map);
}

#[test]
fn null_and_wrong_lengths_are_invalid_and_never_good() {
    let fixture = fixture();
    let (_, map, _) = open(&fixture.path(), "dev.test");
    type Change = fn(&mut ffi::MintageRevocationQuery);
    let changes: [Change; 9] = [
        |query| query.size = size_of::<ffi::MintageRevocationQuery>() - 1,
        |query| query.size = 0,
        |query| query.issuer_key_id = ptr::null(),
        |query| query.serial = ptr::null(),
        |query| query.spki_sha256 = ptr::null(),
        |query| query.serial_len = 0,
        |query| query.serial_len = usize::MAX,
        |query| query.spiffe_id_len = usize::MAX,
        |query| query.spiffe_id_len = 5,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        assert_eq!(
            check(map, &fixture, &fixture.good, 600, change),
            ffi::INVALID,
            "change {at}"
        );
    }
    assert_eq!(check(ptr::null(), &fixture, &fixture.good, 600, |_| {}), ffi::INVALID);
    assert_eq!(ask(map, ptr::null(), 600), ffi::INVALID);
    let mut results = [9; 2];
    let none = [ptr::null(); 2];
    // SAFETY: as many pointers and results as are named, and the refused calls look at none.
    let batch = |map, count| unsafe {
        ffi::mintage_revocation_check_batch(map, none.as_ptr(), count, 600, results.as_mut_ptr())
    };
    let mut batch = batch;
    assert_eq!(batch(ptr::null(), 2), ffi::INVALID);
    assert_eq!(batch(map, 65_537), ffi::INVALID);
    assert_eq!(results, [9; 2], "nothing was answered");
    assert_eq!(last_update(ptr::null()), i64::from(ffi::INVALID));
    close(ptr::null_mut());
    close(map);
    assert_eq!(open_nothing(ptr::null_mut()), ffi::INVALID);
    let mut out = ptr::dangling_mut();
    assert_eq!(open_nothing(&raw mut out), ffi::INVALID);
    assert!(out.is_null());
}

#[test]
fn a_missing_map_is_stale_and_a_foreign_one_refused() {
    let fixture = fixture();
    let (code, map, _) = open(&fixture.path().with_extension("none"), "dev.test");
    assert_eq!(code, ffi::GOOD);
    assert_eq!(check(map, &fixture, &fixture.good, u32::MAX, |_| {}), ffi::STALE);
    assert_eq!(last_update(map), 0);
    close(map);
    let (code, map, error) = open(&fixture.path(), "other.test");
    assert!(
        code == ffi::REFUSED && map.is_null() && error.contains("another trust domain"),
        "{error}"
    );
    let (code, map, error) = open(&fixture.path(), "Not A Domain");
    assert!(code == ffi::INVALID && map.is_null() && !error.is_empty(), "{error}");
}

#[test]
fn a_copied_map_is_anybodys_and_may_be_cut() {
    let fixture = fixture();
    let (code, map, error) = open_of(&fixture.path(), "dev.test", -2);
    assert_eq!((code, error.as_str()), (ffi::GOOD, ""));
    let file = std::fs::File::options().write(true).open(fixture.path()).unwrap();
    for len in [4_096, 0] {
        file.set_len(len).unwrap();
        assert_eq!(check(map, &fixture, &fixture.revoked, 600, |_| {}), ffi::REVOKED);
        assert_eq!(check(map, &fixture, &fixture.good, 600, |_| {}), ffi::GOOD);
    }
    close(map);
    let (code, map, _) = open_of(&fixture.path(), "dev.test", -2);
    assert!(code == ffi::REFUSED && map.is_null());
    let (code, map, error) = open_of(&fixture.path(), "dev.test", -3);
    assert!(code == ffi::INVALID && map.is_null() && error.contains("-3"), "{error}");
}

/// The C program, built against the header and the library.
fn c_program(fixture: &Fixture) -> Command {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exe = std::env::current_exe().unwrap();
    let libraries = exe.parent().unwrap();
    let program = fixture.dir.path().join("check");
    let built = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-o"])
        .arg(&program)
        .arg(package.join("tests/check.c"))
        .arg("-I")
        .arg(package.join("include"))
        .arg("-L")
        .arg(libraries)
        .arg(format!("-Wl,-rpath,{}", libraries.display()))
        .arg("-lmintage_revocation_ffi")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut program = Command::new(&program);
    program
        .arg(fixture.path())
        .args(["dev.test", &ISSUER.to_string()])
        .args([fixture.revoked.to_string(), fixture.good.to_string()])
        .env("NOT_AFTER_MS", fixture.not_after.millis().to_string());
    program
}

fn printed_by(program: &mut Command) -> String {
    let ran = program.output().unwrap();
    assert!(
        ran.status.success(),
        "{}: {}",
        ran.status,
        String::from_utf8_lossy(&ran.stderr)
    );
    String::from_utf8(ran.stdout).unwrap()
}

/// What the program prints of a revoked and a good certificate, and of both where there is no filter.
const ANSWERED: &str = "1 0 1 -1 1\n0 0 0 -1 0\n";
const UNANSWERED: &str = "2 0 2 -1 2\n2 0 2 -1 2\n";

#[test]
fn a_c_program_compiles_against_the_header_and_gets_the_same_answers() {
    let fixture = fixture();
    assert_eq!(printed_by(&mut c_program(&fixture)), format!("{ANSWERED}1\n"));
}

#[test]
fn a_map_that_is_cut_under_a_c_program_is_let_go_by_last_update_and_ends_nobody() {
    let fixture = fixture();
    let whole = fixture.dir.path().join("whole");
    std::fs::copy(fixture.path(), &whole).unwrap();
    let printed = printed_by(c_program(&fixture).env("WHOLE_COPY", whole));
    // A whole map in the place of the cut one is taken at once; where there is none, nothing is good.
    assert_eq!(printed, format!("{ANSWERED}1\n1\n{ANSWERED}0\n{UNANSWERED}"));
}

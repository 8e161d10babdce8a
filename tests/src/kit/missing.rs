//! What a test does without is said, never passed over. Crates below this one take this file by its path, so it needs
//! nothing but the standard library.

use std::io::Write;

/// None: something of a test's outside is not to be had, which is said.
///
/// # Panics
///
/// Under `CI=true` instead.
#[allow(unreachable_pub, reason = "whoever takes the file by its path has it for itself")]
pub fn missing<T>(what: &str, why: &str) -> Option<T> {
    let strict = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!strict, "{what}: {why}");
    println!("missing peer: {what}: {why}; this test proves nothing here");
    // The output of a test that passes is not seen: `cargo xtask test` tells what stands in this file.
    if let Some(file) = std::env::var_os("MINTAGE_DONE_WITHOUT") {
        let test = std::thread::current();
        let test = test.name().unwrap_or("a test");
        let opened = std::fs::File::options().create(true).append(true).open(&file);
        let told = opened.and_then(|mut file| file.write_all(format!("{what}: {why} ({test})\n").as_bytes()));
        told.expect("the file of what tests do without can be written");
    }
    None
}
